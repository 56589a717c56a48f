"""The vocabulary of the package: values that travel between its parts.

Letters in every docstring: B batch, N gallery, T tokens per image, D dims, L text length, H and W pixels.
Nothing here imports torch, faiss or h5py, so that the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cir.model_card import ModelCard as ModelCard
from cir.model_card import Simplex as Simplex
from cir.model_card import SimplexBlock as SimplexBlock
from cir.model_card import Space as Space
from cir.query import Query as Query

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from cir.arrays import Floats


DEFAULT_RECALL = 0.99  # share of the best images that an approximate search must find
Progress = Callable[[int, int], None]  # called with (done, total)


@dataclass(frozen=True)
class Encoded:
    """What a gallery encoder returns for B images; at least one of the two fields is set.

    Attributes:
        vectors: (B, D) float32, unit-norm, or None.
        tokens: (B, T, D) float32, unit-norm, or None.
    """

    vectors: Floats | None
    tokens: Floats | None


class TakesPictures(Protocol):
    """What gallery and query encoders have in common."""

    @property
    def card(self) -> ModelCard:
        """The model's identity."""

    @property
    def min_side(self) -> int | None:
        """How large a decoded picture needs to be, in width and height, for `decode`; None if it is never reduced."""

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> float32 pixels of one shape, (3, H, W) in most models; safe in several threads."""


class GalleryEncoder(TakesPictures, Protocol):
    """Turns pictures into what an index stores."""

    @property
    def directory(self) -> Path | None:
        """The model's folder, which this user's record keeps; None if it was not loaded from one."""

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, H, W) float32 pixels from `preprocess` -> vectors and tokens; safe to call from several threads."""

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Entered around `workers` threads that call the encoder at once, to divide the cores among them."""


@runtime_checkable
class QueryEncoder(TakesPictures, Protocol):
    """Turns a reference and a caption into one vector, in the model's own space or an older one it has a head for."""

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
        damaged: number of images left out, because their part of the index is damaged (`cir repair`).
        unread: the ends of the caption and of negatives that are longer than the model reads; empty if all was read.
        coverage: share of the gallery that was searched; below 1 where a part of a gallery that is spread over several
            processes (`cir serve --ray`) did not answer in time.
    """

    query: Query
    hits: tuple[Hit, ...]
    searched: int
    model: str
    seconds: float
    confident: bool | None = None
    unsearched: int = 0
    unread: tuple[str, ...] = ()
    damaged: int = 0
    coverage: float = 1.0
