"""Fitting the routes from a new model's queries to the stored vectors of an old one (see `cir.mappings`).

What a route gains differs from pair to pair (docs/results/replace-model.md), and none can be assumed to gain anything:
each is measured before it is used. A route that a pair of models does not have says why.

A further route is a function here, an entry in `FIT_BY_ROUTE`, and a member of `cir.mappings.Route`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cir.arrays import Floats, Rows, unit
from cir.mappings import Maps, Route, SpaceMapping
from cir.replacement import calibration
from cir.replacement.head_fit import fit_head
from cir.replacement.mlp_fit import fit_mlp
from cir.replacement.paired_sample import PairedSample, similarities
from cir.replacement.ridge import fit_best_ridge, fit_low_rank

MIN_IMAGES = 50  # with fewer, two spaces of hundreds of dims can be mapped onto each other in many ways
OLD_MODEL_MISSING = "the folder of the model that made these vectors is missing"


@dataclass(frozen=True)
class FittedRoute:
    """A route after fitting.

    Attributes:
        mapping: what would be published, without evidence.
        scores: (Q, N) of the new model's queries on the old vectors, by this mapping.
    """

    mapping: SpaceMapping
    scores: Floats

    @property
    def calibrated(self) -> Floats:
        """(Q, N) scores on the scale of the new model's own."""
        return self.mapping.calibrate(self.scores)


def fit_routes(sample: PairedSample) -> tuple[list[FittedRoute], dict[str, str]]:
    """Every route that the pair of models has, fitted; and route -> why the pair does not have it."""
    fitted, absent = [], {}
    for route, fit in FIT_BY_ROUTE.items():
        result = fit(sample)
        if isinstance(result, str):
            absent[route.value] = result
        else:
            fitted.append(result)
    return fitted, absent


def trained_head(sample: PairedSample) -> FittedRoute | str:
    """The new model's own query head for the old space, trained with it."""
    if sample.head_queries is None:
        return "the new model has no query head for this space"
    return calibrated(sample, applied(sample, SpaceMapping("", "", Route.TRAINED_HEAD)))


def fitted_head(sample: PairedSample) -> FittedRoute | str:
    """A query head for the old space, fitted on the query states of the new model, which is not changed.

    Few queries give a poor head; `cir train --heads-only` fits one on training triplets.
    """
    if sample.new_states is None:
        return "the new model does not expose its query states"
    if sample.old_queries is None:
        return OLD_MODEL_MISSING
    head = fit_head(sample)
    if head is None:
        return f"{int((sample.fit_mask & sample.relevant.any(axis=1)).sum())} queries are too few to fit on"
    # The head is over-confident on its training queries, so its scores are calibrated on the held-out fifth.
    mapping = SpaceMapping("", "", Route.FITTED_HEAD, head.matrix, head.bias)
    return calibrated(sample, applied(sample, mapping), head.held_out)


def ridge(sample: PairedSample) -> FittedRoute | str:
    """Stored vectors mapped into the new space by ridge regression on images that both models have encoded.

    One space, one query vector, and scores that merge as they are. Not for tokens, since those of two models have no
    pairs, nor for few images.
    """
    pairs = _pairs(sample)
    if isinstance(pairs, str):
        return pairs
    return applied(sample, SpaceMapping("", "", Route.RIDGE, *fit_best_ridge(pairs.old, pairs.new)))


def gallery_mlp(sample: PairedSample) -> FittedRoute | str:
    """The same with a hidden layer, for what is not linear."""
    pairs = _pairs(sample)
    if isinstance(pairs, str):
        return pairs
    return applied(sample, SpaceMapping("", "", Route.GALLERY_MLP, **fit_mlp(pairs.old, pairs.new)._asdict()))


def procrustes(sample: PairedSample) -> FittedRoute | str:
    """Query vectors rotated into the old space by the best orthogonal map of images, or of queries with few images.

    An orthogonal map commutes with the maximum over tokens.
    """
    pairs = _pairs(sample)
    if isinstance(pairs, str):
        if sample.old_queries is None:
            return OLD_MODEL_MISSING
        pairs = _Pairs(sample.old_queries[sample.fit_mask], sample.new_queries[sample.fit_mask])
    left, _, right = np.linalg.svd(pairs.old.T.astype(np.float64) @ pairs.new, full_matrices=False)
    matrix = (left @ right).astype(np.float32)
    return calibrated(sample, applied(sample, SpaceMapping("", "", Route.PROCRUSTES, matrix)))


def query_ridge(sample: PairedSample) -> FittedRoute | str:
    """Query vectors mapped into the old space by ridge regression on images: nothing is derived from the gallery.

    With tokens it is fitted on the mean of each image's, and a mapped query is compared with every token.
    """
    pairs = _pairs(sample, pooled=True)
    if isinstance(pairs, str):
        return pairs
    mapping = SpaceMapping("", "", Route.QUERY_RIDGE, *fit_best_ridge(pairs.new, pairs.old))
    return calibrated(sample, applied(sample, mapping))


def low_rank(sample: PairedSample) -> FittedRoute | str:
    """The same of a reduced rank: what few images tell about many dims is mostly noise."""
    pairs = _pairs(sample, pooled=True)
    if isinstance(pairs, str):
        return pairs
    mapping = SpaceMapping("", "", Route.LOW_RANK, *fit_low_rank(pairs.new, pairs.old))
    return calibrated(sample, applied(sample, mapping))


def query_mlp(sample: PairedSample) -> FittedRoute | str:
    """Query vectors mapped into the old space by ridge regression and a hidden layer, fitted on images."""
    pairs = _pairs(sample, pooled=True)
    if isinstance(pairs, str):
        return pairs
    mapping = SpaceMapping("", "", Route.QUERY_MLP, **fit_mlp(pairs.new, pairs.old)._asdict())
    return calibrated(sample, applied(sample, mapping))


def simplex(sample: PairedSample) -> FittedRoute | str:
    """Query vectors with the free dims set to zero: nothing is fitted, and neither model has seen the other."""
    if not sample.simplex_dims or sample.old_gallery.ndim == 3:
        return "the two models do not share a simplex"
    matrix = np.eye(sample.old_gallery.shape[1], sample.new_queries.shape[1], dtype=np.float32)
    matrix[sample.simplex_dims :] = 0
    return calibrated(sample, applied(sample, SpaceMapping("", "", Route.SIMPLEX, matrix)))


FIT_BY_ROUTE: Mapping[Route, Callable[[PairedSample], FittedRoute | str]] = {
    Route.TRAINED_HEAD: trained_head,
    Route.FITTED_HEAD: fitted_head,
    Route.RIDGE: ridge,
    Route.GALLERY_MLP: gallery_mlp,
    Route.PROCRUSTES: procrustes,
    Route.QUERY_RIDGE: query_ridge,
    Route.LOW_RANK: low_rank,
    Route.QUERY_MLP: query_mlp,
    Route.SIMPLEX: simplex,
}


def applied(sample: PairedSample, mapping: SpaceMapping) -> FittedRoute:
    """A mapping applied to a sample as a search applies it, so that what is measured is what would be served.

    Raises:
        ValueError: the sample has no queries or states that the route could map.
    """
    route = mapping.route
    queries: Floats | None = sample.new_queries
    gallery = sample.old_gallery
    if route.maps is Maps.GALLERY:
        gallery = mapping.map(sample.old_gallery)
    elif route.maps is Maps.QUERIES:
        queries = mapping.map(sample.new_queries)
    elif route.maps is Maps.STATES:
        queries = None if sample.new_states is None else mapping.map(sample.new_states)
    else:
        queries = sample.head_queries
    if queries is None:
        raise ValueError(f"the sample has no queries for the route {route}")
    return FittedRoute(mapping, similarities(queries, gallery))


def calibrated(sample: PairedSample, fitted: FittedRoute, rows: Rows | None = None) -> FittedRoute:
    """The route with its scores on the scale of the new model's own.

    Args:
        sample: the paired sample.
        fitted: a route without calibration.
        rows: queries to calibrate on; all that fits may see if None.
    """
    rows = np.flatnonzero(sample.fit_mask) if rows is None else rows
    slope, intercept = calibration.fit(sample, fitted.scores, rows)
    return replace(fitted, mapping=replace(fitted.mapping, slope=slope, intercept=intercept))


class _Pairs(NamedTuple):
    """(n, D) and (n, E) vectors of the same images, or queries, by the old and the new model."""

    old: Floats
    new: Floats


def _pairs(sample: PairedSample, *, pooled: bool = False) -> _Pairs | str:
    """The images that fits may see, by both models; or why there are none.

    Args:
        sample: the paired sample.
        pooled: take the mean of an image's tokens for its vector; enough for a map of queries, not of a gallery.
    """
    rows = sample.fit_images
    tokens = sample.old_gallery.ndim == 3 or sample.new_gallery.ndim == 3
    if tokens and not pooled:
        return "images are ranked by tokens, and those of two models have no pairs"
    if len(rows) < MIN_IMAGES:
        missing = "are needed; give a larger --sample if the gallery has more images"
        return f"{len(rows)} images outside the measured queries, {MIN_IMAGES} {missing}"
    old, new = sample.old_gallery[rows], sample.new_gallery[rows]
    return _Pairs(*(unit(values.mean(axis=1)) if values.ndim == 3 else values for values in (old, new)))


def unmapped_scores(sample: PairedSample) -> Floats | None:
    """(Q, N) scores of the new model's queries on the old vectors without a mapping, or None if dims differ.

    What mixing two models' vectors would do; never a route.
    """
    if sample.new_queries.shape[1] != sample.old_gallery.shape[-1]:
        return None
    return similarities(sample.new_queries, sample.old_gallery)
