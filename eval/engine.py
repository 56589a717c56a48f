"""Runs a benchmark against an index: the composed query and three baselines, over the same gallery.

    composed   reference and caption
    image      the reference alone
    text       the caption alone
    sum        image and text vectors, weighted, added and normalised

A query that lacks what a system needs (no caption for "text") gets no answer from it, which scores 0.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cir.errors import MissingImageError
from cir.eval.benchmark import Benchmark, BenchmarkQuery
from cir.eval.runs import Run
from cir.eval.scoring import COMPOSED, make_report
from cir.types import Query

if TYPE_CHECKING:
    from cir.types import Floats, ModelCard

Hits = list[tuple[str, float]]

BATCH = 256  # queries encoded or ranked at once: bounds the pixels and the (B, N) scores in memory


class Searcher(Protocol):
    """What is evaluated; `cir.search.Index` is one."""

    @property
    def card(self) -> ModelCard:
        """Who encodes the queries; its `sum_weight` is the share of the image in "sum"."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all images that can be searched."""

    def query_vectors(self, queries: Sequence[Query]) -> Floats:
        """B queries by reference and text, by reference, or by text -> (B, D) float32, unit-norm."""

    def rank(
        self, vectors: Floats, k: int, *, allowed: Sequence[str] | None, exclude: Sequence[frozenset[str]]
    ) -> list[Hits]:
        """(B, D) vectors -> for each the best k (id, score), scores falling, ties by id.

        Args:
            vectors: (B, D) float32, unit-norm.
            k: how many at most.
            allowed: search only among these ids; None for all.
            exclude: B sets of ids that may not be among the hits.
        """


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        report: as `cir.eval.scoring.make_report` gives it; plain JSON values.
        runs: system ("composed", "image", "text", "sum") -> its run.
    """

    report: dict[str, Any]
    runs: dict[str, Run]


def evaluate(benchmark: Benchmark, searcher: Searcher, *, seed: int = 0) -> Evaluation:
    """Ask every query of a benchmark four ways and score the answers.

    Args:
        benchmark: what to ask.
        searcher: an index that holds all images of the benchmark; it may hold more, which are not searched.
        seed: of the bootstrap.

    Raises:
        MissingImageError: the index does not hold an image of the gallery or a reference.
    """
    started = time.perf_counter()
    allowed = _allowed(benchmark, searcher)
    systems = _systems(benchmark, searcher)
    runs = {system: _run(benchmark, searcher, vectors, allowed) for system, vectors in systems.items()}
    seconds = time.perf_counter() - started
    report = make_report(benchmark, runs, model=searcher.card.to_json(), seconds=seconds, seed=seed)
    return Evaluation(report, runs)


def _allowed(benchmark: Benchmark, searcher: Searcher) -> list[str] | None:
    """The gallery where the index holds more than that, else None: everything."""
    gallery, indexed = benchmark.gallery, set(searcher.ids)
    needed = {*gallery, *(query.reference for query in benchmark.queries if query.reference)}
    missing = sorted(needed - indexed)
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise MissingImageError(
            f"index: {len(missing)} of {len(needed)} images of benchmark {benchmark.name} are not in it:"
            f" {names}; add them with 'cir build-index'"
        )
    return None if indexed == set(gallery) else gallery


def _systems(benchmark: Benchmark, searcher: Searcher) -> dict[str, Floats]:
    """System -> (Q, D) float32, unit-norm; a row of zeros where a query has nothing to ask that system."""
    queries = [
        Query(references=(query.reference,) if query.reference else (), text=query.caption)
        for query in benchmark.queries
    ]
    composed = _encode(searcher, queries)
    image = _encode(searcher, [Query(references=query.references) for query in queries])
    text = _encode(searcher, [Query(text=query.text) for query in queries])
    weight = np.float32(searcher.card.sum_weight)
    total = weight * image + (1 - weight) * text
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.divide(total, norms, out=np.zeros_like(total), where=norms > 0)
    return {COMPOSED: composed, "image": image, "text": text, "sum": total}


def _encode(searcher: Searcher, queries: Sequence[Query]) -> Floats:
    """Q queries -> (Q, D); every distinct one is encoded once, an empty one is a row of zeros."""
    distinct = list(dict.fromkeys(query for query in queries if query.references or query.text.strip()))
    # The last row stays zero, for the empty ones.
    vectors = np.zeros((len(distinct) + 1, searcher.card.dims), dtype=np.float32)
    for start in range(0, len(distinct), BATCH):
        batch = distinct[start : start + BATCH]
        vectors[start : start + len(batch)] = searcher.query_vectors(batch)
    rows = {query: row for row, query in enumerate(distinct)}
    return vectors[[rows.get(query, -1) for query in queries]]


def _run(benchmark: Benchmark, searcher: Searcher, vectors: Floats, allowed: Sequence[str] | None) -> Run:
    """Rank (Q, D) vectors; a query whose vector is zero has no hits."""
    queries = benchmark.queries
    removes = not benchmark.keep_reference
    exclude = [frozenset({q.reference} if removes and q.reference else ()) for q in queries]

    def rank(rows: Sequence[int], k: int, among: Sequence[str] | None) -> Iterator[tuple[BenchmarkQuery, Hits]]:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            found = searcher.rank(vectors[batch], k, allowed=among, exclude=[exclude[row] for row in batch])
            yield from zip((queries[row] for row in batch), found, strict=True)

    run: Run = {query.id: [] for query in queries}
    asked = [row for row in range(len(queries)) if vectors[row].any()]
    depth = max((measure.k for measure in benchmark.measures if measure.name != "Rs"), default=1)
    for query, hits in rank(asked, depth, allowed):
        run[query.id] = hits
    if any(measure.name == "Rs" for measure in benchmark.measures):
        by_subset = defaultdict(list)
        for row in asked:
            by_subset[queries[row].subset].append(row)
        for subset, rows in by_subset.items():
            for query, members in rank(rows, len(subset), subset):
                run[query.id] = _append(run[query.id], members)
    return run


def _append(hits: Hits, members: Hits) -> Hits:
    """The subset's members after the first k, so that the run alone gives Rs@k.

    They never rise above the k-th place, even where an approximate search had overlooked them: R@k is what
    the search itself found.
    """
    found = {image for image, _ in hits}
    floor = hits[-1][1] if hits else 1.0
    return hits + [(image, min(score, floor)) for image, score in members if image not in found]
