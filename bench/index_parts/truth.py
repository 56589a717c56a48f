"""The exact answer, computed without the engine: numpy in single precision finds, double precision decides."""

from __future__ import annotations

from typing import Any

import numpy as np

from cir.arrays import Floats, Rows, Stored

K = 10
TOLERANCE = 2e-6  # a row whose cosine is that near to the tenth best is as good
BLOCK = 32_768


def best(vectors: Stored, queries: Floats, mask: Any, k: int = K) -> tuple[Rows, Floats]:
    """Rows (Q, k) and cosines (Q, k) of the best, best first.

    Args:
        vectors: (N, D).
        queries: (Q, D) float32.
        mask: (N,) rows that may be among them; None for all.
        k: how many.
    """
    kept = 2 * k
    found = np.full((len(queries), kept), -np.inf, np.float32)
    rows = np.zeros((len(queries), kept), np.int64)
    for start in range(0, len(vectors), BLOCK):
        scores = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        if mask is not None:
            scores[:, ~mask[start : start + BLOCK]] = -np.inf
        take = min(kept, scores.shape[1])
        near = np.argpartition(-scores, take - 1, axis=1)[:, :take]
        both = np.concatenate([found, np.take_along_axis(scores, near, 1)], axis=1)
        places = np.concatenate([rows, near + start], axis=1)
        order = np.argpartition(-both, kept - 1, axis=1)[:, :kept]
        found, rows = np.take_along_axis(both, order, 1), np.take_along_axis(places, order, 1)
    exact = np.einsum("qkd,qd->qk", vectors[rows].astype(np.float64), queries.astype(np.float64))
    exact[~np.isfinite(found)] = -np.inf
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(exact, order, 1)


def recall(vectors: Stored, queries: Floats, answers: list[Rows], cosines: Floats) -> float:
    """Share of the ten best that were found; a row as near as the tenth counts, whichever of equals it is.

    Args:
        vectors: (N, D).
        queries: (Q, D).
        answers: for each query the rows that were given, at most 10.
        cosines: (Q, 10) of the right ones.
    """
    hits = 0
    for query, rows, right in zip(queries, answers, cosines, strict=True):
        taken = np.unique(rows)[: len(right)]
        given = vectors[taken].astype(np.float64) @ query.astype(np.float64)
        hits += min(int((given >= right[-1] - TOLERANCE).sum()), len(right))
    return hits / (len(queries) * cosines.shape[1])
