"""Encoded queries: one unit-norm vector per query and space, or two whose similarities are multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, unit
from cir.compositions import compose
from cir.errors import SpaceMismatchError, UsageError

Vectors = Mapping[str, Floats]  # id of a space -> (B, D) float32


@dataclass(frozen=True)
class QueryVectors:
    """B encoded queries, in every space that a gallery is searched in.

    They can be weighted and added, space by space; `Searcher.rank` and `Gallery.search` take them unit-norm.

    Attributes:
        by_space: id of a space -> (B, D) float32.
        texts: the second vectors of queries of two, in the same spaces: an image scores by the product of its
            similarities to both. Zero where one vector is the query; None if that is so of all.
        weight: share of the first vector in such a product, in [0, 1].
    """

    by_space: Vectors
    texts: Vectors | None = None
    weight: float = 0.5

    def __len__(self) -> int:
        return len(next(iter(self.by_space.values()), ()))

    def __getitem__(self, rows: Sequence[int] | slice) -> QueryVectors:
        """The queries at some rows."""
        firsts = {space: vectors[rows] for space, vectors in self.by_space.items()}
        texts = {space: vectors[rows] for space, vectors in (self.texts or {}).items()}
        several = any(vectors.any() for vectors in texts.values())
        return QueryVectors(firsts, texts if several else None, self.weight)

    def __add__(self, other: QueryVectors) -> QueryVectors:
        if not isinstance(other, QueryVectors):
            return NotImplemented
        if other.by_space.keys() != self.by_space.keys():
            raise SpaceMismatchError("vectors of other spaces cannot be added; encode both with the same index")
        if self.texts is not None or other.texts is not None:
            raise UsageError("queries of two vectors cannot be added; add those of the picture and of the text apart")
        return QueryVectors({space: vectors + other.by_space[space] for space, vectors in self.by_space.items()})

    def __mul__(self, weight: float) -> QueryVectors:
        return QueryVectors(
            {space: np.float32(weight) * vectors for space, vectors in self.by_space.items()}, self.texts, self.weight
        )

    __rmul__ = __mul__

    def unit(self) -> QueryVectors:
        """The same with unit norm in each space; zero vectors stay zero."""
        return QueryVectors(_unit(self.by_space), None if self.texts is None else _unit(self.texts), self.weight)

    @property
    def nonzero(self) -> Mask:
        """(B,) bool: False for a query that has no vector, a row of zeros."""
        rows: Mask = np.any([vectors.any(axis=1) for vectors in self.by_space.values()], axis=0)
        return rows

    @property
    def two(self) -> Mask:
        """(B,) bool: which queries have two vectors."""
        if self.texts is None:
            return np.zeros(len(self), np.bool_)
        rows: Mask = np.any([vectors.any(axis=1) for vectors in self.texts.values()], axis=0)
        return rows

    def slerp(self, texts: QueryVectors, weight: float) -> QueryVectors:
        """A point of the great circle from the captions' vectors to these, of pictures, row by row."""
        return QueryVectors(
            {
                space: compose(vectors, texts.by_space[space], "slerp", weight)
                for space, vectors in self.by_space.items()
            }
        )

    def product(self, texts: QueryVectors, weight: float) -> QueryVectors:
        """Queries of two vectors: these, of pictures, and those of their captions, row by row."""
        return QueryVectors(self.by_space, texts.by_space, weight)

    @classmethod
    def concatenate(cls, parts: Sequence[QueryVectors]) -> QueryVectors:
        """The queries of several batches in order; every batch is in the same spaces."""
        spaces, texts = parts[0].by_space, None
        with_two = [part for part in parts if part.texts is not None]
        if with_two:
            texts = {
                space: np.concatenate(
                    [part.texts[space] if part.texts else np.zeros_like(part.by_space[space]) for part in parts]
                )
                for space in spaces
            }
        firsts = {space: np.concatenate([part.by_space[space] for part in parts]) for space in spaces}
        return cls(firsts, texts, (with_two or parts)[0].weight)


def _unit(vectors: Vectors) -> dict[str, Floats]:
    return {space: unit(values) for space, values in vectors.items()}
