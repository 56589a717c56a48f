"""The identity of a model, and what makes its vectors comparable: the part of a model that every index stores."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from cir.errors import UsageError
from cir.typed_json import Matching, Printable, Within, from_json, to_json

if TYPE_CHECKING:
    from cir.arrays import Floats

Sha256 = Annotated[str, Matching("[0-9a-f]{64}")]
SpaceId = Annotated[str, Matching("[0-9a-f]{16}")]
Dims = Annotated[int, Within(1, 8192)]
Weight = Annotated[int, Within(0, 1_000_000)]
Name = Annotated[str, Printable(200)]
_DIGESTS = ("weights_sha256", "config_sha256", "vocabulary_sha256", "preprocess_sha256")
Composition = Literal["prompt", "joint", "sum", "slerp", "product", "combiner"]
APART = ("sum", "slerp", "product")  # picture and caption are encoded apart, and nothing was trained to join them


@dataclass(frozen=True)
class SimplexBlock:
    """The dims of a gallery vector that encode one attribute: `capacity` fixed vertices in `capacity - 1` dims.

    Attributes:
        name: the attribute, such as "colour".
        capacity: K, enough for current and future classes; the vertices depend on it, so it never changes.
        weight: the block's share of a vector's squared length, relative to the other blocks.
    """

    name: Name
    capacity: Annotated[int, Within(2, 1024)]
    weight: Weight


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

    blocks: Annotated[tuple[SimplexBlock, ...], Within(1, 64)]
    free_weight: Weight
    vertices_sha256: Sha256

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


@dataclass(frozen=True)
class Space:
    """What makes vectors comparable: two vectors may be compared only when their spaces have the same id.

    Vectors are unit-norm and scored by the inner product; with tokens by the maximum over T.

    Attributes:
        dims: D, the length of a vector.
        model_digest: digest of the model that spans the space: the first with this gallery side.
        simplex: the fixed vertices that the vectors are trained against, or None.
    """

    dims: Dims
    model_digest: SpaceId
    simplex: Simplex | None = None

    @cached_property
    def id(self) -> str:
        """SHA-256 (16 hex digits) of the canonical JSON: sorted keys, no floats.

        Trained query heads are stored under this id, so its form is fixed.
        """
        content = {**to_json(self), "normalisation": "l2", "score": "dot"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Space:
        """A space from the values of `dataclasses.asdict`. Raises ValueError (`typed_json.from_json`)."""
        return from_json(cls, values)


@dataclass(frozen=True)
class GalleryKind:
    """A kind of gallery that a model was calibrated on, such as product photos.

    Attributes:
        name: of the held-out gallery.
        centre: (D,) the mean of the vectors of its pictures, unit-norm, as base64 of little-endian float16.
        least_similarity: 95 % of its pictures have at least this cosine to the centre.
        min_scores: as those of `ModelCard`, for this kind alone.
    """

    name: Name
    centre: Annotated[str, Matching("[A-Za-z0-9+/]+={0,2}")]
    least_similarity: Annotated[float, Within(-1, 1)]
    min_scores: Mapping[str, Annotated[float, Within(-1, 1)]]

    @cached_property
    def vector(self) -> Floats:
        """The centre, (D,) float32, unit-norm. Raises ValueError where it cannot be that."""
        import numpy as np

        vector = np.frombuffer(base64.b64decode(self.centre), "<f2").astype(np.float32)
        norm = np.linalg.norm(vector)
        if not np.isfinite(norm) or norm == 0:
            raise ValueError(f"the centre of the gallery kind {self.name} is no vector")
        return np.asarray(vector / norm)

    @classmethod
    def of(cls, name: str, centre: Floats, least_similarity: float, min_scores: Mapping[str, float]) -> GalleryKind:
        """A kind with a centre (D,), unit-norm; figures to four digits."""
        rounded = {form: round(score, 4) for form, score in min_scores.items()}
        return cls(name, base64.b64encode(centre.astype("<f2").tobytes()).decode(), round(least_similarity, 4), rounded)


@dataclass(frozen=True)
class ModelCard:
    """The identity of a model. Stored with the weights and in every index that holds its vectors.

    The digest covers whatever decides a vector. What only describes or judges vectors is not in it: a model may be
    calibrated again, and its copy may have another name.

    Attributes:
        name: immutable versioned name, such as "small-2".
        weights_sha256: digest of the weights file, which holds that of the file of frozen tensors.
        config_sha256: digest of the configuration: sizes, heads, backbone, query heads, simplex.
        vocabulary_sha256: digest of the tokenizer's vocabulary.
        preprocess_sha256: digest of the preprocessing settings; other pixels are another model.
        dims: D of vectors and tokens.
        tokens: T, tokens per image; 0 for a model without tokens.
        vector: whether the gallery encoder gives one vector per image.
        composition: how reference and caption become one query. "prompt": SPRC's learned sentence prompt; "joint": the
            model reads both at once; "combiner": a network trained on the vectors of both; else image and text are
            encoded apart, and put together as `cir.compositions` says. It decides no stored vector.
        sum_weight: share of the image in "sum", "slerp" and "product", chosen once on held-out data.
        min_scores: "composed" or "text" -> the score below which the best hit of such a query is reported as not
            confident: 5 % of answerable queries on held-out train data score lower. Empty if not calibrated. Where a
            model was calibrated on several kinds of gallery, the lowest of all.
        gallery_kinds: those kinds, for a gallery of which it can be told (`cir.search.calibration`).
        query_heads: id of each older space for which the model has a query head -> dims of that space.
        simplex: the fixed vertices that gallery vectors are trained against, or None.
        classes: block of the simplex -> the classes on its vertices, in order. Successors only append.
        training: how it was trained: data, seed, steps, hours.
        architecture: of the network: "sprc", "clip", "siglip", "siglip2", "qwen3_vl" and so on.
        source: where its files are from: "hub_id", "revision" and "licence", as far as known.
        gallery_of: digest of the model whose gallery vectors are this model's too, because only its query side was
            trained further; None if its gallery is its own.
    """

    computed: ClassVar[tuple[str, ...]] = ("digest", "classes_sha256")

    name: Name
    weights_sha256: Sha256
    config_sha256: Sha256
    vocabulary_sha256: Sha256
    preprocess_sha256: Sha256
    dims: Dims
    tokens: Annotated[int, Within(0, 4096)]
    vector: bool
    composition: Composition = "prompt"
    sum_weight: Annotated[float, Within(0, 1)] = 0.5
    min_scores: Mapping[str, Annotated[float, Within(-1, 1)]] = field(default_factory=dict)
    gallery_kinds: tuple[GalleryKind, ...] = ()
    query_heads: Mapping[SpaceId, Dims] = field(default_factory=dict)
    simplex: Simplex | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    architecture: Name = "sprc"
    source: Mapping[str, Name] = field(default_factory=dict)
    gallery_of: SpaceId | None = None

    def __post_init__(self) -> None:
        for kind in self.gallery_kinds:
            if kind.vector.shape != (self.dims,):
                raise ValueError(f"the centre of the gallery kind {kind.name} has not {self.dims} dims")

    @cached_property
    def digest(self) -> str:
        """SHA-256 (16 hex digits) over the digests of weights, configuration, vocabulary and preprocessing."""
        parts = (self.weights_sha256, self.config_sha256, self.vocabulary_sha256, self.preprocess_sha256)
        return hashlib.sha256(":".join(parts).encode()).hexdigest()[:16]

    @cached_property
    def space(self) -> Space:
        """The native space of this model's vectors, tokens and queries."""
        return Space(dims=self.dims, model_digest=self.gallery_of or self.digest, simplex=self.simplex)

    @classmethod
    def named(cls, name: str, dims: int) -> ModelCard:
        """The card of a model of which only the name is known: its vectors are searched, but cir cannot encode with it.

        Its digest depends on the name alone, and so its space on name and dims: whoever comes to load this model later
        finds the same index.

        Args:
            name: such as "clip-vit-b-32"; 200 printable characters at most.
            dims: D of its vectors.

        Raises:
            UsageError: a name or dims that no card can have.
        """
        if name == "":
            raise UsageError("the name of the model is empty; write one, such as clip-vit-b-32")
        given = f"a model of which cir has only the name: {name}"
        digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()
        values = {"name": name, "dims": dims, "tokens": 0, "vector": True}
        try:
            return cls.from_json(values | dict.fromkeys(_DIGESTS, digest))
        except ValueError as error:
            raise UsageError(f"no such model: {error}") from None

    @property
    def only_named(self) -> bool:
        """Whether the card is one of `named`."""
        return self.digest == ModelCard.named(self.name, self.dims).digest

    @property
    def classes_sha256(self) -> str:
        """SHA-256 (16 hex digits) of the class map; empty without one."""
        content = json.dumps({name: list(classes) for name, classes in self.classes.items()}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16] if self.classes else ""

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values, digests included."""
        plain: dict[str, Any] = to_json(self)
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """A card from `to_json` values; digests that contradict its fields are refused.

        Raises:
            ValueError: see `typed_json.from_json`.
        """
        return from_json(cls, values)
