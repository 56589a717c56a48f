"""Ridge regression between two spaces."""

from __future__ import annotations

import numpy as np

from cir.arrays import Floats


def fit_ridge(x: Floats, y: Floats, weight: float) -> tuple[Floats, Floats]:
    """Matrix (E, D) and bias (E,) of y = matrix x + bias, with a penalty on the matrix."""
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    centred = x - mean_x
    gram = centred.T @ centred + weight * np.eye(x.shape[1])
    matrix = np.linalg.solve(gram, centred.T @ (y - mean_y)).T
    return matrix.astype(np.float32), (mean_y - matrix @ mean_x).astype(np.float32)
