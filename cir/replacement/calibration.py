"""Putting scores on old vectors on the scale of the new model's own, so that both merge in one ranking."""

from __future__ import annotations

import numpy as np

from cir.arrays import Floats, Rows
from cir.replacement.paired_sample import PairedSample, ranked

CANDIDATES = 20  # per query: mostly hard negatives


def fit(sample: PairedSample, scores: Floats, rows: Rows) -> tuple[float, float]:
    """(slope, intercept): slope * score + intercept is on the scale of the new model's own scores.

    With judged queries both distributions are Platt-scaled, and scores of equal odds are made equal. Without, a score
    becomes what the new model's own score is on average. (1, 0) where scores hold no information.

    Args:
        sample: the paired sample.
        scores: (Q, N) of a route.
        rows: queries to calibrate on.
    """
    if not sample.labelled:
        return _regression(sample, scores, rows)
    old, new = (_platt_parameters(sample, given, rows) for given in (scores, sample.reindexed))
    if old[0] <= 0 or new[0] <= 0:
        return 1.0, 0.0
    return float(old[0] / new[0]), float((old[1] - new[1]) / new[0])


def _regression(sample: PairedSample, scores: Floats, rows: Rows) -> tuple[float, float]:
    """The line through the new model's own scores of a query's first candidates."""
    if not len(rows):
        return 1.0, 0.0
    order = ranked(scores[rows], sample.references[rows], CANDIDATES)
    x, y = (
        np.take_along_axis(given[rows], order, axis=1).ravel().astype(np.float64)
        for given in (scores, sample.reindexed)
    )
    spread = float(x.var())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread else 0.0
    return (slope, float(y.mean() - slope * x.mean())) if slope > 0 else (1.0, 0.0)


def _platt_parameters(sample: PairedSample, scores: Floats, rows: Rows) -> tuple[float, float]:
    """(a, b) of the log-odds a s + b that a candidate of score s, among a query's first, is a target."""
    order = ranked(scores[rows], sample.references[rows], CANDIDATES)
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
