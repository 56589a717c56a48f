"""Measure what the card of `small` reports: three benchmarks, with every kind of change against its best baseline.

    python bench/card.py DATA_ROOT --output bench/results/DATE-small.json

Prints the tables of docs/models/small.md as Markdown.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir import models
from cir.data.benchmark import Benchmark
from cir.data.attribute_benchmarks import load_products, load_wardrobe
from cir.eval.engine import Evaluation, evaluate
from cir.stats import compare, parse
from cir.eval.report import COMPOSED, values_of
from cir.indexer.writing.build import build_index
from cir.indexer.reading.gallery import Gallery
from cir.models.encoder import SprcEncoder
from cir.search.searcher import Searcher

ENOUGH = 200  # queries of a kind from which on its difference is judged


def measured(benchmark: Benchmark, encoder: SprcEncoder) -> dict[str, Any]:
    """The report, and each kind of change compared with its best baseline."""
    with tempfile.TemporaryDirectory() as scratch:
        build_index(list(benchmark.images), Path(scratch) / "index", encoder)
        found = evaluate(benchmark, Searcher(Gallery.open(Path(scratch) / "index"), lambda card: encoder))
    return {"report": found.report, "kinds": by_kind(benchmark, found)}


def by_kind(benchmark: Benchmark, found: Evaluation) -> dict[str, Any]:
    """Kind -> queries, R@10 of composed and of the best baseline, and their paired difference with its interval."""
    measure = parse("R@10")
    kinds = {}
    for kind in benchmark.groups:
        queries = [query for query in benchmark.queries if query.headline and kind in query.groups]
        if ":" in kind or not queries:
            continue
        values = {
            system: values_of(benchmark, [measure], run, queries).by_measure[str(measure)]
            for system, run in found.runs.items()
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


def table(report: Mapping[str, Any]) -> str:
    """Composed and baselines as Markdown."""
    measures = list(report["metrics"])
    weight = report["model"]["sum_weight"]
    names = {COMPOSED: report["metrics"], **report["baselines"]}
    lines = ["| | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, figures in names.items():
        label = f"sum, weight {weight}" if name == "sum" else name
        lines.append(
            f"| {label} | " + " | ".join(cell(figures[m]["value"], figures[m]["ci95"]) for m in measures) + " |"
        )
    differences = (report["comparison"][m] for m in measures)
    lines.append(
        "| composed over the best baseline | "
        + " | ".join(f"{100 * d['difference']:+.1f} ± {50 * (d['ci95'][1] - d['ci95'][0]):.1f}" for d in differences)
        + " |"
    )
    return "\n".join(lines)


def cell(value: float, ci95: Sequence[float]) -> str:
    """Percent with half the width of its interval."""
    return f"{100 * value:.1f} ± {50 * (ci95[1] - ci95[0]):.1f}"


def kinds_table(kinds: Mapping[str, Any]) -> str:
    """Kinds of change as Markdown."""
    lines = ["| kind | queries | composed | best baseline | difference |", "|---|---|---|---|---|"]
    for kind, one in kinds.items():
        low, high = one["ci95"]
        shown = f"{100 * one['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        lines.append(
            f"| {kind} | {one['queries']} | {100 * one['composed']:.1f} | "
            f"{one['baseline']} {100 * one['baseline value']:.1f} | {shown if one['queries'] >= ENOUGH else 'few'} |"
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
            one = measured(benchmark, encoder)
            result["benchmarks"][benchmark.protocol] = one
            report = one["report"]
            click.echo(
                f"\n{benchmark.protocol}, {report['seconds']:.0f} s\n\n{table(report)}\n\n{kinds_table(one['kinds'])}"
            )
            click.echo({group: round(f["R@10"]["value"], 4) for group, f in report["groups"].items() if ":" in group})
            click.echo(report.get("nothing_fits"))
            if output:
                output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
