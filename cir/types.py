"""The vocabulary of the package: values that travel between its parts.

Letters in every docstring: B batch, N gallery, T tokens per image, D dims, L text length, H and W pixels.
Nothing here imports torch, faiss or h5py, so that the command line starts at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from cir.arrays import Floats
    from cir.conditions import Condition


Progress = Callable[[int, int], None]  # called with (done, total)


@dataclass(frozen=True)
class SimplexBlock:
    """The dims of a gallery vector that encode one attribute: `capacity` fixed vertices in `capacity - 1` dims.

    Attributes:
        name: the attribute, such as "colour".
        capacity: K, enough for current and future classes; the vertices depend on it, so it never changes.
        weight: the block's share of a vector's squared length, relative to the other blocks.
    """

    name: str
    capacity: int
    weight: int


@dataclass(frozen=True)
class Simplex:
    """A product of regular simplices, one per attribute, side by side in a gallery vector; the last dims are free.

    Models trained against the same vertices can be compared by these dims even if neither has seen the other
    (Biondi et al., CVPR 2024).

    Attributes:
        blocks: in the order of their dims.
        free_weight: weight of the free dims, relative to the blocks'.
        vertices_sha256: digest of all vertex matrices; two models must agree on it.
    """

    blocks: tuple[SimplexBlock, ...]
    free_weight: int
    vertices_sha256: str

    @property
    def dims(self) -> int:
        """How many dims the blocks take."""
        return sum(block.capacity - 1 for block in self.blocks)

    @property
    def offsets(self) -> dict[str, int]:
        """First dim of each block."""
        offsets, start = {}, 0
        for block in self.blocks:
            offsets[block.name] = start
            start += block.capacity - 1
        return offsets

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Simplex:
        """A simplex from the values of `dataclasses.asdict`."""
        blocks = tuple(SimplexBlock(**block) for block in values["blocks"])
        return cls(blocks, values["free_weight"], values["vertices_sha256"])


@dataclass(frozen=True)
class Space:
    """What makes vectors comparable: two vectors may be compared only when their spaces have the same id.

    Vectors are unit-norm and scored by the inner product; with tokens by the maximum over T.

    Attributes:
        dims: D, the length of a vector.
        model_digest: digest of the model that spans the space.
        simplex: the fixed vertices that the vectors are trained against, or None.
    """

    dims: int
    model_digest: str
    simplex: Simplex | None = None

    @cached_property
    def id(self) -> str:
        """SHA-256 (16 hex digits) of the canonical JSON: sorted keys, no floats, no nulls.

        Trained query heads are stored under this id, so its form is fixed.
        """
        content: dict[str, Any] = {
            "dims": self.dims,
            "model_digest": self.model_digest,
            "normalisation": "l2",
            "score": "dot",
        }
        if self.simplex is not None:
            content["simplex"] = {
                "blocks": [
                    {"name": block.name, "room": block.capacity, "weight": block.weight}
                    for block in self.simplex.blocks
                ],
                "free": self.simplex.free_weight,
                "vertices": self.simplex.vertices_sha256,
            }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Space:
        """A space from the values of `dataclasses.asdict`."""
        simplex = values.get("simplex")
        return cls(values["dims"], values["model_digest"], Simplex.from_json(simplex) if simplex else None)


@dataclass(frozen=True)
class ModelCard:
    """The identity of a model. Stored with the weights and in every index that holds its vectors.

    Attributes:
        name: immutable versioned name, such as "small-2".
        weights_sha256: digest of the weights file.
        preprocess_sha256: digest of the preprocessing settings; other pixels are another model.
        dims: D of vectors and tokens.
        tokens: T, tokens per image; 0 for a model without tokens.
        vector: whether the gallery encoder gives one vector per image.
        sum_weight: share of the image in the *sum* baseline, chosen once on held-out train data.
        min_scores: "composed" or "text" -> the score below which the best hit of such a query is reported as not
            confident: 5 % of answerable queries on held-out train data score lower. Empty if not calibrated.
        query_heads: id of each older space for which the model has a query head -> dims of that space.
        simplex: the fixed vertices that gallery vectors are trained against, or None.
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
    min_scores: Mapping[str, float] = field(default_factory=dict)
    query_heads: Mapping[str, int] = field(default_factory=dict)
    simplex: Simplex | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (16 hex digits) over the digests of weights and preprocessing."""
        return hashlib.sha256(f"{self.weights_sha256}:{self.preprocess_sha256}".encode()).hexdigest()[:16]

    @cached_property
    def space(self) -> Space:
        """The native space of this model's vectors, tokens and queries."""
        return Space(dims=self.dims, model_digest=self.digest, simplex=self.simplex)

    @property
    def classes_sha256(self) -> str:
        """SHA-256 (16 hex digits) of the class map; empty without one."""
        content = json.dumps({name: list(classes) for name, classes in self.classes.items()}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16] if self.classes else ""

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values, digests included."""
        plain = {
            "min_scores": dict(self.min_scores),
            "query_heads": dict(self.query_heads),
            "training": dict(self.training),
        }
        classes = {name: list(names) for name, names in self.classes.items()}
        return {
            **asdict(self),
            **plain,
            "classes": classes,
            "digest": self.digest,
            "classes_sha256": self.classes_sha256,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """A card from `to_json` values; the digests are always computed from the other fields."""
        fields = {key: value for key, value in values.items() if key not in ("digest", "classes_sha256")}
        if fields.get("simplex"):
            fields["simplex"] = Simplex.from_json(fields["simplex"])
        return cls(**fields)


@dataclass(frozen=True)
class Encoded:
    """What a gallery encoder returns for B images; at least one of the two fields is set.

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
        """The model's identity."""

    @property
    def directory(self) -> Path | None:
        """The model's folder, recorded in an index as a hint; None if it was not loaded from one."""

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> (3, H, W) float32 pixels; safe to call from several threads."""

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, H, W) float32 pixels from `preprocess` -> vectors and tokens; safe to call from several threads."""

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Entered around `workers` threads that call the encoder at once, to divide the cores among them."""


class QueryEncoder(Protocol):
    """Turns a reference and a caption into one vector, in the model's own space or an older one it has a head for."""

    @property
    def card(self) -> ModelCard:
        """The model's identity."""

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> (3, H, W) float32 pixels."""

    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, D) float32, unit-norm.

        Args:
            pixels: from `preprocess`.
            captions: relative captions.
            space: id of a space in `card.query_heads`; the model's own if None.
        """

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm; `space` as in `encode_queries`."""


@runtime_checkable
class ExposesQueryStates(Protocol):
    """A query encoder that exposes the input of its query heads, so that another head can be fitted on it."""

    def query_states(self, pixels: Floats, captions: Sequence[str]) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, width) float32."""

    def text_states(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, width) float32."""

    def project_states(self, states: Floats, space: str | None = None) -> Floats:
        """(B, width) -> (B, D) float32, unit-norm query vectors, by the native head or the head of an older space."""


@runtime_checkable
class TellsUnread(Protocol):
    """A query encoder that says which part of a caption it does not read."""

    def unread(self, caption: str) -> str:
        """The end of a caption that is too long; "" if all of it is read."""


class Encoder(GalleryEncoder, QueryEncoder, Protocol):
    """A model that encodes both queries and galleries, in one space."""


@dataclass(frozen=True)
class Query:
    """One composed query. At least one of `references` and `text` is given.

    Attributes:
        references: image files, gallery ids or decoded pictures; several are averaged.
        text: the relative caption, "in red, with long sleeves"; empty for "more like this". A caption of blanks alone
            is still composed with the reference: CIRR has such a query.
        negatives: captions of what is not wanted.
        k: number of hits.
        where: metadata conditions, all of which a hit meets: a `cir.conditions.Condition`, or a pair (column, value)
            for `column=value`.
        exclude: ids that may not be among the hits.
        id: copied into the result; for batches.
    """

    references: tuple[Any, ...] = ()
    text: str = ""
    negatives: tuple[str, ...] = ()
    k: int = 10
    where: tuple[Condition | tuple[str, str], ...] = ()
    exclude: frozenset[str] = frozenset()
    id: str | None = None


@dataclass(frozen=True)
class Hit:
    """One image of a ranking.

    Attributes:
        rank: from 1.
        id: in the gallery.
        score: cosine; storage in float16 may carry it 0.0005 past 1.
        path: its file, or None if the file is gone.
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
        query: the query.
        hits: best first; ties broken by id.
        searched: number of images compared.
        model: name of the model that serves the index.
        seconds: time spent per query, encoding included.
        confident: whether the best hit scores as high as right answers usually do (`ModelCard.min_scores`); None if
            unknown: a query without a caption or with negatives, or a model that was not calibrated.
        unsearched: number of images left out, because no validated mapping leads to their space.
        unread: the ends of the caption and of negatives that are longer than the model reads; empty if all was read.
    """

    query: Query
    hits: tuple[Hit, ...]
    searched: int
    model: str
    seconds: float
    confident: bool | None = None
    unsearched: int = 0
    unread: tuple[str, ...] = ()
