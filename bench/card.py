"""Measure the figures in the card of `small`: three benchmarks, every kind of change against its best baseline.

    python bench/card.py DATA_ROOT --output bench/results/DATE-small.json

Prints the tables of docs/models/small.md as Markdown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir import models
from cir.data.attribute_benchmarks import load_products, load_wardrobe
from cir.data.benchmark import Benchmark
from cir.eval.engine import Evaluation, evaluate
from cir.eval.gallery import index_gallery
from cir.eval.report import COMPOSED, Report
from cir.eval.scoring import values_of
from cir.files import write_json
from cir.indexer.reading.gallery import Gallery
from cir.search.searcher import Searcher
from cir.stats import Comparison, compare, parse_measure
from cir.types import Encoder

ENOUGH = 200  # a kind with fewer queries is not compared


def evaluate_gallery(benchmark: Benchmark, encoder: Encoder) -> Evaluation:
    """A benchmark's gallery indexed and evaluated."""
    with tempfile.TemporaryDirectory() as scratch:
        index_gallery(benchmark, Path(scratch) / "index", encoder)
        return evaluate(benchmark, Searcher(Gallery.open(Path(scratch) / "index"), lambda card: encoder))


def by_kind(benchmark: Benchmark, evaluation: Evaluation) -> dict[str, Any]:
    """Kind -> queries, R@10 of composed and of the best baseline, and their paired difference with its interval."""
    measure = parse_measure("R@10")
    kinds = {}
    for kind in benchmark.groups:
        queries = [query for query in benchmark.queries if query.headline and kind in query.groups]
        if ":" in kind or not queries:
            continue
        values = {
            system: values_of(benchmark, [measure], run, queries).by_measure[str(measure)]
            for system, run in evaluation.runs.items()
        }
        best = max(
            (system for system in values if system != COMPOSED), key=lambda system: float(np.mean(values[system]))
        )
        against = compare(values[COMPOSED], values[best])
        kinds[kind] = {
            "queries": len(queries),
            "composed": float(np.mean(values[COMPOSED])),
            "baseline": best,
            "baseline value": float(np.mean(values[best])),
            "difference": against.difference,
            "ci95": list(against.ci95),
        }
    return kinds


def table(report: Report) -> str:
    """Composed and baselines as Markdown."""
    measures = list(report.metrics)
    lines = ["| | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, figures in {COMPOSED: report.metrics, **report.baselines}.items():
        label = f"sum, weight {report.model['sum_weight']}" if name == "sum" else name
        cells = (f"{100 * figures[m].value:.1f} ± {half(figures[m].ci95)}" for m in measures)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    gains: list[Comparison] = [report.comparison[m].gain for m in measures]
    cells = (f"{100 * gain.difference:+.1f} ± {half(gain.ci95)}" for gain in gains)
    lines.append("| composed over the best baseline | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def half(ci95: tuple[float, float]) -> str:
    """Half the width of an interval, in percent."""
    return f"{50 * (ci95[1] - ci95[0]):.1f}"


def kinds_table(kinds: Mapping[str, Any]) -> str:
    """Kinds of change as Markdown."""
    lines = ["| kind | queries | composed | best baseline | difference |", "|---|---|---|---|---|"]
    for kind, figures in kinds.items():
        low, high = figures["ci95"]
        difference = f"{100 * figures['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        lines.append(
            f"| {kind} | {figures['queries']} | {100 * figures['composed']:.1f} | "
            f"{figures['baseline']} {100 * figures['baseline value']:.1f} | "
            f"{difference if figures['queries'] >= ENOUGH else 'few'} |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, model: str, output: Path | None) -> None:
    """Measure, print, and write."""
    encoder = models.load_model(model)
    result: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "benchmarks": {}}
    with tempfile.TemporaryDirectory() as scratch:
        benchmarks = [
            load_products(root),
            load_products(root, images="images-60x80.zip"),
            load_wardrobe(Path(scratch) / "wardrobe"),
        ]
        for benchmark in benchmarks:
            evaluation = evaluate_gallery(benchmark, encoder)
            report, kinds = evaluation.report, by_kind(benchmark, evaluation)
            result["benchmarks"][benchmark.protocol] = {"report": report.to_json(), "kinds": kinds}
            click.echo(f"\n{benchmark.protocol}, {report.seconds:.0f} s\n\n{table(report)}\n\n{kinds_table(kinds)}")
            click.echo({name: round(f["R@10"].value, 4) for name, f in report.groups.items() if ":" in name})
            click.echo(report.confidence)
            if output:
                write_json(output, result, indent=1)


if __name__ == "__main__":
    main()
