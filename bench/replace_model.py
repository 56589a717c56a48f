"""How much of a full re-index do the routes of `cir replace-model` bring?

    python bench/replace_model.py DATA_ROOT OLD NEW --finished DIR --second DIR --third DIR \\
        --output bench/results/DATE-replace.json

All are model directories. OLD has made the index, NEW replaces it and has a head for it. FINISHED is a model of NEW's
kind, trained without a simplex, with a head for OLD fitted on it afterwards (`cir train --heads-only`). SECOND is
another successor of OLD, and THIRD is NEW with a head for SECOND as well: three generations. Two galleries: the 224 px
photos of val and of the held-out part of train, and the benchmark wardrobe. Questions in val phrasings are the anchors,
half of their references for fitting; three seeds draw the halves. Everything is encoded once.
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

import cir as package
from cir import models
from cir.data import captions
from cir.data import products
from cir.data import wardrobe
from cir.data.items import Catalogue, Item
from cir.images import ImageFile, scan
from cir.indexer.writing.build import build_index
from cir.replacement.compatibility import average_accuracy, average_compatibility, compatibility_margins
from cir.indexer.reading.gallery import Gallery
from cir.models.encoder import SprcEncoder
from cir.replacement import routes
from cir.replacement.questions import Anchor
from cir.replacement.gate import Cost, judge
from cir.replacement.measure import MEASURES, measure, overview
from cir.replacement.collect import Observation, observe
from cir.replacement.routes import Fitted
from cir.replacement.paired_sample import Study, answered, halves, scores
from cir.search.searcher import Searcher
from cir.types import Query

ANCHORS, SEED, SEEDS = 2000, 0, 3
GARMENTS, GARMENT_SEED, GARMENT_ANCHORS = 1200, 2, 1000
DEAR = Cost(1_000_000, 40.0, 10**9)  # so that the advice is never to encode everything again

Hits = np.ndarray


class Remembering(Index):
    """An index that is asked the same by several new models, and encodes it once."""

    def vectors(self, queries: Sequence[Query]) -> dict[str, np.ndarray]:
        if not hasattr(self, "_answer"):
            self._answer = super().vectors(queries)
        return self._answer


def questions(catalogue: Catalogue, weights: Mapping[tuple[str, ...], float], count: int = ANCHORS) -> list[Anchor]:
    """Anchors in the phrasings that no training has seen."""
    rng = random.Random(SEED)
    return [
        Anchor(
            str(number),
            change.reference,
            captions.change_caption(change.changes, rng, phrasing="val"),
            frozenset(change.targets),
        )
        for number, change in enumerate(catalogue.changes(count, weights, seed=SEED))
    ]


def product_gallery(root: Path) -> tuple[list[ImageFile], list[Anchor]]:
    """Photos that no training sees, and questions about them."""
    styles = products.read_styles(root)
    photos = [
        (product, image)
        for product, image in products.product_images(products.image_source(root))
        if products.split_of(product) == "val" or products.held_out(product)
    ]
    catalogue = Catalogue([products.item(styles[product], image.id) for product, image in photos], products.KINDS)
    return [image for _, image in photos], questions(catalogue, products.CHANGE_WEIGHTS)


def wardrobe_gallery(folder: Path) -> tuple[list[ImageFile], list[Anchor]]:
    """The garments of `cir evaluate wardrobe`."""
    garments = wardrobe.write(folder, GARMENTS, seed=GARMENT_SEED)
    catalogue = Catalogue([Item(image_id, garment.attributes) for image_id, garment in garments], wardrobe.KINDS)
    return list(scan([folder])), questions(catalogue, wardrobe.CHANGE_WEIGHTS, GARMENT_ANCHORS)


def all_hits(study: Study, given: np.ndarray) -> dict[str, Hits]:
    """Measure -> (Q,) whether each anchor, fitted on or not, is answered: for what nothing was fitted on."""
    return {name: answered(study, given, k) for name, k in MEASURES.items()}


def shares(hits: Mapping[str, Hits]) -> dict[str, float]:
    """Measure -> share answered."""
    return {name: float(values.mean()) for name, values in hits.items()}


def by_seed(seen: Observation) -> list[dict[str, Any]]:
    """Every route, fitted and measured on other halves."""
    found = []
    questions = [one.reference for one in seen.anchors]
    for seed in range(SEEDS):
        each = replace(seen.study, fit=halves(questions, np.random.default_rng(seed)))
        tried = [make(each) for make in routes.ROUTES.values()]
        measured = [measure(each, made) for made in tried if isinstance(made, Fitted)]
        compared = overview(each, routes.naive(each))
        verdict = judge(len(questions), compared, measured, DEAR)
        found.append(
            {
                "measured": int((~each.fit).sum()),
                "compared": compared,
                "routes": [one.to_json() for one in measured],
                "verdict": verdict.to_json(),
            }
        )
    return found


def generations(
    older: SprcEncoder, second: SprcEncoder, last: SprcEncoder, seen: Mapping[str, Study]
) -> dict[str, Any]:
    """The matrix of three models: rows ask, columns have stored. Nothing is fitted, so that all anchors count."""
    one, three = seen[second.card.name], seen[last.card.name]
    galleries = [one.old_gallery, one.new_gallery, three.new_gallery]
    asking = [
        [one.old_queries],
        [one.head_queries, one.new_queries],
        [three.head_queries, last.project_states(three.new_states, second.card.space.id), three.new_queries],
    ]
    told: dict[str, Any] = {"models": [model.card.name for model in (older, second, last)]}
    for what in MEASURES:
        matrix = np.zeros((3, 3))
        for i, row in enumerate(asking):
            for j, queries in enumerate(row):
                matrix[i, j] = all_hits(three, scores(queries, galleries[j]))[what].mean()
        told[what] = {
            "matrix": matrix.round(4).tolist(),
            "AC": average_compatibility(matrix),
            "margins": compatibility_margins(matrix).round(4).tolist(),
            "AA": average_accuracy(matrix),
        }
    return told


def mean(values: Sequence[float | None], digits: int = 1) -> str:
    """Percent with the range over seeds."""
    each = [100 * (value or 0.0) for value in values]
    return f"{np.mean(each):.{digits}f} ({min(each):.{digits}f} to {max(each):.{digits}f})"


def render(seeds: Sequence[Mapping[str, Any]]) -> str:
    """The table as the documents have it."""
    heads = ["", *MEASURES, "of the gain at R@1", "at R@10", "certain gain (95 %), R@1, R@10"]
    heads += ["no longer answered", "half encoded again, R@10", "passes"]
    rows = [heads, ["---"] * len(heads)]
    for name in seeds[0]["compared"]:
        values = [mean([one["compared"][name][what] for one in seeds]) for what in MEASURES]
        rows.append([name, *values, *[""] * 6])
    for place, route in enumerate(one["route"] for one in seeds[0]["routes"]):
        each = [one["routes"][place] for one in seeds]
        refused = [one["verdict"]["refused"] for one in seeds]
        passed = sum(route not in reasons and "" not in reasons for reasons in refused)
        certain = [np.mean([100 * one["gains"][what]["lower95"] for one in each]) for what in MEASURES]
        rows.append(
            [
                route,
                *(mean([one["values"][what] for one in each]) for what in MEASURES),
                *(mean([one["recovered"][what] for one in each], 0) for what in MEASURES),
                ", ".join(f"{value:+.1f}" for value in certain),
                mean([one["flips"] for one in each]),
                mean([one["mixed"]["R@10"] for one in each]),
                f"{passed} of {len(seeds)}",
            ]
        )
    chosen = ", ".join(str(one["verdict"]["route"]) for one in seeds)
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + [f"chosen: {chosen}"])


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--finished", type=click.Path(path_type=Path), required=True)
@click.option("--second", type=click.Path(path_type=Path), required=True)
@click.option("--third", type=click.Path(path_type=Path), required=True)
@click.option("--gallery", "galleries", multiple=True, default=("products", "wardrobe"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(
    root: Path,
    old: Path,
    new: Path,
    finished: Path,
    second: Path,
    third: Path,
    galleries: Sequence[str],
    output: Path | None,
) -> None:
    """Measure and write the figures."""
    roles = {"old": old, "new": new, "finished": finished, "second": second, "third": third}
    loaded = {role: models.load_model(path) for role, path in roles.items()}
    older, newer, done, second_, last = loaded.values()
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cir": package.__version__,
        "models": {role: {"name": one.card.name, "digest": one.card.digest} for role, one in loaded.items()},
    }

    def load(card: Any) -> SprcEncoder:
        return next(one for one in (older, newer) if one.card.digest == card.digest)

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in galleries:
            pictures, anchors = product_gallery(root) if name == "products" else wardrobe_gallery(scratch / "garments")
            build_index(pictures, scratch / name, older, tokens=False)
            index = Remembering(Gallery.open(scratch / name), load)
            seen = {
                one.card.name: observe(
                    index, one, older.card, anchors, sample=len(pictures), rng=np.random.default_rng(0)
                )
                for one in (newer, done, second_, last)
            }
            studies = {model: each.study for model, each in seen.items()}
            told: dict[str, Any] = {"photos": len(pictures), "anchors": len(anchors)}
            told |= {"seeds": by_seed(seen[newer.card.name]), "finished": by_seed(seen[done.card.name])}
            native = {role: all_hits(one, one.native) for role, one in studies.items()}
            told["native, all anchors"] = {role: shares(hits) for role, hits in native.items()}
            told["cost"] = {
                what: float(native[newer.card.name][what].mean() - native[done.card.name][what].mean())
                for what in MEASURES
            }
            told["generations"] = generations(older, second_, last, studies)
            result[name] = told
            if output:  # after each gallery: it takes ten minutes
                output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            click.echo(
                f"{name}: {len(pictures):,} pictures, {len(anchors):,} anchors, {older.card.name} -> {newer.card.name}"
            )
            click.echo(render(told["seeds"]))
            click.echo(f"{done.card.name}, finished before it got a head:")
            click.echo(render(told["finished"]))
            click.echo(json.dumps({key: told[key] for key in ("native, all anchors", "cost", "generations")}, indent=1))


if __name__ == "__main__":
    main()
