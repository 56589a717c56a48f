"""Does `small` answer the same when people say the same differently?

    python bench/robustness.py DATA_ROOT --output bench/results/DATE-robustness.json

The 2,000 queries of `products` val (same references, same targets), in four wordings: three draws from the phrasings
that training never saw, and the first of them with one slip of the fingers in every caption. Beside them, captions that
change nothing ("as shown"): their targets are the other photos of the same type, colour and gender.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir import models
from cir.data import captions
from cir.data import products
from cir.data.items import Catalogue
from cir.data.attribute_benchmarks import PRODUCT_QUERIES, PRODUCT_SEED
from cir.indexer.writing.build import build_index
from cir.indexer.reading.gallery import Gallery
from cir.search.searcher import Searcher
from cir.types import Query

K = 10


def recall(index: Searcher, queries: Sequence[Query], targets: Sequence[frozenset[str]]) -> dict[str, float]:
    """R@10 (hit rate) with its standard error, and the mean share of right answers among the first 10."""
    vectors = np.concatenate([index.query_vectors(queries[i : i + 128]) for i in range(0, len(queries), 128)])
    found = index.rank(vectors, K, exclude=[frozenset(map(str, query.references)) for query in queries])
    right = np.array([[image in wanted for image, _ in hits] for hits, wanted in zip(found, targets, strict=True)])
    hit = right.any(axis=1)
    possible = np.array([min(K, len(wanted)) for wanted in targets])
    return {
        "R@10": round(float(hit.mean()), 4),
        "standard error": round(float(hit.std() / np.sqrt(len(hit))), 4),
        "share of the possible right answers": round(float((right.sum(axis=1) / possible).mean()), 4),
        "queries": len(queries),
    }


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, model: str, output: Path | None) -> None:
    """Ask, and write the figures."""
    styles = products.read_styles(root)
    source = products.image_source(root)
    photos = [(p, image) for p, image in products.product_images(source) if products.split_of(p) == "val"]
    catalogue = Catalogue([products.item(styles[p], image.id) for p, image in photos], products.KINDS)
    changes = catalogue.changes(PRODUCT_QUERIES, products.CHANGE_WEIGHTS, seed=PRODUCT_SEED)
    encoder = models.load_model(model)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        build_index([image for _, image in photos], Path(scratch) / "index", encoder)
        index = Searcher(Gallery.open(Path(scratch) / "index"), lambda card: encoder)
        for draw in range(3):
            rng = random.Random(f"paraphrase {draw}")
            captions = [captions.change_caption(change.changes, rng, phrasing="val") for change in changes]
            wordings = {f"paraphrase {draw + 1}": captions}
            if not draw:
                wordings["with a slip in each"] = [captions.misspelt(caption, rng) for caption in captions]
            for name, said in wordings.items():
                asked = [Query((change.reference,), text) for change, text in zip(changes, said, strict=True)]
                figures[name] = recall(index, asked, [frozenset(change.targets) for change in changes])
                click.echo(f"{name}: {figures[name]}")
        rng = random.Random("same")
        looks = [
            (item, frozenset(catalogue.by_key[item.fixed, catalogue.key(item)]) - {item.id}) for item in catalogue.items
        ]
        looks = [(item, others) for item, others in looks if others]
        for name, text in (("nothing changed, said", True), ("nothing changed, the picture alone", False)):
            asked = [Query((item.id,), rng.choice(captions.bank()["val"]["same"]) if text else "") for item, _ in looks]
            figures[name] = recall(index, asked, [others for _, others in looks])
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
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
