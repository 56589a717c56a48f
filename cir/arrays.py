"""Array types used in every signature, and the unit norm they are held to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stored = NDArray[np.floating[Any]]  # float16, or float32 where an index was built so
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

NORM_TOLERANCE = 1e-2  # float16 rounding moves a norm by less than 1e-3


def unit(values: Floats) -> Floats:
    """(..., D) -> (..., D) float32, unit-norm along the last axis; zero vectors stay zero."""
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    normalised: Floats = (values / np.maximum(norms, 1e-12)).astype(np.float32, copy=False)
    return normalised


def unit_norm_mask(values: Stored) -> Mask:
    """(..., D) -> (...,) bool: where a vector has unit norm within `NORM_TOLERANCE`; False for NaN."""
    norms = np.linalg.norm(values.astype(np.float32, copy=False), axis=-1)
    mask: Mask = np.abs(norms - 1) <= NORM_TOLERANCE
    return mask
