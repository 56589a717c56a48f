"""What the routes are fitted and measured on: the same images and the same questions, seen by two models.

Letters: Q anchors, N images of the sample, D dims of the old space, E dims of the new one, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Study:
    """Both models over one sample of a gallery. All vectors float32 and unit-norm.

    Attributes:
        old_gallery: (N, D) stored vectors, or (N, T, D) tokens where there are no vectors.
        new_gallery: (N, E) or (N, T, E) of the new model.
        old_queries: (Q, D) by the model that made the stored vectors, or None where it is not here any more.
        new_queries: (Q, E).
        head_queries: (Q, D) of the new model's head for the old space, or None where it has none.
        current: (Q, N) scores as the index gives them now.
        references: (Q,) row of each reference, -1 for none; it is never an answer.
        right: (Q, N) which images answer.
        fit: (Q,) the anchors that fits may see; the others are measured.
        slices: name -> (Q,) the anchors that belong to it.
        anchored: how many dims, the first ones, the simplex of both spaces anchors; 0 where they share none.
        new_states: (Q, width) what the new model's own heads project, or None where it does not show that.
    """

    old_gallery: Floats
    new_gallery: Floats
    old_queries: Floats | None
    new_queries: Floats
    head_queries: Floats | None
    current: Floats
    references: Rows
    right: Bools
    fit: Bools
    slices: Mapping[str, Bools]
    anchored: int = 0
    new_states: Floats | None = None

    @cached_property
    def fit_images(self) -> Rows:
        """(n,) rows that fits may see: neither reference nor answer of an anchor that is measured."""
        seen: Bools = np.any(self.right[~self.fit], axis=0)
        asked = self.references[~self.fit]
        seen[asked[asked >= 0]] = True
        return np.flatnonzero(~seen)

    @cached_property
    def native(self) -> Floats:
        """(Q, N) scores of the new model on its own vectors: what encoding everything again would give."""
        return scores(self.new_queries, self.new_gallery)

    def found(self, given: Floats, k: int) -> Bools:
        """(n,) whether an answer is among the first k by (Q, N) scores, for each anchor that is measured."""
        return answered(self, given, k)[~self.fit]


def answered(study: Study, given: Floats, k: int) -> Bools:
    """(Q,) whether an answer is among the first k by (Q, N) scores; images of score -inf are not searched."""
    order = ranked(given, study.references, k)
    right = study.right & np.isfinite(given)
    hits: Bools = np.any(np.take_along_axis(right, order, axis=1), axis=1)
    return hits


def halves(questions: Sequence[str], rng: np.random.Generator) -> Bools:
    """(Q,) about half of the anchors, for fitting; those that ask the same stay together.

    Args:
        questions: for each anchor what it is about, such as its reference: two captions about one picture are too much
            alike for one to say anything of a map that was fitted on the other.
        rng: draws the half.
    """
    names, number = np.unique(questions, return_inverse=True)
    place = rng.permutation(len(names))[number]
    sizes = np.cumsum(np.bincount(place, minlength=len(names)))
    fit: Bools = sizes[place] <= len(questions) // 2
    if not fit.any():  # nearly all ask about one picture: the rarest others are all there is to fit on
        fit = number == np.argmin(np.bincount(number))
    return fit


def scores(queries: Floats, gallery: Floats) -> Floats:
    """(Q, D) against (N, D) or the best of (N, T, D) -> (Q, N) float32."""
    if gallery.ndim == 2:
        plain: Floats = queries @ gallery.T
        return plain
    best: Floats = np.stack([(gallery @ query).max(axis=1) for query in queries])
    return best


def ranked(given: Floats, references: Rows, k: int) -> Rows:
    """(Q, N) scores -> (Q, k) rows, best first, ties by row; references are left out."""
    given = given.copy()
    asked = np.flatnonzero(references >= 0)
    given[asked, references[asked]] = -np.inf
    order: Rows = np.argsort(-given, axis=1, kind="stable")[:, :k]
    return order
