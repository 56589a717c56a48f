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


def norms_of(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) lengths of (N, D) vectors, also where squares are beyond float64; inf or NaN where values are not finite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        odd = np.flatnonzero(~((lengths > 1e-140) & (lengths < 1e140)))
        largest = np.abs(vectors[odd]).max(axis=1, initial=0)
        scaled = vectors[odd] / largest[:, None]
        usual = np.isfinite(largest) & (largest > 0)
        lengths[odd] = np.where(usual, largest * np.sqrt(np.einsum("ij,ij->i", scaled, scaled)), largest)
    return lengths


def has_direction(lengths: NDArray[np.float64]) -> Mask:
    """(N,) bool: which vectors of these lengths can be normalised."""
    mask: Mask = (lengths >= np.finfo(np.float64).tiny) & np.isfinite(lengths)
    return mask
