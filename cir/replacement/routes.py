"""Fitting the routes from a new model's queries to the stored vectors of an old one (see `cir.mappings`).

What a route gains differs from pair to pair (docs/results/replace-model.md), and none can be assumed to gain anything:
each is measured before it is used. A route that a pair of models does not have says why.

A further route is a function here, an entry in `FITS`, and an entry in `cir.mappings.Route`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cir.arrays import Floats, Rows, unit
from cir.mappings import Route
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
        route: which.
        scores: (Q, N) of the new model's queries on the old vectors.
        matrix, bias, slope, intercept: as in `SpaceMapping`.
    """

    route: Route
    scores: Floats
    matrix: Floats | None = None
    bias: Floats | None = None
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def calibrated(self) -> Floats:
        """(Q, N) scores on the scale of the new model's own."""
        calibrated: Floats = self.slope * self.scores + self.intercept
        return calibrated


def fit_routes(sample: PairedSample) -> tuple[list[FittedRoute], dict[str, str]]:
    """Every route that the pair of models has, fitted; and route -> why the pair does not have it."""
    fitted, absent = [], {}
    for route, fit in FITS.items():
        result = fit(sample)
        if isinstance(result, FittedRoute):
            fitted.append(result)
        else:
            absent[route.value] = result
    return fitted, absent


def trained_head(sample: PairedSample) -> FittedRoute | str:
    """The new model's own query head for the old space, trained with it."""
    if sample.head_queries is None:
        return "the new model has no query head for this space"
    return platt_scaled(sample, FittedRoute(Route.HEAD, similarities(sample.head_queries, sample.old_gallery)))


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
        return f"{int((sample.fit & sample.relevant.any(axis=1)).sum())} queries are too few to fit on"
    scores = similarities(unit(sample.new_states @ head.matrix.T + head.bias), sample.old_gallery)
    # The head is over-confident on its training queries, so its scores are calibrated on the held-out fifth.
    return platt_scaled(sample, FittedRoute(Route.FITTED, scores, head.matrix, head.bias), head.held_out)


def ridge(sample: PairedSample) -> FittedRoute | str:
    """Stored vectors mapped into the new space by ridge regression on images that both models have encoded.

    One space, one query vector, and scores that merge as they are. Not for tokens, since those of two models have no
    pairs, nor for few images.
    """
    rows = sample.fit_images
    if sample.old_gallery.ndim == 3 or sample.new_gallery.ndim == 3:
        return "images are ranked by tokens, and those of two models have no pairs"
    if len(rows) < MIN_IMAGES:
        return f"{len(rows)} images outside the measured queries, {MIN_IMAGES} are needed; give a larger --sample"
    old, new = sample.old_gallery[rows], sample.new_gallery[rows]
    held_out = np.random.default_rng(0).random(len(rows)) < 0.2

    def error(weight: float) -> float:
        matrix, bias = fit_ridge(old[~held_out], new[~held_out], weight)
        return -float((unit(old[held_out] @ matrix.T + bias) * new[held_out]).sum(axis=1).mean())

    best = min(RIDGE_WEIGHTS, key=error) if held_out.any() and not held_out.all() else 1.0
    matrix, bias = fit_ridge(old, new, best)
    mapped = unit(sample.old_gallery @ matrix.T + bias)
    return FittedRoute(Route.RIDGE, similarities(sample.new_queries, mapped), matrix, bias)


def procrustes(sample: PairedSample) -> FittedRoute | str:
    """Query vectors rotated into the old space by the best orthogonal map of images, or of queries with few images.

    An orthogonal map commutes with the maximum over tokens.
    """
    if sample.old_gallery.ndim == 2 and sample.new_gallery.ndim == 2 and len(sample.fit_images) >= MIN_IMAGES:
        old, new = sample.old_gallery[sample.fit_images], sample.new_gallery[sample.fit_images]
    elif sample.old_queries is None:
        return OLD_MODEL_MISSING
    else:
        old, new = sample.old_queries[sample.fit], sample.new_queries[sample.fit]
    left, _, right = np.linalg.svd(old.T.astype(np.float64) @ new, full_matrices=False)
    matrix = (left @ right).astype(np.float32)
    scores = similarities(unit(sample.new_queries @ matrix.T), sample.old_gallery)
    return platt_scaled(sample, FittedRoute(Route.PROCRUSTES, scores, matrix))


def simplex(sample: PairedSample) -> FittedRoute | str:
    """Query vectors with the free dims set to zero: nothing is fitted, and neither model has seen the other."""
    if not sample.simplex_dims or sample.old_gallery.ndim == 3:
        return "the two models do not share a simplex"
    matrix = np.eye(sample.old_gallery.shape[1], sample.new_queries.shape[1], dtype=np.float32)
    matrix[sample.simplex_dims :] = 0
    scores = similarities(unit(sample.new_queries @ matrix.T), sample.old_gallery)
    return platt_scaled(sample, FittedRoute(Route.SIMPLEX, scores, matrix))


FITS: Mapping[Route, Callable[[PairedSample], FittedRoute | str]] = {
    Route.HEAD: trained_head,
    Route.FITTED: fitted_head,
    Route.RIDGE: ridge,
    Route.PROCRUSTES: procrustes,
    Route.SIMPLEX: simplex,
}


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
    rows = np.flatnonzero(sample.fit) if rows is None else rows
    old = _platt_parameters(sample, fitted.scores, rows)
    new = _platt_parameters(sample, sample.reindexed, rows)
    if old[0] <= 0 or new[0] <= 0:  # scores without information stay as they are
        return fitted
    return replace(fitted, slope=float(old[0] / new[0]), intercept=float((old[1] - new[1]) / new[0]))


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
