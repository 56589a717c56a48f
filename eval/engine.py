"""Runs a benchmark against an index: the composed query and three baselines, over the same gallery.

    composed   reference and caption
    image      the reference alone
    text       the caption alone
    sum        image and text vectors, weighted, added and normalised

A query that lacks what a system needs (no caption for "text", an absent reference) gets no answer from it, which
scores 0.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cir.errors import MissingImageError
from cir.data.benchmark import Benchmark
from cir.eval.runs import Run
from cir.eval.report import COMPOSED, make_report
from cir.types import Query

if TYPE_CHECKING:
    from cir.types import Floats, ModelCard

Hits = list[tuple[str, float]]

Progress = Callable[[int, int], None]

BATCH = 64  # queries encoded at once: bounds the pixels in memory and the time between two words of progress
RANKED_AT_ONCE = 256  # bounds the (B, N) scores in memory


class Searcher(Protocol):
    """What is evaluated; `cir.search.searcher.Index` is one."""

    @property
    def card(self) -> ModelCard:
        """Who encodes the queries; its `sum_weight` is the share of the image in "sum"."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all images that can be searched."""

    def query_vectors(self, queries: Sequence[Query]) -> Floats:
        """B queries by reference and text, by reference, or by text -> (B, D) float32, what `rank` takes."""

    def rank(
        self, vectors: Floats, k: int, *, allowed: Sequence[str] | None, exclude: Sequence[frozenset[str]]
    ) -> list[Hits]:
        """(B, D) vectors -> for each the best k (id, score), scores falling, ties by id.

        Args:
            vectors: (B, D) float32, from `query_vectors`, or sums of such.
            k: how many at most.
            allowed: search only among these ids; None for all.
            exclude: B sets of ids that may not be among the hits.
        """


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        report: as `cir.eval.report.make_report` gives it; plain JSON values.
        runs: system ("composed", "image", "text", "sum") -> its run: as many places as the measures look at, and
            below them the rest of the query's subset.
        subsets: query -> its subset, ranked by "composed"; empty where there are no subsets.
    """

    report: dict[str, Any]
    runs: dict[str, Run]
    subsets: Run


def evaluate(
    benchmark: Benchmark, searcher: Searcher, *, seed: int = 0, progress: Progress | None = None
) -> Evaluation:
    """Ask every query of a benchmark four ways and score the answers.

    Where the targets are not public only the composed query is asked, and there is nothing to score.

    Args:
        benchmark: what to ask.
        searcher: an index that holds all images of the benchmark; it may hold more, which are not searched.
        seed: of the bootstrap.
        progress: called with (queries encoded, queries to encode).

    Raises:
        MissingImageError: the index does not hold an image of the gallery or a reference.
    """
    started = time.perf_counter()
    _check_images(benchmark, searcher)
    vectors = _systems(benchmark, searcher, progress or (lambda done, total: None))
    runs, subsets = {}, {}
    for system, of_system in vectors.items():
        runs[system] = _run(benchmark, searcher, of_system)
        subsets[system] = _rank_subsets(benchmark, searcher, of_system)
    whole = {system: _append(run, subsets[system]) for system, run in runs.items()}
    seconds = time.perf_counter() - started
    report = make_report(benchmark, whole, model=searcher.card.to_json(), seconds=seconds, seed=seed)
    if benchmark.judged and COMPOSED in searcher.card.min_scores:
        report["nothing_fits"] = _nothing_fits(benchmark, searcher, vectors[COMPOSED], runs[COMPOSED])
    return Evaluation(report, whole, subsets[COMPOSED])


def _check_images(benchmark: Benchmark, searcher: Searcher) -> None:
    references = {query.reference for query in benchmark.queries if query.reference}
    needed = {*benchmark.gallery, *references} - benchmark.absent
    missing = sorted(needed.difference(searcher.ids))
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise MissingImageError(
            f"index: {len(missing)} of {len(needed)} images of benchmark {benchmark.name} are not in it:"
            f" {names}; add them with 'cir build-index'"
        )


def _systems(benchmark: Benchmark, searcher: Searcher, progress: Progress) -> dict[str, Floats]:
    """System -> (Q, D) float32, unit-norm; a row of zeros where a query has nothing to ask that system."""
    nothing = Query()
    composed, image, text = [], [], []
    for query in benchmark.queries:
        references = (query.reference,) if query.reference else ()
        there = query.reference not in benchmark.absent
        composed.append(Query(references=references, text=query.caption) if there else nothing)
        image.append(Query(references=references) if there else nothing)
        text.append(Query(text=query.caption))
    if not benchmark.judged:
        return {COMPOSED: _encode(searcher, composed, progress)}
    encoded = _encode(searcher, [*composed, *image, *text], progress)
    vectors = dict(zip((COMPOSED, "image", "text"), encoded.reshape(3, len(composed), -1), strict=True))
    weight = np.float32(searcher.card.sum_weight)
    total = weight * vectors["image"] + (1 - weight) * vectors["text"]
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    vectors["sum"] = np.divide(total, norms, out=np.zeros_like(total), where=norms > 0)
    return vectors


def _encode(searcher: Searcher, queries: Sequence[Query], progress: Progress) -> Floats:
    """Q queries -> (Q, D); every distinct one is encoded once, an empty one is a row of zeros."""
    distinct = list(dict.fromkeys(query for query in queries if query.references or query.text.strip()))
    parts = []
    for start in range(0, len(distinct), BATCH):
        batch = distinct[start : start + BATCH]
        parts.append(searcher.query_vectors(batch))
        progress(start + len(batch), len(distinct))
    width = parts[0].shape[1] if parts else searcher.card.dims
    vectors = np.concatenate([*parts, np.zeros((1, width), np.float32)])  # the last row is for the empty ones
    rows = {query: row for row, query in enumerate(distinct)}
    return vectors[[rows.get(query, -1) for query in queries]]


def _nothing_fits(benchmark: Benchmark, searcher: Searcher, vectors: Floats, run: Run) -> dict[str, float]:
    """How often "nothing fits" is said of headline queries: wrongly as they are, rightly without their targets."""
    floor = searcher.card.min_scores[COMPOSED]
    gone = _run(benchmark, searcher, vectors, k=1, without_targets=True)
    asked = [query.id for query in benchmark.queries if query.headline and run[query.id] and gone[query.id]]
    said = {name: [ranked[query][0][1] < floor for query in asked] for name, ranked in (("here", run), ("gone", gone))}
    return {
        "threshold": floor,
        "false_alarms": float(np.mean(said["here"])) if asked else 0.0,
        "recognised": float(np.mean(said["gone"])) if asked else 0.0,
    }


def _run(
    benchmark: Benchmark, searcher: Searcher, vectors: Floats, *, k: int | None = None, without_targets: bool = False
) -> Run:
    """Rank (Q, D) vectors, each in its query's gallery; a query whose vector is zero has no hits."""
    run: Run = {query.id: [] for query in benchmark.queries}
    galleries = {name: sorted(ids) for name, ids in benchmark.galleries.items()} or {"": benchmark.gallery}
    for name, gallery in galleries.items():
        rows = [row for row, query in enumerate(benchmark.queries) if query.gallery == name]
        among = None if set(searcher.ids) == set(gallery) else gallery
        run |= dict(_rank(benchmark, searcher, vectors, rows, k or benchmark.depth, among, without_targets))
    return run


def _rank_subsets(benchmark: Benchmark, searcher: Searcher, vectors: Floats) -> Run:
    """Rank (Q, D) vectors, each in its query's subset and to its end."""
    run: Run = {}
    if benchmark.ranks_subsets:
        by_subset = defaultdict(list)
        for row, query in enumerate(benchmark.queries):
            by_subset[query.subset].append(row)
        for subset, rows in by_subset.items():
            there = tuple(image for image in subset if image not in benchmark.absent)
            if there:
                run |= dict(_rank(benchmark, searcher, vectors, rows, len(there), there))
    return run


def _rank(
    benchmark: Benchmark,
    searcher: Searcher,
    vectors: Floats,
    rows: Sequence[int],
    k: int,
    among: Sequence[str] | None,
    without_targets: bool = False,
) -> Iterator[tuple[str, Hits]]:
    """The best k of each query among some images, without its reference unless that is kept; without targets too."""
    queries = benchmark.queries
    asked = [row for row in rows if vectors[row].any()]
    for start in range(0, len(asked), RANKED_AT_ONCE):
        batch = asked[start : start + RANKED_AT_ONCE]
        exclude = []
        for query in (queries[row] for row in batch):
            out = {query.reference} if query.reference and not benchmark.keep_reference else set()
            exclude.append(frozenset(out | query.targets if without_targets else out))
        found = searcher.rank(vectors[batch], k, allowed=among, exclude=exclude)
        yield from zip((queries[row].id for row in batch), found, strict=True)


def _append(run: Run, subsets: Run) -> Run:
    """The members of each query's subset after its first k, so that the run alone gives Rs@k.

    They never rise above the k-th place, even where an approximate search had overlooked them: R@k is what
    the search itself found.
    """
    whole: Run = {}
    for query, hits in run.items():
        found = {image for image, _ in hits}
        floor = hits[-1][1] if hits else 1.0
        below = [(image, min(score, floor)) for image, score in subsets.get(query, ()) if image not in found]
        whole[query] = hits + below
    return whole
