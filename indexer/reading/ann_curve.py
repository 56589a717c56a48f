"""What an approximate index finds for which effort: measured when it is built, and what each search is promised from.

Recall at depth d is the share of the d best rows of an exact scan that are among the d best after rescoring. A filter
that leaves a share s of the rows makes the k best of them lie at about depth k / s of all rows, so one curve over
several depths serves every filter that has nothing to do with the query. It does not serve a filter whose images all
lie far from the query; where too few of them are found, the segment is scanned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from cir.arrays import Floats, Rows, Stored, unit
from cir.indexer.reading.exact import rescore, scan
from cir.typed_json import Within

DEPTHS = (10, 30, 100, 300, 1000)
OVERFETCH = (4, 8, 16, 32, 64)  # candidates for each row wanted; their approximate order is that of the codes
_MOST = 16_384  # candidates that are looked at for one query
QUERIES = 200  # of each kind
RESCORE = 20  # codes that are scanned in the time in which one candidate is scored from its stored vector
_ENOUGH, _ENOUGH_BELOW = 0.999, 0.99  # recall at the first depth and at the others: more effort is not measured
_TIMED = 20  # queries for each time
_Z = 1.645  # of a one-sided bound of 95 %

Count = Annotated[int, Within(1, 10**9)]
Share = Annotated[float, Within(0, 1)]
# (queries, nprobe, count) -> (B, count) rows, best first by approximate score, -1 where there are no more
Probe = Callable[[Floats, int, int], Rows]


@dataclass(frozen=True)
class Recall:
    """Recall at each depth of the curve: means over queries, and lower bounds of 95 %, which are what is promised."""

    mean: tuple[Share, ...]
    lower: tuple[Share, ...]


@dataclass(frozen=True)
class Point:
    """What one effort finds.

    Attributes:
        nprobe: how many lists are scanned.
        overfetch: candidates for each row wanted.
        ms: median processor time of one query of ten rows, without rescoring; only for people.
        recall: for each kind of queries.
    """

    nprobe: Count
    overfetch: Count
    ms: Annotated[float, Within(0, 1e9)]
    recall: Mapping[str, Recall]

    @cached_property
    def lower(self) -> tuple[float, ...]:
        """What is promised at each depth: the lowest bound of all kinds of queries."""
        return tuple(map(min, zip(*(recall.lower for recall in self.recall.values()), strict=True)))


@dataclass(frozen=True)
class Curve:
    """Effort against recall of one index.

    Attributes:
        rows, lists: of the index.
        queries: number of queries of each kind: "stored", "between" and "given", see `measure`.
        depths: ascending.
        points: by ascending nprobe and overfetch.
    """

    rows: Count
    lists: Count
    queries: Mapping[str, Count]
    depths: Annotated[tuple[Count, ...], Within(1, 100)]
    points: Annotated[tuple[Point, ...], Within(1, 1000)]

    def __post_init__(self) -> None:
        if list(self.depths) != sorted(set(self.depths)):
            raise ValueError("depths: not ascending")
        for point in self.points:
            sizes = {len(part) for recall in point.recall.values() for part in (recall.mean, recall.lower)}
            if sizes != {len(self.depths)} or point.recall.keys() != self.queries.keys():
                raise ValueError("points: contradict the depths or the kinds of queries")

    def cost(self, point: Point, count: int) -> float:
        """What a search for `count` rows costs, in codes scanned."""
        return point.nprobe * self.rows / self.lists + RESCORE * point.overfetch * count

    def effort(self, count: int, share: float, recall: float) -> Point | None:
        """The cheapest point that finds the `count` best rows with this recall; None if none does.

        Args:
            count: rows wanted, at least 1.
            share: of the rows that may be found, above 0.
            recall: wanted.
        """
        depth = count / share
        if depth > self.depths[-1]:
            return None
        high = next(place for place, known in enumerate(self.depths) if known >= depth)
        low, weight = max(0, high - 1), 1.0
        if high > low:
            weight = math.log(depth / self.depths[low]) / math.log(self.depths[high] / self.depths[low])
        enough = [p for p in self.points if p.lower[low] + weight * (p.lower[high] - p.lower[low]) >= recall]
        return min(enough, key=lambda point: self.cost(point, count), default=None)


def measure(vectors: Stored, lists: int, probe: Probe, queries: Floats | None = None) -> Curve:
    """The curve of a finished index.

    Measured are three kinds of queries, for lists are made around what is stored, and a composed query lies elsewhere:

    - "stored": rows of the gallery. A row does not count as its own neighbour, since it would always be found; moving
      it by noise instead would need a right amount of noise.
    - "between": half way between two rows, the nearest thing to a composed query that is known without a model.
    - "given": real queries, if there are some.

    Args:
        vectors: (N, D), unit-norm, which the index was built from.
        lists: how many the index has.
        probe: searches it.
        queries: (Q, D) float32, unit-norm, or None.
    """
    rows = len(vectors)
    depths = tuple(depth for depth in DEPTHS if depth == DEPTHS[0] or depth * 10 <= rows)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(rows, min(QUERIES, rows), replace=False))
    stored = vectors[chosen].astype(np.float32)
    between = unit(stored + rng.permutation(stored))
    kinds = {"stored": _Judged(vectors, stored, depths, chosen), "between": _Judged(vectors, between, depths)}
    if queries is not None and len(queries):
        kinds["given"] = _Judged(vectors, np.asarray(queries[:QUERIES], np.float32), depths)
    points: list[Point] = []
    nprobe = 1
    while True:
        recalls = {kind: judged.recalls(probe, nprobe) for kind, judged in kinds.items()}
        ms = _median_ms(probe, stored[:_TIMED], nprobe)
        here = [
            Point(nprobe, overfetch, ms, {kind: recall[place] for kind, recall in recalls.items()})
            for place, overfetch in enumerate(OVERFETCH)
        ]
        points += here
        # Beyond a quarter of the lists an exact scan, which uses all cores, is as quick.
        if (here[-1].lower[0] >= _ENOUGH and min(here[-1].lower) >= _ENOUGH_BELOW) or nprobe * 8 > lists:
            break
        nprobe *= 2
    return Curve(rows, lists, {kind: len(judged) for kind, judged in kinds.items()}, depths, tuple(points))


class _Judged:
    """Queries with their exact answers. With `own` each query is that row, which is not one of its answers."""

    def __init__(self, vectors: Stored, queries: Floats, depths: Sequence[int], own: Rows | None = None) -> None:
        self._queries, self._depths, self._own = queries, depths, own
        self._best: list[Rows] = []  # best first
        self._needed: list[Rows] = []  # for each depth the rows that may count: more than the depth with ties
        count = depths[-1] + 1
        for number, rows in enumerate(scan(vectors, queries, count)):
            rows = rows if own is None else rows[rows != own[number]]
            scores = rescore(vectors, rows, queries[number])
            order = np.argsort(-scores, kind="stable")
            scores = scores[order]
            cuts = scores[np.minimum(depths, len(scores)) - 1]
            self._best.append(rows[order])
            self._needed.append(np.searchsorted(-scores, -cuts, side="right"))

    def __len__(self) -> int:
        return len(self._queries)

    def recalls(self, probe: Probe, nprobe: int) -> list[Recall]:
        """Recall at every depth, for each overfetch."""
        found = probe(self._queries, nprobe, min(OVERFETCH[-1] * self._depths[-1] + 1, _MOST))
        shares = np.empty((len(OVERFETCH), len(self._queries), len(self._depths)))
        for number, (best, needed) in enumerate(zip(self._best, self._needed, strict=True)):
            rows = found[number]
            rows = rows if self._own is None else rows[rows != self._own[number]]
            # At which place of the approximate order each of the best rows was found; far behind if it was not.
            order = np.argsort(rows, kind="stable")
            at = np.minimum(np.searchsorted(rows, best, sorter=order), len(rows) - 1)
            places = np.where(rows[order[at]] == best, order[at], np.iinfo(np.int64).max)
            for column, (depth, enough) in enumerate(zip(self._depths, needed, strict=True)):
                wanted = min(depth, len(best))
                for line, overfetch in enumerate(OVERFETCH):
                    hits = int((places[:enough] < overfetch * depth).sum())
                    shares[line, number, column] = min(hits, wanted) / max(1, wanted)
        return [_recall(line) for line in shares]


def _recall(shares: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Recall:
    """(Q, depths) shares found -> means and bounds."""
    mean = shares.mean(axis=0)
    lower = np.maximum(0, mean - _Z * shares.std(axis=0) / np.sqrt(len(shares)))
    return Recall(tuple(mean.round(5).tolist()), tuple(lower.round(5).tolist()))


def _median_ms(probe: Probe, queries: Floats, nprobe: int) -> float:
    times = []
    for query in queries:
        start = time.thread_time()  # one query is searched by one thread; other jobs do not count
        probe(query[None], nprobe, DEPTHS[0] * 2)
        times.append(time.thread_time() - start)
    return round(1e3 * float(np.median(times)), 4)
