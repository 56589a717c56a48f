"""How well the queries of newer models do on the galleries of older ones.

A compatibility matrix has a row for each model that asks and a column for each that made a gallery, oldest first; the
entries are accuracies as fractions. Only the lower triangle means something: nobody asks a newer gallery with an
older model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_compatibility(matrix: ArrayLike) -> float:
    """Share of the pairs (newer model, older gallery) that do strictly better than the older model did itself.

    AC of Biondi et al. (CVPR 2024). 1 says every replacement paid off; look at `compatibility_margins` beside it,
    since a near miss counts as much as a failure.

    Args:
        matrix: (M, M) accuracies, rows query model, columns gallery model; M at least 2.

    Raises:
        ValueError: not a square matrix of finite numbers, or of one model alone.
    """
    margins = compatibility_margins(matrix)
    return float((margins[np.tril_indices(len(margins), -1)] > 0).mean())


def average_accuracy(matrix: ArrayLike) -> float:
    """Mean accuracy of the lower triangle, diagonal included: AA, as a fraction.

    The official code takes an exact zero for an entry that is missing; here it is an accuracy of 0.

    Args:
        matrix: (M, M) accuracies, rows query model, columns gallery model.

    Raises:
        ValueError: not a square matrix of finite numbers.
    """
    values = _lower(matrix)
    return float(values[np.tril_indices(len(values))].mean())


def compatibility_margins(matrix: ArrayLike) -> NDArray[np.float64]:
    """(M, M): below the diagonal by how much a newer model beats the older one on its own gallery; elsewhere 0.

    Raises:
        ValueError: not a square matrix of finite numbers, or of one model alone.
    """
    values = _lower(matrix)
    if len(values) < 2:
        raise ValueError("compatibility is between two models or more; the matrix has one")
    return np.tril(values - values.diagonal(), -1)


def _lower(matrix: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"a compatibility matrix is square, not {values.shape}")
    if not np.isfinite(values[np.tril_indices(len(values))]).all():
        raise ValueError("a compatibility matrix has a number for each pair of the lower triangle")
    return values
