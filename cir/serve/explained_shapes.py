"""The shapes of explanations."""

from __future__ import annotations

from cir.serve.shapes import Id, Image, SearchRequest, Shape, SomeId


class ExplainRequest(SearchRequest):
    """A query, and the image that it is about."""

    hit: SomeId


class HeatMap(Shape):
    """Where a score reacts: cells of equal size over the upright whole picture, row by row, from 0 to 1."""

    values: list[list[float]]
    strongest: float
    method: str
    score: float


class Measured(Shape):
    """What the image scores, and the share of the gallery that scores lower."""

    score: float
    above: float


class Part(Shape):
    """A part of a query: without it, and alone."""

    kind: str
    number: int
    without: Measured | None
    alone: Measured | None
    difference: float | None


class Line(Measured):
    """A part in words."""

    label: str
    change: str


class Maps(Shape):
    """Maps over the references and the image; of the words alone, over the image."""

    references: list[HeatMap | None]
    hit: HeatMap | None
    words: HeatMap | None


class Overlays(Shape):
    """The same as PNG data URLs, to be laid over the pictures."""

    references: list[str | None]
    hit: str | None
    words: str | None


class Explained(Shape):
    """What the score of an image reacts to, and how it moves with parts of the query left out."""

    id: Id
    hit: Image
    score: float
    above: float
    references: list[str | None]
    text: str
    negatives: list[str]
    model: str
    made_by: str
    method: str | None
    maps: Maps
    overlays: Overlays
    parts: list[Part]
    lines: list[Line]
    honest: str
    notes: list[str]
    seconds: float
