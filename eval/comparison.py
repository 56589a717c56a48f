"""The paired comparison of two runs on the same queries, as values and as JSON. All figures are fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cir import __version__
from cir.data.benchmark import Benchmark
from cir.eval.report import comparison_to_json
from cir.eval.runs import Run
from cir.eval.scoring import Values, check_run, headline_name, measures_of, values_of, values_of_groups
from cir.stats import Comparison, compare, mean


@dataclass(frozen=True)
class PairedFigure:
    """A measure of both runs.

    Attributes:
        a, b: the means.
        gain: a - b, paired.
    """

    a: float
    b: float
    gain: Comparison

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"a": self.a, "b": self.b, **comparison_to_json(self.gain)}


PairedFigures = Mapping[str, PairedFigure]  # by measure


@dataclass(frozen=True)
class RunComparison:
    """Two runs compared.

    Attributes:
        benchmark, protocol: names.
        version: of the package.
        queries: number of headline queries.
        a, b: names of the runs.
        metrics: over the headline queries.
        groups: group -> figures.
        headline: name and figure of the benchmark's headline, if it has one that could be computed.
    """

    benchmark: str
    protocol: str
    version: str
    queries: int
    a: str
    b: str
    metrics: PairedFigures
    groups: Mapping[str, PairedFigures]
    headline: tuple[str, PairedFigure] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; "headline" only if there is one."""
        values: dict[str, Any] = {
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "version": self.version,
            "queries": self.queries,
            "a": self.a,
            "b": self.b,
            "metrics": _to_json(self.metrics),
            "groups": {group: _to_json(figures) for group, figures in self.groups.items()},
        }
        if self.headline:
            name, figure = self.headline
            values["headline"] = {"name": name, **figure.to_json()}
        return values


def compare_runs(
    benchmark: Benchmark,
    run_a: Run,
    run_b: Run,
    *,
    subset_runs: tuple[Run | None, Run | None] = (None, None),
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> RunComparison:
    """Compare two runs by every measure that both support.

    Args:
        benchmark: what both answer.
        run_a, run_b: the runs.
        subset_runs: for each, a run for Rs@k, if it does not rank the subsets to their end itself.
        names: of the runs.
        seed: of the bootstrap.

    Raises:
        DataError: a run is of another benchmark.
    """
    both = list(zip((run_a, run_b), subset_runs, strict=True))
    for run in (run_a, run_b, *subset_runs):
        if run is not None:
            check_run(benchmark, run)
    supported = [measures_of(benchmark, run, subset) for run, subset in both]
    measures = [measure for measure in supported[0] if measure in supported[1]]
    queries = [query for query in benchmark.queries if query.headline]
    ours, theirs = (values_of(benchmark, measures, run, queries, subset) for run, subset in both)
    groups_a, groups_b = (values_of_groups(benchmark, measures, run, subset) for run, subset in both)
    name, overall = headline_name(benchmark), _compare(ours, theirs, seed)
    groups = {group: _compare(values, groups_b[group], seed) for group, values in groups_a.items()}
    return RunComparison(
        benchmark=benchmark.name,
        protocol=benchmark.protocol,
        version=__version__,
        queries=len(queries),
        a=names[0],
        b=names[1],
        metrics=_without(name, overall),
        groups={group: _without(name, figures) for group, figures in groups.items()},
        headline=(name, overall[name]) if name in overall else None,
    )


def _compare(ours: Values, theirs: Values, seed: int) -> PairedFigures:
    figures = {}
    for name, values in ours.by_measure.items():
        others = theirs.by_measure[name]
        gain = compare(values, others, strata=ours.strata, seed=seed)
        figures[name] = PairedFigure(mean(values, ours.strata), mean(others, ours.strata), gain)
    return figures


def _without(name: str, figures: PairedFigures) -> PairedFigures:
    return {measure: figure for measure, figure in figures.items() if measure != name}


def _to_json(figures: PairedFigures) -> dict[str, Any]:
    return {name: figure.to_json() for name, figure in figures.items()}
