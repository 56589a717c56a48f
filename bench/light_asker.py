"""A light model asks the gallery of a strong one: what that loses in recall, and what it saves per query.

    python bench/light_asker.py PRODUCTS FLICKR8K --output bench/results/DATE-light-asker.json

Recall on the val splits, both models over the gallery of the strong one, paired; beside them the light model over its
own gallery. The time of a composed query, encoding and search, with a photo from disk as its reference: medians, the
two models asked in turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from everyday import load_titles, open_gallery

from cir import models
from cir.data.attribute_benchmarks import load_products, load_wardrobe
from cir.data.benchmark import Benchmark
from cir.data.captioned_benchmarks import load_captioned, load_mined
from cir.eval.engine import evaluate
from cir.eval.scoring import values_of
from cir.files import write_json
from cir.indexer.reading.gallery import Gallery
from cir.search.searcher import Searcher
from cir.stats import compare, parse_measure
from cir.types import Query

MEASURES = tuple(parse_measure(name) for name in ("R@1", "R@10"))
TIMED = 100  # queries


def recalls(benchmark: Benchmark, searchers: Mapping[str, Searcher]) -> dict[str, Any]:
    """Measure -> the share of the queries that each searcher answers, and the first against the second, paired."""
    system = "text" if not benchmark.queries[0].reference else "composed"
    runs = {name: evaluate(benchmark, searcher).runs[system] for name, searcher in searchers.items()}
    figures: dict[str, Any] = {}
    for measure in MEASURES:
        by_name = {
            name: values_of(benchmark, [measure], run, benchmark.queries).by_measure[str(measure)]
            for name, run in runs.items()
        }
        figures[str(measure)] = {name: float(values.mean()) for name, values in by_name.items()}
        light, strong, *_ = by_name.values()
        difference = compare(light, strong)
        figures[str(measure)]["light - strong"] = [difference.difference, *difference.ci95]
        figures[str(measure)]["share"] = float(light.mean() / strong.mean())
    return figures


def seconds(benchmark: Benchmark, searchers: Mapping[str, Searcher]) -> dict[str, float]:
    """Median seconds of a composed query whose reference is a file, by searcher; asked in turns."""
    files = {image.id: image for image in benchmark.images}
    queries = [Query((files[query.reference].read(),), query.caption) for query in benchmark.queries[:TIMED]]
    taken: dict[str, list[float]] = {name: [] for name in searchers}
    for query in queries:
        for name, searcher in searchers.items():
            begun = time.perf_counter()
            searcher.search(query)
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times[TIMED // 10 :]) for name, times in taken.items()}


@click.command()
@click.argument("product_photos", type=click.Path(path_type=Path))
@click.argument("flickr8k", type=click.Path(path_type=Path))
@click.option("--light", default="small-lite", show_default=True)
@click.option("--strong", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(product_photos: Path, flickr8k: Path, light: str, strong: str, output: Path | None) -> None:
    """Measure, print and write."""
    asker, owner = models.load_model(light), models.load_model(strong)
    encoders = {encoder.card.digest: encoder for encoder in (asker, owner)}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        galleries = [
            (load_products(product_photos), load_titles(product_photos)),
            (load_wardrobe(work / "wardrobe"),),
            (load_mined(flickr8k, split="val"), load_captioned(flickr8k, split="val")),
        ]
        for number, benchmarks in enumerate(galleries):
            strongly = open_gallery(benchmarks[0], owner, work / f"{number}.index")
            lightly = Searcher(
                Gallery.open(work / f"{number}.index"), lambda card: encoders[card.digest], asker=asker.card
            )
            own = open_gallery(benchmarks[0], asker, work / f"{number}-own.index")
            searchers = {"light": lightly, "strong": strongly, "light over its own gallery": own}
            for benchmark in benchmarks:
                figures[benchmark.protocol] = recalls(benchmark, searchers)
            if number == 0:
                figures["seconds per query"] = seconds(benchmarks[0], searchers)
            click.echo("\n".join(f"{name}: {figures[name]}" for name in list(figures)[-2:]))
    if output:
        facts = {"light": [asker.card.name, asker.card.digest], "strong": [owner.card.name, owner.card.digest]}
        date = datetime.now(UTC).date().isoformat()
        write_json(output, {"date": date, **facts, "val": figures}, indent=1)


if __name__ == "__main__":
    main()
