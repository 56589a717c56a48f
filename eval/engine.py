"""Runs a benchmark against an index: the composed query and its baselines, over the same gallery.

    composed   reference and caption
    image      the reference alone
    text       the caption alone
    sum        image and text vectors, weighted, added and normalised

and for encoders that know picture and caption only apart, and combiners over them, two more:

    slerp      a point of the great circle between the two vectors
    product    the product of the similarities to both

A query that lacks what a system needs (no caption for "text", an absent reference) gets no hits from it and scores 0.
If no query has a reference, or none a caption, all of these are one, and "composed" alone is run. A caller may choose
some of them; the composed query is always run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from cir.data.benchmark import Benchmark
from cir.errors import MissingImageError, UsageError
from cir.eval.report import COMPOSED, Confidence, Report, make_report
from cir.eval.runs import Run
from cir.given import instance, kind, shown
from cir.model_card import APART
from cir.query_vectors import QueryVectors
from cir.types import Progress, Query

if TYPE_CHECKING:
    from cir.types import ModelCard

Hits = list[tuple[str, float]]

COMPOSED_APART = (*APART, "combiner")  # compositions of an image vector and a text vector
BASELINES = ("image", "text", "sum")
SYSTEMS = (*BASELINES, "slerp", "product")

BATCH = 128  # queries encoded at once: bounds the pixels in memory and the time between two calls of `progress`
RANKED_AT_ONCE = 256  # bounds the (B, N) scores in memory


@runtime_checkable
class Retriever(Protocol):
    """What is evaluated; `cir.search.searcher.Searcher` is one."""

    @property
    def card(self) -> ModelCard:
        """The model that encodes the queries; its `sum_weight` is the share of the image in "sum"."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all images that can be searched."""

    def encode(self, queries: Sequence[Query]) -> QueryVectors:
        """B queries by reference and text, by reference, or by text -> unit-norm vectors in every searched space."""

    def rank(
        self,
        vectors: QueryVectors,
        k: int,
        *,
        allowed: Sequence[str] | None = None,
        exclude: Sequence[frozenset[str]] | None = None,
    ) -> list[Hits]:
        """The best k (id, score) for each of B queries, best first, ties by id.

        Args:
            vectors: from `encode`, or sums of such; need not be unit-norm.
            k: number of hits.
            allowed: ids to rank; all if None.
            exclude: B sets of ids that may not be among the hits.
        """


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        report: the figures.
        runs: system ("composed", "image", "text", "sum", ...) -> its run: as many hits as the measures need, and below
            them the rest of the query's subset.
        subsets: query id -> its subset, ranked by "composed"; empty without subsets.
    """

    report: Report
    runs: dict[str, Run]
    subsets: Run


def systems_of(card: ModelCard, chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """The systems that are run beside the composed query.

    Args:
        card: of the model that encodes the queries.
        chosen: some of SYSTEMS, in the order of the report; None for all that the model has.

    Raises:
        UsageError: an unknown system, or one that needs image and text apart where the model encodes them together.
    """
    has = SYSTEMS if card.composition in COMPOSED_APART else BASELINES
    for name in () if chosen is None else chosen:
        if name not in SYSTEMS:
            raise UsageError(f"there is no composition {shown(name)}; there are {', '.join(SYSTEMS)}")
        if name not in has:
            raise UsageError(
                f"{card.name} encodes image and text together, and has no composition by {name}; take {', '.join(has)}"
            )
    return has if chosen is None else tuple(dict.fromkeys(chosen))


def evaluate(
    benchmark: Benchmark,
    retriever: Retriever,
    *,
    systems: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Search with every query of a benchmark in each of these ways, and score the rankings.

    If the targets are not public, only the whole query is run, and nothing is scored.

    Args:
        benchmark: the queries and their gallery.
        retriever: an index that holds all images of the benchmark; further images in it are not searched.
        systems: which others to run, as in `systems_of`.
        seed: of the bootstrap.
        progress: called with (queries encoded, queries to encode).

    Raises:
        UsageError: not a benchmark, nothing that can be searched, or no such system.
        MissingImageError: the index does not hold an image of the gallery or a reference.
    """
    started = time.perf_counter()
    instance(benchmark, Benchmark, "benchmark", "load one, such as cir.data.jsonl.load_jsonl(file, photos)")
    if not isinstance(retriever, Retriever):
        raise UsageError(f"the retriever is {kind(retriever)}, {shown(retriever)}; open an index: cir.open_index(path)")
    chosen = systems_of(retriever.card, systems)
    _check_images(benchmark, retriever)
    vectors = _encode_systems(benchmark, retriever, chosen, progress or (lambda done, total: None))
    hits = {system: _rank_galleries(benchmark, retriever, queries) for system, queries in vectors.items()}
    subsets = {system: _rank_subsets(benchmark, retriever, queries) for system, queries in vectors.items()}
    runs = {system: _append(run, subsets[system]) for system, run in hits.items()}
    seconds = time.perf_counter() - started
    report = make_report(benchmark, runs, model=retriever.card.to_json(), seconds=seconds, seed=seed)
    if benchmark.judged and benchmark.form in retriever.card.min_scores:
        report = replace(report, confidence=_confidence(benchmark, retriever, vectors[COMPOSED], hits[COMPOSED]))
    return Evaluation(report, runs, subsets[COMPOSED])


def _check_images(benchmark: Benchmark, retriever: Retriever) -> None:
    references = {query.reference for query in benchmark.queries if query.reference}
    needed = {*benchmark.gallery, *references} - benchmark.absent
    missing = sorted(needed.difference(retriever.ids))
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise MissingImageError(
            f"index: {len(missing)} of {len(needed)} images of benchmark {benchmark.name} are not in it:"
            f" {names}; add them with 'cir build-index'"
        )


def _encode_systems(
    benchmark: Benchmark, retriever: Retriever, systems: Sequence[str], progress: Progress
) -> dict[str, QueryVectors]:
    """System -> Q queries, unit-norm; zero for a query that lacks what the system needs."""
    nothing = Query()
    composed, image, text = [], [], []
    for judged in benchmark.queries:
        query, absent = judged.query, judged.reference in benchmark.absent
        composed.append(nothing if absent else query)
        image.append(nothing if absent else Query(references=query.references))
        text.append(Query(text=query.text))
    if not benchmark.judged or benchmark.form != COMPOSED:
        return {COMPOSED: _encode(retriever, composed, progress)}
    encoded = _encode(retriever, [*composed, *image, *text], progress)
    count, weight = len(composed), retriever.card.sum_weight
    whole, pictures, texts = (encoded[slice(number * count, (number + 1) * count)] for number in range(3))
    make: dict[str, Callable[[], QueryVectors]] = {
        "image": lambda: pictures,
        "text": lambda: texts,
        "sum": lambda: (weight * pictures + (1 - weight) * texts).unit(),
        "slerp": lambda: pictures.slerp(texts, weight),
        "product": lambda: pictures.product(texts, weight),
    }
    return {COMPOSED: whole, **{system: make[system]() for system in systems}}


def _encode(retriever: Retriever, queries: Sequence[Query], progress: Progress) -> QueryVectors:
    """Q queries, unit-norm; every distinct query is encoded once, an empty one is zero."""
    distinct = list(dict.fromkeys(query for query in queries if query.references or query.text.strip()))
    parts = []
    for start in range(0, len(distinct), BATCH):
        batch = distinct[start : start + BATCH]
        parts.append(retriever.encode(batch))
        progress(start + len(batch), len(distinct))
    encoded = QueryVectors.concatenate(parts or [retriever.encode([])])
    zero = QueryVectors(
        {space: np.zeros((1, vectors.shape[1]), np.float32) for space, vectors in encoded.by_space.items()}
    )
    rows = {query: row for row, query in enumerate(distinct)}
    return QueryVectors.concatenate([encoded, zero])[[rows.get(query, len(distinct)) for query in queries]]


def _confidence(benchmark: Benchmark, retriever: Retriever, vectors: QueryVectors, hits: Run) -> Confidence:
    """How many headline queries score below the threshold, with their targets in the gallery and without."""
    threshold = retriever.card.min_scores[benchmark.form]
    without = _rank_galleries(benchmark, retriever, vectors, k=1, without_targets=True)
    ids = [query.id for query in benchmark.queries if query.headline and hits[query.id] and without[query.id]]

    def share_below(run: Run) -> float:
        return float(np.mean([run[query_id][0][1] < threshold for query_id in ids])) if ids else 0.0

    return Confidence(threshold, false_alarms=share_below(hits), recognised=share_below(without))


def _rank_galleries(
    benchmark: Benchmark,
    retriever: Retriever,
    vectors: QueryVectors,
    *,
    k: int | None = None,
    without_targets: bool = False,
) -> Run:
    """Rank every query's gallery; a query whose vector is zero has no hits."""
    run: Run = {query.id: [] for query in benchmark.queries}
    if benchmark.own_galleries:
        return run | _rank_within(benchmark, retriever, vectors, k or benchmark.depth, without_targets)
    galleries = {name: sorted(ids) for name, ids in benchmark.galleries.items()} or {"": benchmark.gallery}
    for name, gallery in galleries.items():
        rows = [row for row, query in enumerate(benchmark.queries) if query.gallery == name]
        allowed = None if set(retriever.ids) == set(gallery) else gallery
        run |= dict(_rank(benchmark, retriever, vectors, rows, k or benchmark.depth, allowed, without_targets))
    return run


def _rank_subsets(benchmark: Benchmark, retriever: Retriever, vectors: QueryVectors) -> Run:
    """Rank every query's subset to its end."""
    return _rank_within(benchmark, retriever, vectors) if benchmark.ranks_subsets else {}


def _rank_within(
    benchmark: Benchmark,
    retriever: Retriever,
    vectors: QueryVectors,
    k: int | None = None,
    without_targets: bool = False,
) -> Run:
    """The best k of every query's subset; all of it if None."""
    run: Run = {}
    by_subset = defaultdict(list)
    for row, query in enumerate(benchmark.queries):
        by_subset[query.subset].append(row)
    for subset, rows in by_subset.items():
        allowed = tuple(image for image in subset if image not in benchmark.absent)
        if allowed:
            run |= dict(_rank(benchmark, retriever, vectors, rows, k or len(allowed), allowed, without_targets))
    return run


def _rank(
    benchmark: Benchmark,
    retriever: Retriever,
    vectors: QueryVectors,
    rows: Sequence[int],
    k: int,
    allowed: Sequence[str] | None,
    without_targets: bool = False,
) -> Iterator[tuple[str, Hits]]:
    """The best k of some queries among the allowed images: without its reference unless that stays, or its targets."""
    queries, nonzero = benchmark.queries, vectors.nonzero
    rows = [row for row in rows if nonzero[row]]
    for start in range(0, len(rows), RANKED_AT_ONCE):
        batch = rows[start : start + RANKED_AT_ONCE]
        exclude = []
        for query in (queries[row] for row in batch):
            barred = {query.reference} if query.reference and not benchmark.keep_reference else set()
            exclude.append(frozenset(barred | query.targets if without_targets else barred))
        hits = retriever.rank(vectors[batch], k, allowed=allowed, exclude=exclude)
        yield from zip((queries[row].id for row in batch), hits, strict=True)


def _append(run: Run, subsets: Run) -> Run:
    """The members of each query's subset after its first k hits, so that the run alone gives Rs@k.

    They never rise above the k-th place, even if an approximate search has missed them: R@k is that of the search.
    """
    whole: Run = {}
    for query, hits in run.items():
        ranked = {image for image, _ in hits}
        least = hits[-1][1] if hits else 1.0
        below = [(image, min(score, least)) for image, score in subsets.get(query, ()) if image not in ranked]
        whole[query] = hits + below
    return whole
