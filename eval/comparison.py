"""Two runs on the same queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cir import __version__
from cir.data.benchmark import Benchmark
from cir.stats import compare, mean
from cir.eval.render import align, cell
from cir.eval.runs import Run
from cir.eval.report import Values, check_run, headline_name, reported, values_of, values_of_groups


def compare_runs(
    benchmark: Benchmark,
    run_a: Run,
    run_b: Run,
    *,
    subset_runs: tuple[Run | None, Run | None] = (None, None),
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> dict[str, Any]:
    """The paired comparison of two runs, as plain JSON values; figures are fractions.

    Args:
        benchmark: what both answer.
        run_a, run_b: the runs.
        subset_runs: of each, the run for Rs@k, where it does not rank the subsets to their end itself.
        names: what they are called.
        seed: of the bootstrap.

    Returns:
        "metrics": measure -> {"a", "b", "difference", "ci95", "p"}, the difference being a - b; "groups": the same for
        each group; "headline", with its name, where the benchmark has one.

    Raises:
        DataError: a run is not of this benchmark.
    """
    both = list(zip((run_a, run_b), subset_runs, strict=True))
    for run in (run_a, run_b, *subset_runs):
        if run is not None:
            check_run(benchmark, run)
    known = [reported(benchmark, run, subset) for run, subset in both]
    measures = [measure for measure in known[0] if measure in known[1]]
    queries = [query for query in benchmark.queries if query.headline]
    ours, theirs = (values_of(benchmark, measures, run, queries, subset) for run, subset in both)
    overall = _compared(ours, theirs, seed)
    groups_a, groups_b = (values_of_groups(benchmark, measures, run, subset) for run, subset in both)
    name = headline_name(benchmark)
    headline = overall.pop(name, None)
    result: dict[str, Any] = {
        "benchmark": benchmark.name,
        "protocol": benchmark.protocol,
        "version": __version__,
        "queries": len(queries),
        "a": names[0],
        "b": names[1],
        "metrics": overall,
        "groups": {group: _compared(values, groups_b[group], seed) for group, values in groups_a.items()},
    }
    for group in result["groups"].values():
        group.pop(name, None)
    if headline:
        result["headline"] = {"name": name, **headline}
    return result


def render(result: Mapping[str, Any]) -> str:
    """A comparison as a table for a person, without a newline at its end; figures are percentages."""
    heading = f"{result['benchmark']}  {result['protocol']}, {result['queries']:,} queries"
    rows = [["", "A", "B", "A - B ± 95 %", "p"]]
    if "headline" in result:
        rows.append(_row(result["headline"]["name"], result["headline"]))
    rows += [_row(name, figures) for name, figures in result["metrics"].items()]
    for group, measures in result["groups"].items():
        rows += [[], [group], *(_row(name, figures) for name, figures in measures.items())]
    return "\n".join([heading, f"A {result['a']}", f"B {result['b']}", "", *align(rows)])


def _compared(ours: Values, theirs: Values, seed: int) -> dict[str, dict[str, Any]]:
    compared = {}
    for name, values in ours.by_measure.items():
        others = theirs.by_measure[name]
        difference, ci95, p = compare(values, others, strata=ours.strata, seed=seed)
        compared[name] = {
            "a": mean(values, ours.strata),
            "b": mean(others, ours.strata),
            "difference": difference,
            "ci95": list(ci95),
            "p": p,
        }
    return compared


def _row(name: str, figures: Mapping[str, Any]) -> list[str]:
    difference = cell(100 * figures["difference"], figures["ci95"], sign="+")
    return [name, f"{100 * figures['a']:.1f}", f"{100 * figures['b']:.1f}", difference, f"{figures['p']:.3f}"]
