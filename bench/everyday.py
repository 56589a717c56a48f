"""Is a model good for everyday photos, and still for clothes? All figures of one model in one run.

    python bench/everyday.py FLICKR8K PRODUCTS --model small --split val --sheets SHEETS --output FILE

- `flickr8k`: every caption of a split asks for its photo;
- `flickr8k-mined`: changes mined from these captions, by kind, against the best of image, text and sum;
- `products` val and `wardrobe`, as in `bench/card.py`;
- titles: every distinct title of products val alone, as the shop wrote it, asks for the photos that have it.

`--sheets` draws what ten photos of each split find as "more like this", for people to look at. It belongs outside the
repository: the photos may not be shown.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from card import by_kind

from cir import models
from cir.data import products
from cir.data.attribute_benchmarks import load_products, load_wardrobe
from cir.data.benchmark import COMPOSED, Benchmark
from cir.data.captioned_benchmarks import CAPTION_MEASURES, SPLITS, load_captioned, load_mined
from cir.data.image_source import image_source
from cir.data.judged_query import JudgedQuery
from cir.eval.engine import evaluate
from cir.eval.gallery import index_gallery
from cir.eval.render import render
from cir.files import make_folder, write_json
from cir.indexer.reading.gallery import Gallery
from cir.search.searcher import Searcher
from cir.sheet import draw_sheet, save_sheet
from cir.types import Encoder, Query

SHEETS = 10


def load_titles(root: Path) -> Benchmark:
    """Every distinct title of products val alone; its targets are all photos that have it."""
    styles, source = products.read_styles(root), image_source(root)
    photos, named = [], defaultdict(set)
    for product, image in products.product_images(source):
        if products.split_of(product) == "val":
            photos.append(image)
            if product in styles and (title := " ".join((styles[product]["productDisplayName"] or "").split())):
                named[title].add(image.id)
    queries = [JudgedQuery(title, "", title, frozenset(ids)) for title, ids in sorted(named.items())]
    return Benchmark("titles", f"products-val/{source.stem}/titles", photos, tuple(queries), CAPTION_MEASURES)


def open_gallery(benchmark: Benchmark, encoder: Encoder, path: Path) -> Searcher:
    """An index of a gallery."""
    index_gallery(benchmark, path, encoder)
    return Searcher(Gallery.open(path), lambda card: encoder)


def measure(benchmark: Benchmark, searcher: Searcher) -> dict[str, Any]:
    """The report as JSON, without the model's card; with the kinds of change for composed queries."""
    evaluation = evaluate(benchmark, searcher)
    click.echo(f"\n{render(evaluation.report)}")
    report = evaluation.report.to_json()
    del report["model"]
    return {
        "queries_sha256": benchmark.queries_sha256,
        **report,
        **({"kinds": by_kind(benchmark, evaluation)} if benchmark.form == COMPOSED else {}),
    }


def draw_like(searcher: Searcher, folder: Path) -> Iterator[Path]:
    """Sheets of what photos all over the gallery find by themselves."""
    make_folder(folder)
    for number, image in enumerate(searcher.ids[:: len(searcher.ids) // SHEETS][:SHEETS], start=1):
        result = searcher.search(Query(image))
        path = folder / f"{number:02}.png"
        save_sheet(draw_sheet(result, searcher.picture), path)
        yield path


@click.command()
@click.argument("flickr8k", type=click.Path(path_type=Path))
@click.argument("product_photos", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--split", "splits", multiple=True, default=["val"], show_default=True, type=click.Choice(SPLITS))
@click.option("--sheets", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path))
def main(
    flickr8k: Path, product_photos: Path, model: str, splits: Sequence[str], sheets: Path | None, output: Path | None
) -> None:
    """Measure, print, draw and write."""
    encoder = models.load_model(model)
    card = encoder.card
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        galleries = [[load_captioned(flickr8k, split=split), load_mined(flickr8k, split=split)] for split in splits]
        galleries += [[load_products(product_photos), load_titles(product_photos)], [load_wardrobe(work / "wardrobe")]]
        for number, benchmarks in enumerate(galleries):
            searcher = open_gallery(benchmarks[0], encoder, work / f"{number}.index")
            figures |= {benchmark.protocol: measure(benchmark, searcher) for benchmark in benchmarks}
            if sheets and number < len(splits):
                click.echo(f"sheets: {[str(path) for path in draw_like(searcher, sheets / splits[number])]}")
    if output:
        date = datetime.now(UTC).date().isoformat()
        write_json(output, {"date": date, "model": card.name, "digest": card.digest, "figures": figures}, indent=1)


if __name__ == "__main__":
    main()
