"""Runs scored query by query: the same values for our runs and for anybody's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.data.benchmark import Benchmark
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.eval.runs import Run
from cir.given import instance, mapping
from cir.stats import Measure, chance, score

TARGET_SOFT = "target_soft"
PLAIN_NUMBER = re.compile("0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Values:
    """The scores of Q queries, query by query.

    Attributes:
        by_measure: name of a measure, or of the headline -> (Q,) float64 values.
        strata: (Q,) the gallery of each query, over which figures are averaged; None for a single gallery.
    """

    by_measure: Mapping[str, NDArray[np.float64]]
    strata: NDArray[Any] | None


def check_run(benchmark: Benchmark, run: Run) -> None:
    """Refuse a run of another benchmark.

    Queries without hits are allowed: they score 0, as in TREC.

    Raises:
        DataError: the run holds a query that the benchmark does not have, or an image that is not in its gallery.
    """
    mapping(run, "the run", "read one with `read_run`")
    queries = {query.id: query for query in instance(benchmark, Benchmark, "benchmark", "load one first").queries}
    unknown: dict[str, set[str]] = {"queries": run.keys() - queries.keys(), "images": set()}
    for query_id in run.keys() & queries.keys():
        query, ranked = queries[query_id], {image for image, _ in run[query_id]}
        # The reference may lie outside the gallery, but a run may hold it: it is removed before scoring.
        foreign = ranked - benchmark.searched(query) - benchmark.absent - {query.reference}
        if benchmark.unlisted:  # all that is known of COCO's ids: they are plain numbers
            foreign = {image for image in foreign if not PLAIN_NUMBER.fullmatch(image)}
        unknown["images"] |= foreign
    for kind, names in unknown.items():
        if names:
            raise DataError(
                f"run: {len(names)} {kind} are not in benchmark {benchmark.name} ({benchmark.protocol}),"
                f" first {min(names)!r}; score it with the benchmark that it answers"
            )


def headline_name(benchmark: Benchmark) -> str:
    """The name of the benchmark's headline figure, such as "(R@5 + Rs@1) / 2"; empty if it has none."""
    names = " + ".join(map(str, benchmark.headline))
    return f"({names}) / {len(benchmark.headline)}" if names else ""


def measures_of(benchmark: Benchmark, run: Run, subset_run: Run | None = None) -> tuple[Measure, ...]:
    """The benchmark's measures; without Rs@k if neither run ranks every subset to its end."""
    if subset_run is not None or not benchmark.ranks_subsets:
        return benchmark.measures
    for query in benchmark.queries:
        ranked = {image for image, _ in run.get(query.id, ())}
        if ranked and set(query.subset) - benchmark.absent - {query.reference} - ranked:
            return tuple(measure for measure in benchmark.measures if measure.name != "Rs")
    return benchmark.measures


def values_of(
    benchmark: Benchmark,
    measures: Sequence[Measure],
    run: Run,
    queries: Sequence[JudgedQuery],
    subset_run: Run | None = None,
    *,
    soft: bool = False,
) -> Values:
    """Score some queries of a run.

    Args:
        benchmark: the benchmark of the queries.
        measures: what to compute.
        run: the rankings.
        queries: which queries.
        subset_run: the rankings for Rs@k, if they are not in `run`.
        soft: count acceptable images as targets.
    """
    values: dict[str, NDArray[np.float64]] = {}
    for measure in measures:
        source = subset_run if measure.name == "Rs" and subset_run is not None else run
        values[str(measure)] = np.array([_score(benchmark, measure, source, query, soft) for query in queries])
    return _with_headline(benchmark, measures, values, queries)


def chance_of(benchmark: Benchmark, measures: Sequence[Measure], queries: Sequence[JudgedQuery]) -> Values:
    """What some queries score on average if their images are ranked at random; missing ones are not ranked."""
    values = {str(measure): np.array([_chance(benchmark, measure, query) for query in queries]) for measure in measures}
    return _with_headline(benchmark, measures, values, queries)


def values_of_groups(
    benchmark: Benchmark, measures: Sequence[Measure], run: Run, subset_run: Run | None = None
) -> dict[str, Values]:
    """Score every group of a run; the last is "target_soft", if queries have acceptable images."""
    groups = {
        name: values_of(benchmark, measures, run, [q for q in benchmark.queries if name in q.groups], subset_run)
        for name in benchmark.groups
    }
    if any(query.acceptable for query in benchmark.queries):
        groups[TARGET_SOFT] = values_of(benchmark, measures, run, benchmark.queries, subset_run, soft=True)
    return groups


def _with_headline(
    benchmark: Benchmark,
    measures: Sequence[Measure],
    values: dict[str, NDArray[np.float64]],
    queries: Sequence[JudgedQuery],
) -> Values:
    """The values of the measures and, if they include all of the headline's, their mean."""
    if benchmark.headline and set(benchmark.headline) <= set(measures):
        parts = [values[str(measure)] for measure in benchmark.headline]
        values[headline_name(benchmark)] = np.mean(parts, axis=0)
    strata = np.array([query.gallery for query in queries]) if len(benchmark.galleries) > 1 else None
    return Values(values, strata)


def _chance(benchmark: Benchmark, measure: Measure, query: JudgedQuery) -> float:
    ranked = set(query.subset) - benchmark.absent if measure.name == "Rs" else benchmark.searched(query)
    if not benchmark.keep_reference:
        ranked = ranked - {query.reference}
    targets = query.targets & ranked
    return chance(measure, len(targets), len(ranked), missing=len(query.targets - targets))


def _score(benchmark: Benchmark, measure: Measure, run: Run, query: JudgedQuery, soft: bool) -> float:
    ranking = [image for image, _ in run.get(query.id, ()) if benchmark.keep_reference or image != query.reference]
    targets = query.targets | query.acceptable if soft else query.targets
    if measure.name == "Recall" and query.first_target:
        targets = frozenset([query.first_target])
    return score(measure, ranking, targets, query.subset)
