"""Fitting the routes from a new model's queries to the stored vectors of an old one (see `cir.mappings`).

What a route gains differs from pair to pair (docs/results/replace-model.md), and none can be assumed to gain anything:
each is measured before it is used. A route that a pair of models does not have says why.

A further route is a function here, an entry in `FIT_BY_ROUTE`, and a member of `cir.mappings.Route`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cir.arrays import Floats, Rows, unit
from cir.mappings import Maps, Route, SpaceMapping
from cir.replacement.head_fit import fit_head
from cir.replacement.paired_sample import PairedSample, ranked, similarities
from cir.replacement.ridge import fit_ridge

RIDGE_WEIGHTS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
MIN_IMAGES = 50  # with fewer, two spaces of hundreds of dims can be mapped onto each other in many ways
CALIBRATION_CANDIDATES = 20  # per query: mostly hard negatives
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
    return platt_scaled(sample, applied(sample, Route.TRAINED_HEAD))


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
    return platt_scaled(sample, applied(sample, Route.FITTED_HEAD, head.matrix, head.bias), head.held_out)


def ridge(sample: PairedSample) -> FittedRoute | str:
    """Stored vectors mapped into the new space by ridge regression on images that both models have encoded.

    One space, one query vector, and scores that merge as they are. Not for tokens, since those of two models have no
    pairs, nor for few images.
    """
    rows = sample.fit_images
    if sample.old_gallery.ndim == 3 or sample.new_gallery.ndim == 3:
        return "images are ranked by tokens, and those of two models have no pairs"
    if len(rows) < MIN_IMAGES:
        missing = "are needed; give a larger --sample if the gallery has more images"
        return f"{len(rows)} images outside the measured queries, {MIN_IMAGES} {missing}"
    old, new = sample.old_gallery[rows], sample.new_gallery[rows]
    held_out = np.random.default_rng(0).random(len(rows)) < 0.2

    def error(weight: float) -> float:
        matrix, bias = fit_ridge(old[~held_out], new[~held_out], weight)
        return -float((unit(old[held_out] @ matrix.T + bias) * new[held_out]).sum(axis=1).mean())

    best = min(RIDGE_WEIGHTS, key=error) if held_out.any() and not held_out.all() else 1.0
    return applied(sample, Route.RIDGE, *fit_ridge(old, new, best))


def procrustes(sample: PairedSample) -> FittedRoute | str:
    """Query vectors rotated into the old space by the best orthogonal map of images, or of queries with few images.

    An orthogonal map commutes with the maximum over tokens.
    """
    if sample.old_gallery.ndim == 2 and sample.new_gallery.ndim == 2 and len(sample.fit_images) >= MIN_IMAGES:
        old, new = sample.old_gallery[sample.fit_images], sample.new_gallery[sample.fit_images]
    elif sample.old_queries is None:
        return OLD_MODEL_MISSING
    else:
        old, new = sample.old_queries[sample.fit_mask], sample.new_queries[sample.fit_mask]
    left, _, right = np.linalg.svd(old.T.astype(np.float64) @ new, full_matrices=False)
    matrix = (left @ right).astype(np.float32)
    return platt_scaled(sample, applied(sample, Route.PROCRUSTES, matrix))


def simplex(sample: PairedSample) -> FittedRoute | str:
    """Query vectors with the free dims set to zero: nothing is fitted, and neither model has seen the other."""
    if not sample.simplex_dims or sample.old_gallery.ndim == 3:
        return "the two models do not share a simplex"
    matrix = np.eye(sample.old_gallery.shape[1], sample.new_queries.shape[1], dtype=np.float32)
    matrix[sample.simplex_dims :] = 0
    return platt_scaled(sample, applied(sample, Route.SIMPLEX, matrix))


FIT_BY_ROUTE: Mapping[Route, Callable[[PairedSample], FittedRoute | str]] = {
    Route.TRAINED_HEAD: trained_head,
    Route.FITTED_HEAD: fitted_head,
    Route.RIDGE: ridge,
    Route.PROCRUSTES: procrustes,
    Route.SIMPLEX: simplex,
}


def applied(
    sample: PairedSample, route: Route, matrix: Floats | None = None, bias: Floats | None = None
) -> FittedRoute:
    """A mapping applied to a sample as a search applies it, so that what is measured is what would be served.

    Raises:
        ValueError: the sample has no queries or states that the route could map.
    """
    mapping = SpaceMapping("", "", route, matrix, bias)
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


def unmapped_scores(sample: PairedSample) -> Floats | None:
    """(Q, N) scores of the new model's queries on the old vectors without a mapping, or None if dims differ.

    What mixing two models' vectors would do; never a route.
    """
    if sample.new_queries.shape[1] != sample.old_gallery.shape[-1]:
        return None
    return similarities(sample.new_queries, sample.old_gallery)


def platt_scaled(sample: PairedSample, fitted: FittedRoute, rows: Rows | None = None) -> FittedRoute:
    """Platt-scale both score distributions and map old scores to new ones of equal odds.

    Args:
        sample: the paired sample.
        fitted: a route without calibration.
        rows: queries to calibrate on; all that fits may see if None.
    """
    rows = np.flatnonzero(sample.fit_mask) if rows is None else rows
    old = _platt_parameters(sample, fitted.scores, rows)
    new = _platt_parameters(sample, sample.reindexed, rows)
    if old[0] <= 0 or new[0] <= 0:  # scores without information stay as they are
        return fitted
    slope, intercept = float(old[0] / new[0]), float((old[1] - new[1]) / new[0])
    return replace(fitted, mapping=replace(fitted.mapping, slope=slope, intercept=intercept))


def _platt_parameters(sample: PairedSample, scores: Floats, rows: Rows) -> tuple[float, float]:
    """(a, b) of the log-odds a s + b that a candidate of score s, among a query's first, is a target."""
    order = ranked(scores[rows], sample.references[rows], CALIBRATION_CANDIDATES)
    values = np.take_along_axis(scores[rows], order, axis=1).ravel().astype(np.float64)
    labels = np.take_along_axis(sample.relevant[rows], order, axis=1).ravel()
    centre, spread = values.mean(), max(float(values.std()), 1e-6)
    x = np.stack([(values - centre) / spread, np.ones_like(values)], axis=1)
    weights = np.zeros(2)
    for _ in range(30):  # Newton; the penalty keeps separable data finite
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (chance - labels) + 1e-3 * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + 1e-3 * np.eye(2)
        weights -= np.linalg.solve(curvature, gradient)
    return float(weights[0] / spread), float(weights[1] - weights[0] * centre / spread)
