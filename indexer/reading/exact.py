"""Exact scores over stored rows: a fast scan that loses no row, then scores that depend on the row alone.

With BLAS the last bits of an inner product depend on the size of the block that holds the two vectors. So a scan keeps
every row within `SLACK` of the cut, and `rescore` decides among those, adding in an order that depends only on the row:
equal rows get equal scores, and the caller breaks ties.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cir.arrays import Floats, Rows, Stored

SLACK = 1e-5  # float32 sums of 1024 products of unit vectors err by less than 1e-6
_SCAN_ROWS = 16_384
# A single query is bound by memory: 1 MB of float32 stays in the second-level cache between conversion and product.
# Several are bound by arithmetic: small products on several threads mostly wait for each other (measured: 10 x).
_ONE_FLOATS = 256 * 1024
_MANY_FLOATS = 4 * 1024 * 1024
_RESCORE_FLOATS = 4 * 1024 * 1024


def scan(stored: Stored, rows: Rows, queries: Floats, count: int) -> list[Rows]:
    """For each query the rows that may be among its best `count`: all of those, and a few more.

    Args:
        stored: (N, D) vectors, or (N, T, D) tokens, whose maximum over T counts.
        rows: the rows to scan, ascending.
        queries: (B, D) float32.
        count: number of best rows, at least 1.

    Returns:
        B arrays of rows.
    """
    found: list[list[tuple[Rows, Floats]]] = [[] for _ in queries]
    for start in range(0, len(rows), _SCAN_ROWS):
        here = rows[start : start + _SCAN_ROWS]
        scores = _scores(stored, here, queries)
        query_numbers, places = np.nonzero(scores >= _cut(scores, count)[:, None])
        bounds = np.searchsorted(query_numbers, np.arange(len(queries) + 1))
        for number, (low, high) in enumerate(pairwise(bounds)):
            kept = places[low:high]
            found[number].append((here[kept], scores[number, kept]))
    best = []
    for parts in found:
        candidates = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int64)
        if len(parts) > 1:
            scores = np.concatenate([part[1] for part in parts])[None]
            candidates = candidates[scores[0] >= _cut(scores, count)[0]]
        best.append(candidates)
    return best


def rescore(stored: Stored, rows: Rows, query: Floats) -> Floats:
    """Scores of some rows for one query; equal rows get equal scores.

    Args:
        stored: (N, D) vectors, or (N, T, D) tokens, whose maximum over T counts.
        rows: (n,) rows.
        query: (D,) float32.

    Returns:
        (n,) float32, summed in float64.
    """
    scores = np.empty(len(rows), np.float32)
    exact = query.astype(np.float64)
    step = max(1, _RESCORE_FLOATS // max(1, int(np.prod(stored.shape[1:]))))
    for start in range(0, len(rows), step):
        here = slice(start, start + step)
        products = np.einsum("...d,d->...", stored[rows[here]].astype(np.float64), exact)
        scores[here] = products if products.ndim == 1 else products.max(axis=1)
    return scores


def _scores(stored: Stored, rows: Rows, queries: Floats) -> Floats:
    """(B, n) float32 scores of n rows, converted piece by piece."""
    scores = np.empty((len(queries), len(rows)), np.float32)
    floats = _ONE_FLOATS if len(queries) == 1 else _MANY_FLOATS
    step = max(1, floats // max(1, int(np.prod(stored.shape[1:]))))
    for start in range(0, len(rows), step):
        here = rows[start : start + step]
        whole = int(here[-1] - here[0]) + 1 == len(here)
        block = (stored[here[0] : here[-1] + 1] if whole else stored[here]).astype(np.float32)
        products = queries @ block.reshape(-1, block.shape[-1]).T
        if block.ndim == 3:
            products = products.reshape(len(queries), len(here), block.shape[1]).max(axis=2)
        scores[:, start : start + len(here)] = products
    return scores


def _cut(scores: Floats, count: int) -> Floats:
    """(B,) the score below which a row cannot be among the best `count`."""
    if count >= scores.shape[1]:
        return np.full(len(scores), -np.inf, np.float32)
    kth = scores.shape[1] - count
    return np.partition(scores, kth, axis=1)[:, kth] - np.float32(SLACK)
