"""Exact search over stored rows: a fast scan that loses no row, then scores that depend on the row alone.

The last bits of an inner product depend on the library and on the block that holds the row. So a scan keeps every row
that might be among the best, and `rescore` decides among those, adding in an order that depends only on the row: equal
rows get equal scores, and the caller breaks ties.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.indexer.reading.kernels import Kernel, kernel_for
from cir.threads import free_cores, one_thread_in_blas

_BLOCK_BYTES = 8 * 1024 * 1024  # of rows: long enough for a library call to pay, short enough for a scan to be cut
_BLOCK_SCORES = 512 * 1024  # scores of a block that several queries share stay in the cache
_THREAD_BYTES = 4 * 1024 * 1024  # below, a second thread costs more than it saves
_WHOLE = 0.3  # share of rows from which on reading all is faster than picking
_RESCORE_FLOATS = 4 * 1024 * 1024


def scan(stored: Stored, queries: Floats, count: int, usable: Mask | None = None) -> list[Rows]:
    """For each query the rows that may be among its best `count`: all of those, and a few more.

    Reads the rows once for all queries, on all free cores.

    Args:
        stored: (N, D) vectors, or (N, T, D) tokens, whose maximum over T counts.
        queries: (B, D) float32.
        count: number of best rows, at least 1.
        usable: (N,) which rows count; None for all.

    Returns:
        B arrays of rows.
    """
    kernel = kernel_for(queries, stored.dtype)
    picked = None
    if usable is not None:
        rows = np.flatnonzero(usable)
        if len(rows) < _WHOLE * len(stored):
            picked, usable = rows, None
    length = len(stored) if picked is None else len(picked)
    row_bytes = max(1, stored[:1].nbytes)
    workers = free_cores() if length * row_bytes > _THREAD_BYTES else 1
    bounds = [length * number // workers for number in range(workers + 1)]
    scans = [_Scan(stored, picked, usable, kernel, count, range(*pair)) for pair in pairwise(bounds)]
    if workers == 1:
        scans[0].run()
        return scans[0].best.rows()
    # Threads of BLAS within these would mostly wait for each other.
    with (
        one_thread_in_blas() if kernel.blas else nullcontext(),
        ThreadPoolExecutor(workers, thread_name_prefix="cir-scan") as pool,
    ):
        list(pool.map(_Scan.run, scans))
    best = scans[0].best
    for other in scans[1:]:
        best.take(other.best)
    return best.rows()


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


def best_of(stored: Stored, rows: Rows, query: Floats, count: int) -> Rows:
    """Those of some rows that may be among the best `count` of them for a (D,) query."""
    if len(rows) <= count:
        return rows
    kernel = kernel_for(query[None], stored.dtype)
    scores = block_scores(kernel, stored.take(rows, axis=0))[:, 0]
    kth = len(rows) - count
    best: Rows = rows[scores >= np.partition(scores, kth)[kth] - 2 * kernel.slack[0]]
    return best


def block_scores(kernel: Kernel, block: Stored) -> Floats:
    """(n, D) rows, or (n, T, D) whose maximum over T counts -> (n, B) float32 scores by a kernel."""
    scores = kernel.scores(block.reshape(-1, block.shape[-1]))
    return scores if block.ndim == 2 else _max_of_tokens(scores.reshape(*block.shape[:2], -1))


class _Scan:
    """The scan of one range of rows by one thread.

    Attributes:
        best: what it has found.
    """

    def __init__(
        self, stored: Stored, picked: Rows | None, usable: Mask | None, kernel: Kernel, count: int, places: range
    ) -> None:
        self._stored, self._picked, self._usable, self._kernel = stored, picked, usable, kernel
        self._range = places  # of `picked`, or of all rows
        self.best = Best(count, kernel.slack)

    def run(self) -> None:
        """Scan."""
        values = max(1, self._stored[:1].size)
        step = _BLOCK_BYTES // (values * self._stored.itemsize)
        if len(self._kernel.slack) > 1:
            step = min(step, _BLOCK_SCORES // (len(self._kernel.slack) * max(1, values // self._stored.shape[-1])))
        step = max(1, step)
        for start in range(self._range.start, self._range.stop, step):
            stop = min(start + step, self._range.stop)
            if self._picked is not None:
                rows = self._picked[start:stop]
                self.best.add(rows, block_scores(self._kernel, self._stored[rows]))
                continue
            scores = block_scores(self._kernel, self._stored[start:stop])
            if self._usable is not None:
                scores[~self._usable[start:stop]] = -np.inf
            self.best.add(start, scores)


class Best:
    """The rows seen so far that may be among the best `count` of each of B queries.

    Args:
        count: number of best rows.
        slack: (B,) how far a score may be off.
    """

    def __init__(self, count: int, slack: Floats) -> None:
        self._count = count
        self._margin = 2 * slack  # the row at the cut may be off, and so may the row below it
        self._cut = np.full(len(slack), -np.inf, np.float32)
        self._found: list[tuple[Rows, Rows, Floats]] = []  # row, query, score
        self._seen = self._seen_at_cut = 0

    def add(self, rows: Rows | int, scores: Floats) -> None:
        """Take rows with their (n, B) scores; -inf for a row that does not count.

        Args:
            rows: (n,), or the first of n consecutive ones.
            scores: float32.
        """
        if not self._seen and len(scores) > self._count:
            kth = len(scores) - self._count
            self._cut = np.partition(scores.T, kth, axis=1)[:, kth] - self._margin
        # A cut of -inf lets pass every row that counts.
        passing = np.flatnonzero(scores >= np.maximum(self._cut, np.finfo(np.float32).min))  # quicker than by two axes
        places, numbers = np.divmod(passing, len(self._cut))
        self.extend(rows[places] if isinstance(rows, np.ndarray) else places + rows, numbers, scores[places, numbers])
        self._seen += len(scores)
        if self._seen >= 2 * self._seen_at_cut:  # the cut rises ever more slowly
            self._raise_cut()

    def extend(self, rows: Rows, numbers: Rows, scores: Floats) -> None:
        """Take some rows, each with the number of a query and its score for that query; all (n,)."""
        self._found.append((rows, numbers, scores))

    def take(self, other: Best) -> None:
        """Add what another has found."""
        self._found += other._found

    def rows(self) -> list[Rows]:
        """For each query its rows."""
        self._raise_cut()
        return [rows for rows, _ in self._by_query()]

    def _by_query(self) -> list[tuple[Rows, Floats]]:
        """For each query its rows and their scores."""
        rows, numbers, scores = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        if len(self._cut) == 1:
            return [(rows, scores)]
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(1, len(self._cut)))
        return list(zip(np.split(rows[order], ends), np.split(scores[order], ends), strict=True))

    def _raise_cut(self) -> None:
        self._seen_at_cut = self._seen
        if not self._found:
            empty = np.empty(0, np.int64)
            self._found = [(empty, empty, np.empty(0, np.float32))]
        kept = []
        for number, (rows, scores) in enumerate(self._by_query()):
            if len(rows) > self._count:
                kth = len(rows) - self._count
                cut = max(self._cut[number], np.partition(scores, kth)[kth] - self._margin[number])
                self._cut[number] = cut
                inside = scores >= cut
                rows, scores = rows[inside], scores[inside]
            kept.append((rows, np.full(len(rows), number, np.int64), scores))
        self._found = kept


def _max_of_tokens(scores: Floats) -> Floats:
    """(n, T, B) -> (n, B), the maximum over T, by halving: numpy's own is slow over a short axis."""
    while scores.shape[1] > 1:
        half = scores.shape[1] // 2
        scores = np.maximum(scores[:, :-half], scores[:, half:])
    return scores[:, 0]
