"""`cir score` and `cir compare`: figures of anybody's runs, from the annotations alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.benchmarks import BenchmarkOptions, benchmark_argument, benchmark_options
from cir.cli.options import json_option
from cir.errors import DataError, UsageError

if TYPE_CHECKING:
    from cir.data.benchmark import Benchmark
    from cir.eval.runs import Run

_RUN = click.Path(dir_okay=False, path_type=Path)


@click.command()
@benchmark_argument
@click.argument("run", type=_RUN)
@benchmark_options
@click.option("--subset-run", type=_RUN, help="cirr-val: the run that ranks each query's subset, for Rs@k.")
@click.option("--output", type=_RUN, help="Write the report as JSON.")
@json_option
def score(source: BenchmarkOptions, run: Path, subset_run: Path | None, output: Path | None, as_json: bool) -> None:
    """Score a TREC run against a benchmark.

    A run has six columns: query Q0 image rank score tag. It is ordered by score, ties by image id; ranks in the file
    are ignored. Official benchmarks need only their annotation files. Query ids are CATEGORY-N for FashionIQ (N counts
    the category's captions from 0), pairid for CIRR, and id for CIRCO.

    \b
    Example:
      cir score fashioniq-val run.trec --data-root fashionIQ_dataset
      cir score cirr-val run.trec --subset-run subset.trec --data-root cirr_dataset --json
    """
    from cir.eval.render import render, write_report
    from cir.eval.report import COMPOSED, make_report

    started = time.perf_counter()
    benchmark = _judged(source)
    subsets = _subset_run(benchmark, subset_run)
    scored = _run(run)
    report = make_report(
        benchmark,
        {COMPOSED: scored},
        model={"name": run.stem, "run": run.name},
        seconds=time.perf_counter() - started,
        subset_run=subsets,
    )
    if output:
        write_report(output, report)
    click.echo(json.dumps(report.to_json()) if as_json else render(report))
    _warn_missing(benchmark, run, scored, subsets)
    _warn_left_out(benchmark, report.metrics, "give --subset-run")


@click.command()
@click.argument("run_a", type=_RUN)
@click.argument("run_b", type=_RUN)
@benchmark_argument
@benchmark_options
@click.option("--subset-run-a", type=_RUN, help="cirr-val: the run of A that ranks each query's subset, for Rs@k.")
@click.option("--subset-run-b", type=_RUN, help="The same of B.")
@json_option
def compare(
    source: BenchmarkOptions,
    run_a: Path,
    run_b: Path,
    subset_run_a: Path | None,
    subset_run_b: Path | None,
    as_json: bool,
) -> None:
    """Compare two TREC runs on the same queries.

    Prints the difference A - B, its 95 % interval and p, by paired bootstrap over queries: what makes a query hard for
    both cancels out.

    \b
    Example:
      cir compare new.trec old.trec cirr-val --data-root cirr_dataset
    """
    from cir.eval.comparison import compare_runs
    from cir.eval.render import render_comparison

    benchmark = _judged(source)
    runs = {path: _run(path) for path in (run_a, run_b)}
    subsets = {path: _subset_run(benchmark, path) for path in (subset_run_a, subset_run_b)}
    result = compare_runs(
        benchmark,
        runs[run_a],
        runs[run_b],
        subset_runs=(subsets[subset_run_a], subsets[subset_run_b]),
        names=(run_a.name, run_b.name),
    )
    click.echo(json.dumps(result.to_json()) if as_json else render_comparison(result))
    for path, subset in {run_a: subsets[subset_run_a], run_b: subsets[subset_run_b]}.items():
        _warn_missing(benchmark, path, runs[path], subset)
    _warn_left_out(benchmark, result.metrics, "give --subset-run-a and --subset-run-b")


def _judged(source: BenchmarkOptions) -> Benchmark:
    benchmark = source.load(pictures=False)
    if not benchmark.judged:
        raise UsageError(
            f"the targets of {benchmark.name} are not public, so there is nothing to score here;"
            f" 'cir evaluate {benchmark.name} --submission DIR' writes what its server scores"
        )
    return benchmark


def _run(path: Path) -> Run:
    from cir.eval.runs import read_run

    run = read_run(path)
    if not run:
        raise DataError(f"{path}: no line of a run; it has six columns: query Q0 image rank score tag")
    return run


def _subset_run(benchmark: Benchmark, path: Path | None) -> Run | None:
    if path and not benchmark.ranks_subsets:
        raise UsageError(f"{benchmark.name} has no subsets; leave out the runs that rank them")
    return _run(path) if path else None


def _warn_missing(benchmark: Benchmark, path: Path, run: Run, subset_run: Run | None) -> None:
    """Warn about queries without hits, and about subsets that are not ranked as deep as Rs@k needs."""
    queries = [query for query in benchmark.queries if query.headline]
    answered = sum(bool(run.get(query.id)) for query in queries)
    if answered < len(queries):
        click.echo(
            f"cir: {path.name} answers {answered:,} of {len(queries):,} queries; the others count as misses", err=True
        )
    if subset_run is not None:
        deepest = max(measure.k for measure in benchmark.measures if measure.name == "Rs")
        short = 0
        for query in queries:
            members = set(query.subset) - {query.reference}
            ranked = members.intersection(image for image, _ in subset_run.get(query.id, ()))
            short += len(ranked) < min(deepest, len(members))
        if short:
            click.echo(f"cir: the subset run lacks members of {short:,} subsets; they count as misses", err=True)


def _warn_left_out(benchmark: Benchmark, metrics: Mapping[str, object], remedy: str) -> None:
    left_out = [str(measure) for measure in benchmark.measures if str(measure) not in metrics]
    if left_out:
        click.echo(f"cir: left out: {', '.join(left_out)}; the run lacks members of the subsets: {remedy}", err=True)
