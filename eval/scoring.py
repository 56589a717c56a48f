"""From rankings to a report: the same figures, in the same shape, for our runs and for anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir import __version__
from cir.errors import DataError
from cir.eval.benchmark import Benchmark, BenchmarkQuery
from cir.eval.metrics import Measure, compare, interval, score
from cir.eval.runs import Run

Figures = dict[str, dict[str, Any]]

_Values = dict[Measure, NDArray[np.float64]]

COMPOSED = "composed"


def check_run(benchmark: Benchmark, run: Run) -> None:
    """Refuse a run of something else.

    Queries without hits are allowed: a system that gave no answer is scored 0 for it, as TREC does.

    Raises:
        DataError: the run holds a query or an image that the benchmark does not have.
    """
    queries = {query.id for query in benchmark.queries}
    # Not in every gallery, but a run may name it: it is taken out before scoring.
    images = {*benchmark.gallery, *(query.reference for query in benchmark.queries)}
    named = {image for hits in run.values() for image, _ in hits}
    for kind, unknown in (("queries", run.keys() - queries), ("images", named - images)):
        if unknown:
            raise DataError(
                f"run: {len(unknown)} {kind} are not in benchmark {benchmark.name} ({benchmark.protocol}),"
                f" first {min(unknown)!r}; score it with the benchmark it was made for"
            )


def make_report(
    benchmark: Benchmark, runs: Mapping[str, Run], *, model: Mapping[str, Any], seconds: float, seed: int = 0
) -> dict[str, Any]:
    """The report of a run and its baselines, as plain JSON values; figures are fractions.

    The fields are those of every benchmark, and "comparison": for every measure, the best baseline and the
    paired difference of "composed" from it, left out where there are no baselines, as for a run file.

    Args:
        benchmark: what was asked.
        runs: system -> run; "composed" is the one reported, any others are its baselines.
        model: the model card as JSON, or what is known of who made the run.
        seconds: what the run took.
        seed: of the bootstrap.

    Raises:
        DataError: a run is not of this benchmark.
    """
    for run in runs.values():
        check_run(benchmark, run)
    headline = [query for query in benchmark.queries if query.headline]
    values = {system: _values(benchmark, run, headline) for system, run in runs.items()}
    baselines = [system for system in runs if system != COMPOSED]
    groups = {
        name: _values(benchmark, runs[COMPOSED], [q for q in benchmark.queries if name in q.groups])
        for name in benchmark.groups
    }
    report = {
        "benchmark": benchmark.name,
        "protocol": benchmark.protocol,
        "version": __version__,
        "seconds": round(seconds, 3),
        "queries": len(headline),
        "missing": benchmark.missing,
        "model": dict(model),
        "gallery": {"images": len(benchmark.images), "sha256": benchmark.gallery_sha256},
        "metrics": _figures(values[COMPOSED], seed),
        "groups": {name: _figures(group, seed) for name, group in groups.items()},
        "baselines": {system: _figures(values[system], seed) for system in baselines},
    }
    if baselines:
        report["comparison"] = {
            str(measure): _against_best(measure, values, baselines, seed) for measure in benchmark.measures
        }
    return report


def _values(benchmark: Benchmark, run: Run, queries: Sequence[BenchmarkQuery]) -> _Values:
    """Measure -> (Q,) the value of each query."""
    rankings = [
        [image for image, _ in run.get(query.id, ()) if benchmark.keep_reference or image != query.reference]
        for query in queries
    ]
    return {
        measure: np.array(
            [
                score(measure, ranking, query.targets, query.subset)
                for query, ranking in zip(queries, rankings, strict=True)
            ]
        )
        for measure in benchmark.measures
    }


def _figures(values: _Values, seed: int) -> Figures:
    return {
        str(measure): {"value": float(each.mean()), "ci95": list(interval(each, seed=seed))}
        for measure, each in values.items()
    }


def _against_best(
    measure: Measure, values: Mapping[str, _Values], baselines: Sequence[str], seed: int
) -> dict[str, Any]:
    """The composed system against the baseline that does best by this measure."""
    best = max(baselines, key=lambda system: float(values[system][measure].mean()))
    difference, ci95, p = compare(values[COMPOSED][measure], values[best][measure], seed=seed)
    return {"baseline": best, "difference": difference, "ci95": list(ci95), "p": p}
