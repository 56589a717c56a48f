"""Inner products of stored rows and queries, by the library that is fastest for them.

A kernel may round the query to the precision of the rows, and its sums to float32. It says by how much a score may be
off, so that a scan can keep every row that might be among the best.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from cir.arrays import Floats, Stored

SLACK = 1e-5  # float32 sums of 1024 products of unit vectors err by less than 1e-6
# Few queries are bound by reading the rows, which numkong multiplies as they are; from this many on by arithmetic, for
# which BLAS on float32 is faster although every row is converted first (bench/index.py).
_MANY = 32
_CACHED_FLOATS = 384 * 1024  # 1.5 MB of float32 stay in the second-level cache between conversion and product


class Kernel(Protocol):
    """Inner products with B queries.

    Attributes:
        slack: (B,) float32, how far a score may be from the exact inner product.
        blas: whether it computes with BLAS, which has threads of its own.
    """

    slack: Floats
    blas: bool

    def scores(self, rows: Stored) -> Floats:
        """(n, D) stored rows, contiguous -> (n, B) float32 inner products."""


def kernel_for(queries: Floats, precision: np.dtype[Any]) -> Kernel:
    """The kernel for some queries.

    Args:
        queries: (B, D) float32.
        precision: of the stored rows, float16 or float32.
    """
    library = numkong()
    if library is None or len(queries) >= _MANY:
        return _Blas(queries, library)
    return _NumKong(queries, precision, library)


def numkong() -> Any:
    """The module, or None on a machine without a wheel of it."""
    try:
        import numkong as library
    except ImportError:
        return None
    return library


class _NumKong:
    """numkong multiplies float16 as it is stored, and gives up the interpreter lock."""

    blas = False

    def __init__(self, queries: Floats, precision: np.dtype[Any], library: Any) -> None:
        self._library = library
        self._queries = np.ascontiguousarray(queries.astype(precision))
        rounded = np.linalg.norm(queries - self._queries.astype(np.float32), axis=1)
        self.slack = (1.01 * rounded + SLACK).astype(np.float32)  # rows have unit norm, within NORM_TOLERANCE
        self._packed = library.dots_pack(self._queries) if len(queries) > 1 else None

    def scores(self, rows: Stored) -> Floats:
        if self._packed is not None:
            return np.asarray(self._library.dots_packed(rows, self._packed)).astype(np.float32, copy=False)
        products = self._library.cdist(self._queries, rows, metric="dot")  # float32 is a slower way
        return np.asarray(products).astype(np.float32).reshape(-1, 1)


class _Blas:
    """numpy multiplies float32."""

    blas = True

    def __init__(self, queries: Floats, library: Any) -> None:
        self._queries = np.ascontiguousarray(queries.T)
        self._library = library
        self.slack = np.full(len(queries), SLACK, np.float32)

    def scores(self, rows: Stored) -> Floats:
        scores = np.empty((len(rows), self._queries.shape[1]), np.float32)
        step = max(1, _CACHED_FLOATS // rows.shape[1])
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            np.matmul(self._float32(block), self._queries, out=scores[start : start + len(block)])
        return scores

    def _float32(self, rows: Stored) -> Floats:
        if self._library is None or rows.dtype == np.float32:
            return rows.astype(np.float32, copy=False)
        return np.asarray(self._library.astype(rows, "float32"))  # numpy's own conversion is slow
