"""The shapes of requests and responses, for the OpenAPI document. Tests hold every answer against them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(description="The id of an image: its path relative to the folder that was indexed.")]
SomeId = Annotated[Id, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=2000)]
Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    """An object with these members and no others."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shape):
    """What is wrong with a request (RFC 9457)."""

    type: str = Field(description="urn:cir: and the name of an error.", pattern="^urn:cir:")
    title: str
    status: int
    detail: str = Field(description="One line for a person: the one that the command line prints.")
    request: str = Field(description="The request's id in the server's log.")


class UploadReference(Shape):
    """A picture that was uploaded before."""

    upload: Sha256


Reference = Id | UploadReference
Where = Annotated[
    str | dict[str, Any] | list[str | dict[str, Any]] | None,
    Field(description='Conditions on metadata: "colour=red and price<50", {"colour": ["red", "pink"]}, or a list.'),
]


class SearchRequest(Shape):
    """A query: references, a text, or both."""

    references: Annotated[list[Reference], Field(max_length=10)] | Reference = []
    text: Text = ""
    negatives: Annotated[list[Text], Field(max_length=10)] | Text = []
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=4999)] = 0
    where: Where = None
    exclude: list[Id] | Id = []
    exact: bool = False
    generation: Annotated[int, Field(ge=1, lt=10**9)] | None = None
    id: str | None = None


class SearchForm(Shape):
    """The same as a form; file parts named references are pictures, text parts are ids."""

    references: list[str] = Field(
        [], max_length=10, json_schema_extra={"items": {"type": "string", "format": "binary"}}
    )
    text: Text = ""
    negatives: Annotated[list[Text], Field(max_length=10)] = []
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=4999)] = 0
    where: Annotated[list[str], Field(max_length=50)] = []
    exclude: Annotated[list[str], Field(max_length=100)] = []
    exact: bool = False
    generation: Annotated[int, Field(ge=1, lt=10**9)] = 1
    id: str = ""


class BatchRequest(Shape):
    """Queries that are answered together."""

    queries: Annotated[list[SearchRequest], Field(min_length=1, max_length=256)]


class Image(Shape):
    """An image of the gallery."""

    id: Id
    metadata: dict[str, str]
    photo: bool = Field(description="Whether there is a photo to show.")
    image: str | None
    thumbnail: str | None


class Hit(Image):
    """An image of a ranking."""

    rank: Annotated[int, Field(ge=1)]
    score: float
    confident: bool | None
    model: str = Field(description="The model that made its vector.")
    older: bool = Field(description="Whether that is a model before the one that serves.")
    route: str | None = Field(description="The mapping by which it was reached, if it is older.")
    generation: int = Field(description="The earliest kept generation that holds its vector.")


class QueryEcho(Shape):
    """The query of an answer; it can be sent again."""

    references: list[Reference]
    text: str
    negatives: list[str]
    where: list[str]
    k: int
    offset: int
    exact: bool


class Answer(Shape):
    """Hits, best first."""

    id: str | None
    query: QueryEcho
    hits: list[Hit]
    confident: bool | None = Field(description="Whether the best hit scores as high as right answers usually do.")
    floor: float | None
    more: bool
    searched: Count
    unsearched: Count
    damaged: Count
    coverage: float = Field(ge=0, le=1, description="Share of the gallery that was searched; 1 unless it is spread.")
    unread: list[str]
    model: str
    generation: int
    seconds: float


class Failure(Shape):
    """A query of a batch that could not be answered."""

    id: str | None
    problem: Problem


class BatchAnswer(Shape):
    """Answers in the order of their queries."""

    answers: list[Answer | Failure]


class UploadForm(Shape):
    """Pictures."""

    images: list[str] = Field(
        min_length=1, max_length=10, json_schema_extra={"items": {"type": "string", "format": "binary"}}
    )


class Upload(Shape):
    """A picture that is kept for later searches."""

    upload: Sha256
    bytes: Count
    same: list[Id] = Field(description="Images of the gallery with the same content.")
    preview: str


class UploadsAnswer(Shape):
    """What was uploaded, in order."""

    uploads: list[Upload]


class RandomAnswer(Shape):
    """Some images of the gallery."""

    seed: int
    generation: int
    images: list[Image]


class ColumnValue(Shape):
    """A value of a column, and how many images have it."""

    value: str
    count: Count


class Column(Shape):
    """What a metadata column holds."""

    name: str
    kind: Literal["values", "numbers", "texts"]
    images: Count
    missing: Count
    distinct: int | None
    values: list[ColumnValue]
    more: Count
    minimum: float | None
    maximum: float | None


class ColumnsAnswer(Shape):
    """The metadata columns of a generation."""

    generation: int
    columns: list[Column]


class Generation(Shape):
    """A generation that can be searched."""

    generation: int
    created: str
    model: str
    digest: str
    images: Count
    live: bool
    same_model: bool


class Model(Shape):
    """The model that serves."""

    name: str
    digest: str
    architecture: str
    composition: str
    weight: float | None
    dims: int
    tokens: int
    source: dict[str, str]


class Info(Shape):
    """What the index holds."""

    name: str
    version: str
    generation: int
    created: str
    images: Count
    searched: Count
    damaged: Count
    model: Model
    queries: bool
    compositions: list[str]
    min_scores: dict[str, float]
    replaced: bool
    generations: list[Generation]
    columns: list[str]
    explain: bool
    pools: bool
    problem: str
    limits: dict[str, float]


class MarksAnswer(Shape):
    """How many marks there are, and what they are good for."""

    marks: Count
    queries: Count
    answered: Count
    gone: Count
    needed: Count
    good_for: str


class MarkedQuery(Shape):
    """The query that marks are about."""

    references: Annotated[list[Reference], Field(max_length=10)] | Reference = []
    text: Text = ""


class MarkRequest(MarkedQuery):
    """What a person says of one hit."""

    image: SomeId
    right: bool
    generations: Annotated[list[Annotated[int, Field(ge=1, lt=10**9)]], Field(max_length=10)] = []
    pool: bool = False


class UnmarkRequest(MarkedQuery):
    """A mark that is taken back."""

    image: SomeId
    generations: Annotated[list[Annotated[int, Field(ge=1, lt=10**9)]], Field(max_length=10)] = []
    pool: bool = False


class Judged(Shape):
    """What has been said of a query's images."""

    right: list[Id]
    wrong: list[Id]
    markable: bool
    reason: str


class PoolRequest(MarkedQuery):
    """The first hits of several generations, to be judged."""

    generations: Annotated[list[Annotated[int, Field(ge=1, lt=10**9)]], Field(min_length=1, max_length=3)]
    k: Annotated[int, Field(ge=1, le=100)] = 10


class PoolAnswer(Shape):
    """Images to judge, shuffled."""

    images: list[Image]
    judged: Count
    generations: list[int]


class Pool(Shape):
    """A marked query whose first ten of both models wait for a judgement."""

    references: list[Id]
    text: str
    images: list[Image]


class PoolsAnswer(Shape):
    """What is left to judge before marks can decide about a new model."""

    state: Literal["computing", "ready", "failed"]
    detail: str
    model: str
    left: Count
    pools: list[Pool]


class Health(Shape):
    """That the server runs."""

    status: Literal["ok"]


class Ready(Shape):
    """That it answers."""

    status: Literal["ready"]
    generation: int


class SessionRequest(Shape):
    """The token, for a cookie."""

    token: str
