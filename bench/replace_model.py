"""How much of a full re-index do the routes of `cir replace-model` bring on real photos?

    python bench/replace_model.py DATA_ROOT OLD NEW --output bench/results/DATE-replace-OLD-NEW.json

OLD and NEW are model directories. The index holds the 224 px photos of val and of the held-out part of train, which no
training sees, encoded by OLD; 2,000 questions about them in val phrasings are the anchors, half of them for fitting.
Three seeds draw the halves.
"""

from __future__ import annotations

import json
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir import models, phrases, products
from cir.catalogue import Catalogue
from cir.indexer.build import build_index
from cir.indexer.gallery import Gallery
from cir.replacement.anchors import Anchor
from cir.replacement.replace import study_replacement
from cir.search import Index

ANCHORS, SEED = 2000, 0


def questions(catalogue: Catalogue) -> list[Anchor]:
    """Anchors in the phrasings that no training has seen."""
    rng = random.Random(SEED)
    return [
        Anchor(
            str(number),
            change.reference,
            phrases.change_caption(change.changes, rng, phrasing="val"),
            frozenset(change.targets),
        )
        for number, change in enumerate(catalogue.changes(ANCHORS, products.CHANGE_WEIGHTS, seed=SEED))
    ]


def mean(values: list[float]) -> str:
    """Percent with the range over seeds."""
    low, high = min(values), max(values)
    return f"{100 * float(np.mean(values)):.1f} ({100 * low:.1f} to {100 * high:.1f})"


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("old")
@click.argument("new")
@click.option("--seeds", default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, old: str, new: str, seeds: int, output: Path | None) -> None:
    """Measure and write the figures."""
    styles = products.read_styles(root)
    photos = [
        (product, image)
        for product, image in products.product_images(products.image_source(root))
        if products.split_of(product) == "val" or products.held_out(product)
    ]
    anchors = questions(
        Catalogue([products.item(styles[product], image.id) for product, image in photos], products.KINDS)
    )
    older, newer = models.load_model(old), models.load_model(new)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        build_index([image for _, image in photos], Path(scratch) / "index", older, tokens=False)
        index = Index(Gallery.open(Path(scratch) / "index"), lambda card: older)
        for seed in range(seeds):
            (one,) = study_replacement(index, newer, anchors, seed=seed)
            found.append(one.to_json())
    click.echo(
        f"{older.card.name} -> {newer.card.name}, {len(photos):,} photos, {len(anchors):,} anchors, {seeds} seeds"
    )
    for system in found[0]["compared"]:
        figures = {name: mean([one["compared"][system][name] for one in found]) for name in ("R@1", "R@10")}
        click.echo(f"{system:15} R@1 {figures['R@1']}  R@10 {figures['R@10']}")
    for place, route in enumerate(one["route"] for one in found[0]["routes"]):
        each = [one["routes"][place] for one in found]
        said = {name: mean([one["values"][name] for one in each]) for name in ("R@1", "R@10")}
        said["recovered"] = mean([one["recovered"]["R@10"] or 0.0 for one in each])
        said["lost"] = mean([one["flips"] for one in each])
        said["mixed R@10"] = mean([one["mixed"]["R@10"] for one in each])
        refused = [one["verdict"]["refused"] for one in found]
        said["passed"] = f"{sum(route not in reasons and '' not in reasons for reasons in refused)}/{seeds}"
        click.echo(f"{route:15} " + "  ".join(f"{name} {value}" for name, value in said.items()))
    click.echo(found[0]["verdict"])
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "old": older.card.to_json(),
        "new": newer.card.to_json(),
        "photos": len(photos),
        "seeds": found,
    }
    for card in (result["old"], result["new"]):
        card.pop("training")
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
