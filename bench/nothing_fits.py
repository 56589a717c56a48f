"""Does "nothing fits" hold in every kind of gallery? The rates of both mistakes, at the floors of a model's card.

    python bench/nothing_fits.py FLICKR8K PRODUCTS --output bench/results/DATE-nothing-fits.json

For each gallery and both kinds of query, composed and text, on val:

- false alarms: queries that have an answer, whose best hit lies below the floor;
- found out: queries without an answer, whose best hit lies below the floor. "answers removed": the same queries over
  the gallery without their answers, where near misses remain. "another world": the queries of another gallery, whose
  captions no picture here answers; composed ones with a reference of this gallery.

The floor that each gallery would need for 5 % false alarms stands beside them.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from everyday import load_titles, open_gallery

from cir import models
from cir.arrays import Floats
from cir.data.attribute_benchmarks import load_products, load_wardrobe
from cir.data.captioned_benchmarks import load_captioned, load_mined
from cir.files import write_json
from cir.search.searcher import Searcher
from cir.types import Query

FALSE_ALARMS = 0.05
QUERIES = 500  # of each kind and gallery

Asked = Mapping[str, Sequence[tuple[str, str, frozenset[str]]]]  # kind -> (reference, caption, answers)


def best_scores(searcher: Searcher, asked: Iterable[tuple[str, str]], without: Sequence[frozenset[str]]) -> Floats:
    """(Q,) score of the best hit of each (reference, caption), its reference and the ids in `without` left out."""
    pairs = list(asked)
    vectors = searcher.encode([Query((reference,) if reference else (), text) for reference, text in pairs])
    left_out = [{*gone, reference} - {""} for (reference, _), gone in zip(pairs, without, strict=True)]
    ranked = searcher.rank(vectors, 1, exclude=left_out)
    return np.array([hits[0][1] if hits else -1.0 for hits in ranked], np.float32)


def measure(searcher: Searcher, asked: Asked, elsewhere: Asked, rng: random.Random) -> dict[str, Any]:
    """Kind -> floors and rates of one gallery."""
    figures = {}
    for kind in asked:
        queries = list(asked[kind])
        pairs, answers = [query[:2] for query in queries], [query[2] for query in queries]
        strange = [(rng.choice(searcher.ids) if kind == "composed" else "", text) for _, text, _ in elsewhere[kind]]
        scores = {
            "answerable": best_scores(searcher, pairs, [frozenset()] * len(pairs)),
            "answers removed": best_scores(searcher, pairs, answers),
            "another world": best_scores(searcher, strange, [frozenset()] * len(strange)),
        }
        own, card = float(np.quantile(scores["answerable"], FALSE_ALARMS)), searcher.card.min_scores.get(kind)
        floors = {"own floor": own} | ({} if card is None else {"card's floor": card})
        figures[kind] = {
            name: {
                "floor": floor,
                "false alarms": float((scores["answerable"] < floor).mean()),
                **{f"found out, {of}": float((scores[of] < floor).mean()) for of in list(scores)[1:]},
            }
            for name, floor in floors.items()
        } | {"queries": len(pairs), "strange queries": len(strange)}
    return figures


@click.command()
@click.argument("flickr8k", type=click.Path(path_type=Path))
@click.argument("product_photos", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(flickr8k: Path, product_photos: Path, model: str, output: Path | None) -> None:
    """Measure, print and write."""
    encoder, figures, rng = models.load_model(model), {}, random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        pairs = {
            "everyday": (load_mined(flickr8k, split="val"), load_captioned(flickr8k, split="val")),
            "products": (load_products(product_photos), load_titles(product_photos)),
            "wardrobe": (load_wardrobe(work / "wardrobe"), None),
        }
        asked: dict[str, Asked] = {}
        for name, (composed, text) in pairs.items():
            chosen = {"composed": composed.queries} | ({"text": text.queries} if text else {})
            asked[name] = {
                kind: [
                    (query.reference if kind == "composed" else "", query.caption, frozenset(query.targets))
                    for query in rng.sample(list(queries), min(QUERIES, len(queries)))
                ]
                for kind, queries in chosen.items()
            }
        for name, (composed, _) in pairs.items():
            searcher = open_gallery(composed, encoder, work / f"{name}.index")
            elsewhere = asked["products" if name == "everyday" else "everyday"]
            figures[name] = measure(searcher, asked[name], elsewhere, rng)
            for kind, floors in figures[name].items():
                click.echo(f"{name}, {kind}: {floors}")
    if output:
        date, card = datetime.now(UTC).date().isoformat(), encoder.card
        write_json(output, {"date": date, "model": card.name, "digest": card.digest, "figures": figures}, indent=1)


if __name__ == "__main__":
    main()
