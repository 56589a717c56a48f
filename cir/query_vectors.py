"""Encoded queries: one unit-norm vector per query and space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, unit
from cir.errors import SpaceMismatchError


@dataclass(frozen=True)
class QueryVectors:
    """B encoded queries, in every space that a gallery is searched in.

    They can be weighted and added, space by space; `Searcher.rank` and `Gallery.search` take them unit-norm.

    Attributes:
        by_space: id of a space -> (B, D) float32.
    """

    by_space: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(next(iter(self.by_space.values()), ()))

    def __getitem__(self, rows: Sequence[int] | slice) -> QueryVectors:
        """The queries at some rows."""
        return QueryVectors({space: vectors[rows] for space, vectors in self.by_space.items()})

    def __add__(self, other: QueryVectors) -> QueryVectors:
        if not isinstance(other, QueryVectors):
            return NotImplemented
        if other.by_space.keys() != self.by_space.keys():
            raise SpaceMismatchError("vectors of other spaces cannot be added; encode both with the same index")
        return QueryVectors({space: vectors + other.by_space[space] for space, vectors in self.by_space.items()})

    def __mul__(self, weight: float) -> QueryVectors:
        return QueryVectors({space: np.float32(weight) * vectors for space, vectors in self.by_space.items()})

    __rmul__ = __mul__

    def unit(self) -> QueryVectors:
        """The same with unit norm in each space; zero vectors stay zero."""
        return QueryVectors({space: unit(vectors) for space, vectors in self.by_space.items()})

    @property
    def nonzero(self) -> Mask:
        """(B,) bool: False for a query that has no vector, a row of zeros."""
        rows: Mask = np.any([vectors.any(axis=1) for vectors in self.by_space.values()], axis=0)
        return rows

    @classmethod
    def concatenate(cls, parts: Sequence[QueryVectors]) -> QueryVectors:
        """The queries of several batches in order; every batch is in the same spaces."""
        spaces = parts[0].by_space
        return cls({space: np.concatenate([part.by_space[space] for part in parts]) for space in spaces})
