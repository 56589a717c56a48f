"""The same images and the same judged queries, encoded by two models: what routes are fitted and measured on.

Letters: Q queries, N images of the sample, D dims of the old space, E dims of the new one, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cir.arrays import Floats, Mask, Rows

SAME = 2e-3  # float16 moves a value of a unit vector by less


@dataclass(frozen=True)
class PairedSample:
    """Both models over one sample of a gallery. All vectors float32 and unit-norm.

    Attributes:
        old_gallery: (N, D) stored vectors, or (N, T, D) tokens of an index without vectors.
        new_gallery: (N, E) or (N, T, E) of the new model.
        old_queries: (Q, D) by the model that made the stored vectors, or None if its folder is missing.
        new_queries: (Q, E).
        head_queries: (Q, D) of the new model's trained head for the old space, or None if it has none.
        current: (Q, N) scores of the index as it is.
        references: (Q,) row of each reference, -1 for none; it is never a target.
        relevant: (Q, N) which images are targets.
        fit_mask: (Q,) the queries that fits may see; the others are measured.
        slices: "column=value" -> (Q,) the queries whose reference has that value.
        simplex_dims: number of leading dims that the simplex of both spaces fixes; 0 if they share none.
        new_states: (Q, width) input of the new model's query heads, or None if it does not expose them.
        judged: (Q, N) which images were judged for each query; None if all of them were.
        held_out: (N,) images that fits may not see whatever the queries are about, and that measured queries without
            judgements are answered from; None for none.
        labelled: whether people, or metadata, say what is relevant; otherwise it is the new model's own first hit.
    """

    old_gallery: Floats
    new_gallery: Floats
    old_queries: Floats | None
    new_queries: Floats
    head_queries: Floats | None
    current: Floats
    references: Rows
    relevant: Mask
    fit_mask: Mask
    slices: Mapping[str, Mask]
    simplex_dims: int = 0
    new_states: Floats | None = None
    judged: Mask | None = None
    held_out: Mask | None = None
    labelled: bool = True

    @property
    def same_vectors(self) -> bool:
        """Whether both models store the same, as a combiner and the dual encoder under it do."""
        old, new = self.old_gallery, self.new_gallery
        return old.shape == new.shape and bool(np.allclose(old, new, atol=SAME))

    @cached_property
    def fit_images(self) -> Rows:
        """(n,) rows that fits may see: neither reference nor target of a measured query."""
        measured: Mask = np.any(self.relevant[~self.fit_mask], axis=0)
        references = self.references[~self.fit_mask]
        measured[references[references >= 0]] = True
        if self.held_out is not None:
            measured |= self.held_out
        return np.flatnonzero(~measured)

    @cached_property
    def reindexed(self) -> Floats:
        """(Q, N) scores of the new model on its own vectors: what a re-index would give."""
        return similarities(self.new_queries, self.new_gallery)

    def hits(self, scores: Floats, k: int) -> Mask:
        """(Q,) whether a target is among the first k by (Q, N) scores; images of score -inf are not searched.

        Images that nobody has judged are left out of the ranking (condensed lists: Sakai, SIGIR 2007).
        """
        if self.judged is not None:
            scores = np.where(self.judged, scores, -np.inf)
        order = ranked(scores, self.references, k)
        found = np.take_along_axis(self.relevant & np.isfinite(scores), order, axis=1)
        hits: Mask = np.any(found, axis=1)
        return hits

    def measured_hits(self, scores: Floats, k: int) -> Mask:
        """(n,) the same for the measured queries alone."""
        return self.hits(scores, k)[~self.fit_mask]


def group_split(groups: Sequence[str], rng: np.random.Generator) -> Mask:
    """(Q,) about half of the queries, for fitting; queries of one group stay together.

    Args:
        groups: the group of each query, such as its reference: captions about the same image are not independent, so
            they stay in one half.
        rng: draws the half.
    """
    names, number = np.unique(groups, return_inverse=True)
    place = rng.permutation(len(names))[number]
    sizes = np.cumsum(np.bincount(place, minlength=len(names)))
    fit: Mask = sizes[place] <= len(groups) // 2
    if not fit.any():  # nearly all are about one image: the smallest group is all there is to fit on
        fit = number == np.argmin(np.bincount(number))
    return fit


def similarities(queries: Floats, gallery: Floats) -> Floats:
    """(Q, D) against (N, D), or the maximum over T of (N, T, D) -> (Q, N) float32."""
    if gallery.ndim == 2:
        plain: Floats = queries @ gallery.T
        return plain
    best: Floats = np.stack([(gallery @ query).max(axis=1) for query in queries])
    return best


def ranked(scores: Floats, references: Rows, k: int) -> Rows:
    """(Q, N) scores -> (Q, k) rows, best first, ties by row; references are left out."""
    scores = scores.copy()
    with_reference = np.flatnonzero(references >= 0)
    scores[with_reference, references[with_reference]] = -np.inf
    order: Rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order
