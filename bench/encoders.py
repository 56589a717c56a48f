"""Compositions side by side on real photos: dual encoders by sum, great circle and product, combiners, and `small`.

    python bench/encoders.py PRODUCTS --model DUAL --model COMBINER --model small --output RESULTS.json

Every model's gallery of products val is indexed and evaluated as `cir evaluate products` does; weights are those of the
cards, which were chosen on held-out train products. Prints the table of docs/results/encoders.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from card import evaluate_gallery

from cir import models
from cir.data.attribute_benchmarks import load_products
from cir.eval.report import Report
from cir.files import write_json

SHOWN = ("R@1", "R@10", "R@50", "mAP@10")


def rows(name: str, report: Report) -> dict[str, dict[str, float]]:
    """System -> measure -> percent; what a model composes by is named beside it."""
    composition = report.model["composition"]
    systems = {f"{name}, composed ({composition})": report.metrics}
    systems |= {f"{name}, {system}": figures for system, figures in report.baselines.items()}
    return {
        system: {measure: round(100 * figures[measure].value, 1) for measure in SHOWN}
        for system, figures in systems.items()
    }


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--model", "names", multiple=True, required=True, help="A model; may be repeated.")
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, names: tuple[str, ...], output: Path | None) -> None:
    """Evaluate, print, and write."""
    benchmark = load_products(root)
    table: dict[str, dict[str, float]] = {}
    cards: dict[str, Any] = {}
    for name in names:
        encoder = models.load_model(name)
        evaluation = evaluate_gallery(benchmark, encoder)
        table |= rows(encoder.card.name, evaluation.report)
        cards[encoder.card.name] = {"digest": encoder.card.digest, "weight": encoder.card.sum_weight}
        click.echo(f"{encoder.card.name}: {evaluation.report.seconds:.0f} s", err=True)
    lines = ["| system | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    lines += [f"| {system} | " + " | ".join(f"{row[m]:.1f}" for m in SHOWN) + " |" for system, row in table.items()]
    click.echo(f"{benchmark.protocol}, {len(benchmark.queries):,} queries\n\n" + "\n".join(lines))
    if output:
        date = datetime.now(UTC).date().isoformat()
        write_json(output, {"date": date, "protocol": benchmark.protocol, "models": cards, "systems": table})


if __name__ == "__main__":
    main()
