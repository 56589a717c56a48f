"""Linear maps between two spaces, fitted on pairs of vectors: ridge regression, and the same of a reduced rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cir.arrays import Floats, Mask, unit

RIDGE_WEIGHTS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
RANKS = (4, 8, 16, 32, 64, 128, 256, 512)


class Linear(NamedTuple):
    """y = matrix x + bias: (E, D) and (E,) float32."""

    matrix: Floats
    bias: Floats


def fit_ridge(x: Floats, y: Floats, weight: float) -> Linear:
    """The map of (N, D) onto (N, E) by least squares, with a penalty on the matrix."""
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    centred = x - mean_x
    gram = centred.T @ centred + weight * np.eye(x.shape[1])
    matrix = np.linalg.solve(gram, centred.T @ (y - mean_y)).T
    return Linear(matrix.astype(np.float32), (mean_y - matrix @ mean_x).astype(np.float32))


def fit_best_ridge(x: Floats, y: Floats) -> Linear:
    """The same for (N, D) and (N, E), unit-norm, with the penalty that is best for a fifth held out of the fit."""
    return fit_ridge(x, y, _best_weight(x, y))


def fit_low_rank(x: Floats, y: Floats) -> Linear:
    """Reduced-rank regression of (N, E) on (N, D), unit-norm: ridge regression projected on its first directions.

    The rank is the one that is best for a fifth held out of the fit.
    """
    weight, apart = _best_weight(x, y), held_out_fifth(len(x))
    ranks = [rank for rank in RANKS if rank < min(x.shape[1], y.shape[1])] or [1]
    inside = fit_ridge(x[~apart], y[~apart], weight)
    directions = _directions(x[~apart], inside)
    best = max(ranks, key=lambda rank: agreement(_reduced(inside, directions, rank, y[~apart]), x[apart], y[apart]))
    whole = fit_ridge(x, y, weight)
    return _reduced(whole, _directions(x, whole), best, y)


def held_out_fifth(count: int) -> Mask:
    """(N,) which pairs decide on a penalty, a rank or when to stop; at least one is inside and one apart."""
    apart: Mask = np.random.default_rng(0).random(count) < 0.2
    apart[0], apart[-1] = False, True
    return apart


def agreement(linear: Linear, x: Floats, y: Floats) -> float:
    """Mean cosine of what is mapped with what it should be, both unit-norm."""
    return float((unit(x @ linear.matrix.T + linear.bias) * y).sum(axis=1).mean())


def _best_weight(x: Floats, y: Floats) -> float:
    apart = held_out_fifth(len(x))
    inside, outside = (x[~apart], y[~apart]), (x[apart], y[apart])
    return max(RIDGE_WEIGHTS, key=lambda weight: agreement(fit_ridge(*inside, weight), *outside))


def _directions(x: Floats, linear: Linear) -> Floats:
    """(E, r) the directions in which a linear map spreads its images most, the largest first."""
    centred = (x - x.mean(axis=0)) @ linear.matrix.T
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    first: Floats = vectors[:, ::-1].astype(np.float32)
    return first


def _reduced(linear: Linear, directions: Floats, rank: int, y: Floats) -> Linear:
    """A linear map onto its first directions around the mean of its targets."""
    kept = directions[:, :rank]
    mean = y.mean(axis=0)
    return Linear(kept @ (kept.T @ linear.matrix), mean + kept @ (kept.T @ (linear.bias - mean)))
