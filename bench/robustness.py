"""Does `small` rank the same images when the same change is worded differently?

    python bench/robustness.py DATA_ROOT --output bench/results/DATE-robustness.json

The 2,000 queries of `products` val (same references, same targets), in four wordings: three draws from the phrasings
that training never saw, and the first of them with a typo in every caption. Beside them, captions that change nothing
("as shown"): their targets are the other photos of the same type, colour and gender.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir import models
from cir.data import captions, products
from cir.data.attribute_benchmarks import PRODUCT_QUERIES, PRODUCT_SEED
from cir.data.image_source import image_source
from cir.data.items import Catalogue
from cir.data.judged_query import JudgedQuery
from cir.files import write_json
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import build_index
from cir.query_vectors import QueryVectors
from cir.search.searcher import Searcher

K = 10
BATCH = 128


def recall(searcher: Searcher, queries: Sequence[JudgedQuery]) -> dict[str, float]:
    """R@10 (hit rate) with its standard error, and the mean share of targets among the first 10."""
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    vectors = QueryVectors.concatenate([searcher.encode([query.query for query in batch]) for batch in batches])
    ranked = searcher.rank(vectors, K, exclude=[frozenset([query.reference]) for query in queries])
    right = np.array(
        [[image in query.targets for image, _ in hits] for hits, query in zip(ranked, queries, strict=True)]
    )
    hit = right.any(axis=1)
    possible = np.array([min(K, len(query.targets)) for query in queries])
    return {
        "R@10": round(float(hit.mean()), 4),
        "standard error": round(float(hit.std() / np.sqrt(len(queries))), 4),
        "share of the possible right answers": round(float((right.sum(axis=1) / possible).mean()), 4),
        "queries": len(queries),
    }


def wordings(catalogue: Catalogue) -> Mapping[str, list[JudgedQuery]]:
    """Name of a wording -> the benchmark's queries in it."""
    drawn = catalogue.judged_queries(PRODUCT_QUERIES, products.CHANGE_WEIGHTS, seed=PRODUCT_SEED)
    worded = {}
    for draw in range(3):
        rng = random.Random(f"paraphrase {draw}")
        queries = captions.with_captions(drawn, rng, phrasing="val")
        worded[f"paraphrase {draw + 1}"] = queries
        if not draw:
            worded["with a slip in each"] = [
                replace(query, caption=captions.with_typo(query.caption, rng)) for query in queries
            ]
    return worded


def unchanged(catalogue: Catalogue) -> Mapping[str, list[JudgedQuery]]:
    """Queries for more of the same: with a caption that changes nothing, and without any."""
    rng = random.Random("same")
    templates = captions.templates("val")["same"]
    alone = []
    for item in catalogue.items:
        others = frozenset(catalogue.by_key[item.fixed, catalogue.key(item)]) - {item.id}
        if others:
            alone.append(JudgedQuery(item.id, item.id, "", others))
    said = [replace(query, caption=rng.choice(templates)) for query in alone]
    return {"nothing changed, said": said, "nothing changed, the picture alone": alone}


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, model: str, output: Path | None) -> None:
    """Search, and write the figures."""
    styles = products.read_styles(root)
    source = image_source(root)
    photos = [(p, image) for p, image in products.product_images(source) if products.split_of(p) == "val"]
    catalogue = Catalogue([products.item(styles[p], image.id) for p, image in photos], products.KINDS)
    encoder = models.load_model(model)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        build_index([image for _, image in photos], Path(scratch) / "index", encoder)
        searcher = Searcher(Gallery.open(Path(scratch) / "index"), lambda card: encoder)
        for name, queries in {**wordings(catalogue), **unchanged(catalogue)}.items():
            figures[name] = recall(searcher, queries)
            click.echo(f"{name}: {figures[name]}")
    spread = [figures[f"paraphrase {draw}"]["R@10"] for draw in (1, 2, 3)]
    figures["spread of the paraphrases"] = round(max(spread) - min(spread), 4)
    figures["loss by slips"] = round(spread[0] - figures["with a slip in each"]["R@10"], 4)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": f"products-val/{source.stem}",
        "model": encoder.card.name,
        "digest": encoder.card.digest,
        "gallery": len(photos),
        "figures": figures,
    }
    click.echo(json.dumps(result["figures"], indent=1))
    if output:
        write_json(output, result, indent=1)


if __name__ == "__main__":
    main()
