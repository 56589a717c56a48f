"""From rankings to a report: the same figures, in the same shape, for our runs and for anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir import __version__
from cir.errors import DataError
from cir.data.benchmark import Benchmark, JudgedQuery, ids_sha256
from cir.stats import Measure, compare, interval, mean, score
from cir.eval.runs import Run

Figures = dict[str, dict[str, Any]]

COMPOSED = "composed"
TARGET_SOFT = "target_soft"


@dataclass(frozen=True)
class Values:
    """What some queries score, one by one.

    Attributes:
        by_measure: name of each measure, and of the headline if there is one -> (Q,) values.
        strata: (Q,) the gallery of each query where there are several, over which figures are averaged; else None.
    """

    by_measure: Mapping[str, NDArray[np.float64]]
    strata: NDArray[Any] | None


def check_run(benchmark: Benchmark, run: Run) -> None:
    """Refuse a run of something else.

    Queries without hits are allowed: a system that gave no answer is scored 0 for it, as TREC does.

    Raises:
        DataError: the run holds a query that the benchmark does not have, or an image that is not in its gallery.
    """
    queries = {query.id: query for query in benchmark.queries}
    unknown: dict[str, set[str]] = {"queries": run.keys() - queries.keys(), "images": set()}
    for query_id in run.keys() & queries.keys():
        query, named = queries[query_id], {image for image, _ in run[query_id]}
        # The reference may lie outside the gallery, but a run may name it: it is taken out before scoring.
        strange = named - benchmark.searched(query) - benchmark.absent - {query.reference}
        if benchmark.unlisted:  # COCO's ids are plain numbers; more is not known of them
            strange = {image for image in strange if not (image.isdecimal() and image == str(int(image)))}
        unknown["images"] |= strange
    for kind, names in unknown.items():
        if names:
            raise DataError(
                f"run: {len(names)} {kind} are not in benchmark {benchmark.name} ({benchmark.protocol}),"
                f" first {min(names)!r}; score it with the benchmark it was made for"
            )


def make_report(
    benchmark: Benchmark,
    runs: Mapping[str, Run],
    *,
    model: Mapping[str, Any],
    seconds: float,
    subset_run: Run | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The report of a run and its baselines, as plain JSON values; figures are fractions.

    The fields are those of every benchmark, and two more where there is something to say. "headline": the mean of the
    benchmark's headline measures. "comparison": for every measure, the best baseline and the paired difference of
    "composed" from it. Where the targets are not public there are no figures at all; where images are missing, each
    figure says how many.

    Args:
        benchmark: what was asked.
        runs: system -> run; "composed" is the one reported, any others are its baselines.
        model: the model card as JSON, or what is known of who made the run.
        seconds: what the run took.
        subset_run: a run for Rs@k, where "composed" does not rank the subsets to their end. Without one, and with
            answers that lack members of their subset, Rs@k and a headline made of it are left out.
        seed: of the bootstrap.

    Raises:
        DataError: a run is not of this benchmark.
    """
    for run in (*runs.values(), *([subset_run] if subset_run is not None else [])):
        check_run(benchmark, run)
    headline = [query for query in benchmark.queries if query.headline]
    parts = {name: {"images": len(ids), "sha256": ids_sha256(ids)} for name, ids in benchmark.galleries.items()}
    report: dict[str, Any] = {
        "benchmark": benchmark.name,
        "protocol": benchmark.protocol,
        "version": __version__,
        "seconds": round(seconds, 3),
        "queries": len(headline),
        "missing": len(benchmark.absent),
        "model": dict(model),
        "gallery": {
            "images": benchmark.unlisted or len(benchmark.gallery),
            "sha256": benchmark.gallery_sha256,
            **({"parts": parts} if len(parts) > 1 else {}),
        },
        "metrics": {},
        "groups": {},
        "baselines": {},
    }
    if not benchmark.judged:
        return report
    missing = len(benchmark.absent)
    measures = reported(benchmark, runs[COMPOSED], subset_run)
    values = {
        system: values_of(benchmark, measures, run, headline, subset_run if system == COMPOSED else None)
        for system, run in runs.items()
    }
    figures = {system: _figures(each, missing, seed) for system, each in values.items()}
    baselines = [system for system in runs if system != COMPOSED]
    groups = values_of_groups(benchmark, measures, runs[COMPOSED], subset_run)
    report["groups"] = {name: _measured(_figures(each, missing, seed), measures) for name, each in groups.items()}
    report["metrics"] = _measured(figures[COMPOSED], measures)
    report["baselines"] = {system: _measured(figures[system], measures) for system in baselines}
    name = headline_name(benchmark)
    if name in figures[COMPOSED]:
        others = {"baselines": {system: figures[system][name] for system in baselines}} if baselines else {}
        report["headline"] = {"name": name, **figures[COMPOSED][name], **others}
    if baselines:
        report["comparison"] = {str(measure): _against_best(str(measure), values, seed) for measure in measures}
    return report


def headline_name(benchmark: Benchmark) -> str:
    """What the benchmark's one figure is called, such as "(R@5 + Rs@1) / 2"; empty where it has none."""
    names = " + ".join(map(str, benchmark.headline))
    return f"({names}) / {len(benchmark.headline)}" if names else ""


def reported(benchmark: Benchmark, run: Run, subset_run: Run | None = None) -> tuple[Measure, ...]:
    """The measures that the runs can be given: all, or those without Rs@k."""
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
        benchmark: whose they are.
        measures: what to compute.
        run: the rankings.
        queries: which.
        subset_run: the rankings for Rs@k, where they are not in `run`.
        soft: count acceptable images as right.
    """
    found = {}
    for measure in measures:
        source = subset_run if measure.name == "Rs" and subset_run is not None else run
        found[str(measure)] = np.array([_score(benchmark, measure, source, query, soft) for query in queries])
    if benchmark.headline and set(benchmark.headline) <= set(measures):
        each = [found[str(measure)] for measure in benchmark.headline]
        found[headline_name(benchmark)] = np.mean(each, axis=0)
    strata = np.array([query.gallery for query in queries]) if len(benchmark.galleries) > 1 else None
    return Values(found, strata)


def values_of_groups(
    benchmark: Benchmark, measures: Sequence[Measure], run: Run, subset_run: Run | None = None
) -> dict[str, Values]:
    """Score each group of a run; "target_soft", where there are acceptable images, is the last."""
    groups = {
        name: values_of(benchmark, measures, run, [q for q in benchmark.queries if name in q.groups], subset_run)
        for name in benchmark.groups
    }
    if any(query.acceptable for query in benchmark.queries):
        groups[TARGET_SOFT] = values_of(benchmark, measures, run, benchmark.queries, subset_run, soft=True)
    return groups


def _score(benchmark: Benchmark, measure: Measure, run: Run, query: JudgedQuery, soft: bool) -> float:
    ranking = [image for image, _ in run.get(query.id, ()) if benchmark.keep_reference or image != query.reference]
    targets = query.targets | query.acceptable if soft else query.targets
    if measure.name == "Recall" and query.first_target:
        targets = frozenset([query.first_target])
    return score(measure, ranking, targets, query.subset)


def _figures(values: Values, missing: int, seed: int) -> Figures:
    beside = {"missing": missing} if missing else {}
    return {
        name: {
            "value": mean(each, values.strata),
            "ci95": list(interval(each, strata=values.strata, seed=seed)),
            **beside,
        }
        for name, each in values.by_measure.items()
    }


def _measured(figures: Figures, measures: Sequence[Measure]) -> Figures:
    """The figures of the measures, without the headline's."""
    return {str(measure): figures[str(measure)] for measure in measures}


def _against_best(measure: str, values: Mapping[str, Values], seed: int) -> dict[str, Any]:
    """The composed system against the baseline that does best by this measure."""
    ours = values[COMPOSED]
    each = {system: one.by_measure[measure] for system, one in values.items() if system != COMPOSED}
    best = max(each, key=lambda system: mean(each[system], ours.strata))
    difference, ci95, p = compare(ours.by_measure[measure], each[best], strata=ours.strata, seed=seed)
    return {"baseline": best, "difference": difference, "ci95": list(ci95), "p": p}
