"""The vocabulary of the package: values that travel between its parts.

Letters in every docstring: B batch, N gallery, T tokens per image, D dims, L text length, H and W pixels.
Nothing here imports torch, faiss or h5py, so that the command line starts at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """What a vector says of one attribute: `room` fixed vertices, in `room - 1` dims.

    Attributes:
        name: the attribute, such as "colour".
        room: K, for the classes there are and those to come; the vertices depend on it, so it never changes.
        weight: the block's part of a vector's squared length, relative to the other blocks'.
    """

    name: str
    room: int
    weight: int


@dataclass(frozen=True)
class Simplex:
    """A product of simplices, side by side in a gallery vector; the dims behind them are anchored to nothing.

    Models that place the same classes on the same vertices can be compared by these dims without having met.

    Attributes:
        blocks: in the order of their dims.
        free: weight of the dims behind them.
        vertices: digest of all vertex matrices: what two models must agree on, whatever built them.
    """

    blocks: tuple[Block, ...]
    free: int
    vertices: str

    @property
    def dims(self) -> int:
        """How many dims are anchored."""
        return sum(block.room - 1 for block in self.blocks)

    @property
    def offsets(self) -> dict[str, int]:
        """Where the dims of each block begin."""
        found, offset = {}, 0
        for block in self.blocks:
            found[block.name] = offset
            offset += block.room - 1
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Simplex:
        """A simplex from the values of `dataclasses.asdict`."""
        return cls(tuple(Block(**block) for block in values["blocks"]), values["free"], values["vertices"])


@dataclass(frozen=True)
class Space:
    """What makes vectors comparable: two vectors may meet only when their spaces have the same id.

    Attributes:
        dims: D, the length of a vector.
        model_digest: digest of the weights that span the space.
        normalisation: "l2", unit length.
        score: "dot", the inner product; with tokens the maximum over T.
        simplex: what the vectors are anchored to, or None.
    """

    dims: int
    model_digest: str
    normalisation: str = "l2"
    score: str = "dot"
    simplex: Simplex | None = None

    @property
    def id(self) -> str:
        """SHA-256 (16 hex digits) of the canonical JSON: sorted keys, no floats, nothing that is None."""
        told = {key: value for key, value in asdict(self).items() if value is not None}
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ModelCard:
    """Who a model is. Stored with the weights and in every index that holds its vectors.

    Attributes:
        name: immutable versioned name, such as "small-2".
        weights_sha256: digest of the weights file.
        preprocess_sha256: digest of the preprocessing settings; other pixels are another model.
        dims: D of vectors and tokens.
        tokens: T, tokens per image; 0 where the model gives none.
        vector: whether the gallery encoder gives one vector per image.
        sum_weight: share of the image in the *sum* baseline, chosen once on held-out train data.
        floors: "composed" or "text" -> the score below which the best hit of such a query is called no fit: 5 % of
            answerable queries on held-out train data fall below it. Empty where it was not calibrated.
        query_heads: id of each older space that the model makes queries for too -> its dims.
        simplex: what the gallery's vectors are anchored to, or None.
        classes: block of the simplex -> the classes on its vertices, in order. Successors only append.
        training: how it was trained: data, seed, steps, hours.
    """

    name: str
    weights_sha256: str
    preprocess_sha256: str
    dims: int
    tokens: int
    vector: bool
    sum_weight: float = 0.5
    floors: Mapping[str, float] = field(default_factory=dict)
    query_heads: Mapping[str, int] = field(default_factory=dict)
    simplex: Simplex | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (16 hex digits) over weights and preprocessing: what decides the vectors, and nothing else."""
        return hashlib.sha256(f"{self.weights_sha256}:{self.preprocess_sha256}".encode()).hexdigest()[:16]

    @property
    def space(self) -> Space:
        """The native space of this model's vectors, tokens and queries."""
        return Space(dims=self.dims, model_digest=self.digest, simplex=self.simplex)

    @property
    def classes_sha256(self) -> str:
        """SHA-256 (16 hex digits) of the class map; empty where there is none."""
        told = json.dumps({name: list(classes) for name, classes in self.classes.items()}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16] if self.classes else ""

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values, digest included."""
        plain = {"floors": dict(self.floors), "query_heads": dict(self.query_heads), "training": dict(self.training)}
        classes = {name: list(each) for name, each in self.classes.items()}
        told = {**asdict(self), **plain, "classes": classes}
        return {**told, "digest": self.digest, "classes_sha256": self.classes_sha256}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """A card from `to_json` values; the digests are always computed from the others."""
        told = {key: value for key, value in values.items() if key not in ("digest", "classes_sha256")}
        if told.get("simplex"):
            told["simplex"] = Simplex.from_json(told["simplex"])
        return cls(**told)


@dataclass(frozen=True)
class Edge:
    """A measured way from the queries of a model to stored vectors of another space.

    Attributes:
        model: digest of the model that asks.
        space: id of the space of the stored vectors.
        route: "head", the model has a query head for the old space; "fitted", `matrix` and `bias` are one, fitted at
            the replacement on what its own heads project (`Trunk`); "transform", stored vectors are carried into the
            model's own space; "procrustes", query vectors are carried into the old one; "simplex", query vectors
            without what no simplex anchors; "encoder", the model that made the stored vectors makes queries for them.
        matrix: (D_to, D_from) float32 of what is carried: to = unit(matrix @ from + bias). None where nothing is.
        bias: (D_to,) float32, or None.
        slope, intercept: slope * score + intercept puts a score in the old space on the scale of the model's own.
        evidence: what was measured, and the verdict; plain JSON values.
    """

    model: str
    space: str
    route: str
    matrix: Floats | None = None
    bias: Floats | None = None
    slope: float = 1.0
    intercept: float = 0.0
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def carry(self, vectors: Floats) -> Floats:
        """(N, D_from) -> (N, D_to) float32, unit-norm."""
        import numpy as np

        assert self.matrix is not None  # heads and encoders carry nothing
        carried = vectors.astype(np.float32) @ self.matrix.T
        if self.bias is not None:
            carried = carried + self.bias
        unit: Floats = carried / np.maximum(np.linalg.norm(carried, axis=-1, keepdims=True), 1e-12)
        return unit


@dataclass(frozen=True)
class Encoded:
    """What a gallery encoder says of B images; at least one of the two is there.

    Attributes:
        vectors: (B, D) float32, unit-norm, or None.
        tokens: (B, T, D) float32, unit-norm, or None.
    """

    vectors: Floats | None
    tokens: Floats | None


class GalleryEncoder(Protocol):
    """Turns pictures into what an index stores."""

    @property
    def card(self) -> ModelCard:
        """Who makes the vectors."""

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> (3, H, W) float32 pixels; safe to call from several threads."""

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, H, W) float32 pixels from `preprocess` -> vectors and tokens; safe to call from several threads."""

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Entered around `workers` threads that call `encode_images` at once, to divide the cores among them."""


class QueryEncoder(Protocol):
    """Turns a reference and a caption into one vector, of the model's own space or an older one it has a head for."""

    @property
    def card(self) -> ModelCard:
        """Whose space the queries are in."""

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> (3, H, W) float32 pixels."""

    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, D) float32, unit-norm.

        Args:
            space: id of a space in `card.query_heads`; the model's own if None.
        """

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm; `space` as in `encode_queries`."""


@runtime_checkable
class Trunk(Protocol):
    """A query encoder that shows what its heads project, so that another head can be fitted on it."""

    def query_states(self, pixels: Floats, captions: Sequence[str]) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, width) float32."""

    def text_states(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, width) float32."""

    def project_states(self, states: Floats, space: str | None = None) -> Floats:
        """(B, width) -> (B, D) float32, unit-norm: the query vectors, by its own head or one for an older space."""


class Encoder(GalleryEncoder, QueryEncoder, Protocol):
    """A model that does both, in one space."""


@dataclass(frozen=True)
class Query:
    """One composed query. At least one of `references` and `text` is given.

    Attributes:
        references: image files, gallery ids or decoded pictures; several are averaged.
        text: the relative caption, "in red, with long sleeves"; empty for "more like this". One of blanks alone is a
            caption that says nothing, and is composed with the reference: CIRR has such a query.
        negatives: captions of what is not wanted.
        k: how many hits.
        where: metadata conditions, every one of which a hit must meet.
        exclude: ids that may not be among the hits.
        id: echoed in the result; for batches.
    """

    references: tuple[Any, ...] = ()
    text: str = ""
    negatives: tuple[str, ...] = ()
    k: int = 10
    where: tuple[tuple[str, str], ...] = ()
    exclude: frozenset[str] = frozenset()
    id: str | None = None


@dataclass(frozen=True)
class Hit:
    """One image of a ranking.

    Attributes:
        rank: from 1.
        id: in the gallery.
        score: cosine; storage in float16 may carry it 0.0005 past 1.
        path: where its file is, or None when it is no longer there.
        metadata: column -> value.
    """

    rank: int
    id: str
    score: float
    path: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """The answer to one query.

    Attributes:
        query: the query as asked.
        hits: best first; ties broken by id.
        searched: how many images were compared.
        model: name of the model that answered.
        seconds: time spent, encoding included.
        unsearched: how many images were left out, because nothing measured leads to their space.
        fits: whether the best hit scores as answers usually do (`ModelCard.floors`); None where nothing is known of it:
            without a caption, with negatives, or with a model that was not calibrated.
    """

    query: Query
    hits: tuple[Hit, ...]
    searched: int
    model: str
    seconds: float
    fits: bool | None = None
    unsearched: int = 0
