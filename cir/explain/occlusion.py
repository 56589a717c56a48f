"""Occlusion: a picture is covered piece by piece, and what happens to the score says to which pieces it reacts.

It asks nothing of a model but that it encodes pictures. All coverings of a picture are encoded in one batch, and scored
as a search scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cir.arrays import Floats
from cir.explain.explanation import HeatMap, scaled
from cir.threads import map_batches
from cir.types import Encoded

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.indexer.reading.stored_image import StoredImage
    from cir.query_vectors import QueryVectors
    from cir.search import Searcher
    from cir.types import GalleryEncoder, Query

NAME = "occlusion"
GRID = 7  # cells of a picture in height and width
LARGEST_GRID = 32
REACH = 0.25  # how far a covering goes beyond its cell on each side, in cells
BATCH = 16  # pictures that one thread encodes at once


@dataclass(frozen=True)
class Occlusion:
    """Maps by covering.

    Attributes:
        searcher: of one generation of the index.
        grid: cells in height and width.
    """

    searcher: Searcher
    grid: int = GRID

    def over_references(
        self, query: Query, pictures: Mapping[int, Image], images: Sequence[StoredImage]
    ) -> list[dict[int, HeatMap]]:
        """For each of some images the maps of its score over the references.

        Args:
            query: the query.
            pictures: of the references, by number.
            images: hits.
        """
        covers = [
            replace(query, references=(*query.references[:number], copy, *query.references[number + 1 :]))
            for number, picture in pictures.items()
            for copy in (picture, *covered(picture, self.grid))
        ]
        scores = self.searcher.gallery.scores(self.searcher.encode(covers), [image.id for image in images])
        by_picture = scores.T.reshape(len(images), len(pictures), 1 + self.grid**2)
        return [{number: self._heat(row) for number, row in zip(pictures, rows, strict=True)} for rows in by_picture]

    def over_hit(self, image: StoredImage, picture: Image, queries: QueryVectors) -> list[HeatMap]:
        """For each query the map of the image's score over its photo."""
        encoder = self.searcher.encoder_of(self.searcher.gallery.manifest.maker(image.space))
        encoded = _encode(encoder, [picture, *covered(picture, self.grid)])
        return [self._heat(row) for row in self.searcher.gallery.scores(queries, image.id, instead=encoded)]

    def _heat(self, scores: Floats) -> HeatMap:
        """The map of 1 + grid x grid scores: of a picture, and of its coverings."""
        moves = (scores[0] - scores[1:]).reshape(self.grid, self.grid)
        return scaled(moves, NAME, float(scores[0]))


def covered(picture: Image, grid: int) -> list[Image]:
    """Copies of a picture in RGB, in each of which one of grid x grid cells is covered by a blur, row by row."""
    from PIL import ImageFilter

    cover = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / grid))
    copies = []
    for top, bottom in _cells(picture.height, grid):
        for left, right in _cells(picture.width, grid):
            copy = picture.copy()
            copy.paste(cover.crop((left, top, right, bottom)), (left, top))
            copies.append(copy)
    return copies


def _cells(side: int, grid: int) -> list[tuple[int, int]]:
    """From where to where coverings reach along one side of a picture."""
    ends = [(max(0.0, place - REACH), min(float(grid), place + 1 + REACH)) for place in range(grid)]
    return [(round(start * side / grid), round(stop * side / grid)) for start, stop in ends]


def _encode(encoder: GalleryEncoder, pictures: Sequence[Image]) -> Encoded:
    def encode(rows: slice) -> Encoded:
        return encoder.encode_images(np.stack([encoder.preprocess(picture) for picture in pictures[rows]]))

    parts = map_batches(encode, len(pictures), BATCH, encoder.shared_by)
    vectors = [part.vectors for part in parts if part.vectors is not None]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return Encoded(np.concatenate(vectors) if vectors else None, np.concatenate(tokens) if tokens else None)
