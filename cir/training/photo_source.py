"""Pictures with their items and features, to train on and to validate on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, ImageDecodeError
from cir.images import ImageFile, Preprocess, decode
from cir.training.triplet_sampling import ItemTable, SampledTriplet

if TYPE_CHECKING:
    from PIL.Image import Image


class ComputesFeatures(Protocol):
    """What turns the pictures of a source into features; a `FeatureStore` is one. `folder` is where it stores them."""

    @property
    def folder(self) -> Path:
        """Of its files."""

    def compute(
        self, name: str, count: int, pixels: Callable[[Preprocess, int], Floats]
    ) -> tuple[Stored, dict[str, Stored]]:
        """(N, P, W) features of `count` pictures, and id of each older space -> (N, T, D); see `FeatureStore`."""


@dataclass(frozen=True, eq=False)  # one is itself alone, and can be a key
class PhotoSource:
    """Pictures of one origin, and the table of their items.

    Attributes:
        name: of the origin.
        table: the items.
        maps: (N, P, W) float16 feature maps; behind those of the pictures come those of the other views of trainable
            ones, view by view. With several views the trainable items come first in the table and in `maps`.
        places: (rows of the table,) row of `maps`, or -1 for an item without a picture.
        trainable: (rows of the table,) bool, the items to train on.
        kinds: kinds of changes in one caption -> their share.
        older: id of each older space -> (N, T, D) float16, unit-norm, the gallery of its model.
        views: number of views of each trainable picture; the first is the picture as it is.
    """

    name: str
    table: ItemTable
    maps: Stored
    places: Rows
    trainable: Mask
    kinds: Mapping[tuple[str, ...], float]
    older: Mapping[str, Stored] = field(default_factory=dict)
    views: int = 1

    def sample(self, count: int, rng: random.Random) -> Iterator[SampledTriplet]:
        """`count` random triplets of trainable items."""
        rows = np.flatnonzero(self.trainable)
        sets, shares = list(self.kinds), list(self.kinds.values())
        while count:
            reference, kinds = int(rows[rng.randrange(len(rows))]), rng.choices(sets, shares)[0]
            triplet = self.table.sample(reference, kinds, self.trainable, rng)
            if triplet is not None:
                count -= 1
                yield triplet

    def maps_at(self, rows: Sequence[int], numbers: np.random.Generator | None = None) -> Rows:
        """(B,) rows of `maps` for rows of the table: the pictures, or random views of them where they are trainable."""
        places = self.places[list(rows)]
        if numbers is None or self.views == 1:
            return places
        trained = int(self.trainable.sum())
        pictures = len(self.maps) - (self.views - 1) * trained
        chosen = numbers.integers(self.views, size=len(places)) * self.trainable[list(rows)]
        return np.where(chosen, pictures + (chosen - 1) * trained + places, places)

    def maps_of(self, rows: Sequence[int]) -> Stored:
        """(B, P, W) float16 feature maps of rows of the table."""
        return self.maps[self.places[list(rows)]]

    def older_of(self, space: str, rows: Sequence[int]) -> Stored:
        """(B, T, D) float16, unit-norm: the gallery of an older space, for rows of the table."""
        return self.older[space][self.places[list(rows)]]


@dataclass(frozen=True)
class HeldOut:
    """A gallery of products that are never trained on, and queries over it; checkpoints are chosen by them.

    Attributes:
        source: of the pictures.
        ids: of the gallery's images.
        rows: (N,) their rows in the source's table.
        queries: with captions.
        descriptions: captions that each describe one image, whose place in `ids` stands beside it.
    """

    source: PhotoSource
    ids: Sequence[str]
    rows: Rows
    queries: Sequence[JudgedQuery]
    descriptions: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class AttributeData:
    """What the task `attributes` trains and validates on.

    Attributes:
        sources: to train on.
        held_out: the galleries to validate on; the first also gives the figures for the model's card.
    """

    sources: Sequence[PhotoSource]
    held_out: Sequence[HeldOut]


@dataclass(frozen=True)
class ProductPixels:
    """Reads product photos by number.

    Attributes:
        files: product id -> its photo.
        order: the ids in the order of their numbers.
    """

    files: Mapping[str, ImageFile]
    order: Sequence[str]

    def __call__(self, preprocess: Preprocess, number: int) -> Floats:
        """The pixels of one photo, (3, H, W) float32. Raises DataError for one that cannot be read."""
        return preprocess(decoded(self.files[self.order[number]], preprocess))


def decoded(image: ImageFile, preprocess: Preprocess) -> Image:
    """A picture for training. Raises DataError for one that cannot be read."""
    try:
        return decode(image.read(), image.id, preprocess.min_side)
    except (ImageDecodeError, OSError) as error:
        raise DataError(f"{image.id}: cannot be read for training: {error}") from error
