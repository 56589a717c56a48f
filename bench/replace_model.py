"""How much of a re-index's gain do the routes of `cir replace-model` bring?

    python bench/replace_model.py DATA_ROOT OLD NEW --output bench/results/DATE-replace.json \\
        [--finished DIR] [--second DIR --third DIR]

All are model folders. OLD has made the index, NEW replaces it and has a head for it. FINISHED is a model of NEW's kind,
trained without a simplex, with a head for OLD fitted on it afterwards (`cir train --heads-only`). SECOND is another
successor of OLD, and THIRD is NEW with a head for SECOND as well: three generations. Two galleries: the 224 px photos
of val and of the held-out part of train, and the benchmark wardrobe. Judged queries are in val phrasings, half of their
references for fitting; three seeds draw the halves. Everything is encoded once.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

import cir
from cir.arrays import Floats
from cir.data import captions, products, wardrobe
from cir.data.image_source import image_source
from cir.data.items import Catalogue, Item
from cir.data.judged_query import JudgedQuery
from cir.evidence import ReindexCost
from cir.images import ImageFile, scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import BuildOptions, build_index
from cir.models import load_model
from cir.models.base_encoder import BaseEncoder
from cir.query_vectors import QueryVectors
from cir.replacement.collect import Collected, SampleCollector
from cir.replacement.gate import judge
from cir.replacement.measure import MEASURES, baselines, measure
from cir.replacement.paired_sample import PairedSample, group_split, similarities
from cir.replacement.routes import fit_routes
from cir.search import Searcher
from cir.stats import average_accuracy, average_compatibility, compatibility_margins
from cir.types import ModelCard, Query

QUERIES, SEED, SEEDS = 2000, 0, 3
GARMENTS, GARMENT_SEED, GARMENT_QUERIES = 1200, 2, 1000
EXPENSIVE = ReindexCost(1_000_000, 40.0, 10**9)  # so that the advice is never to re-index


class CachingSearcher(Searcher):
    """A searcher whose one set of queries is encoded once, for several new models."""

    _cached: QueryVectors | None = None

    def encode(self, queries: Sequence[Query]) -> QueryVectors:
        """The vectors of the first call."""
        if self._cached is None:
            self._cached = super().encode(queries)
        return self._cached


def judged_queries(
    catalogue: Catalogue, weights: Mapping[tuple[str, ...], float], count: int = QUERIES
) -> list[JudgedQuery]:
    """Judged queries in the phrasings that no training has seen."""
    queries = catalogue.judged_queries(count, weights, seed=SEED)
    captioned = captions.with_captions(queries, random.Random(SEED), phrasing="val")
    return [replace(query, id=str(number)) for number, query in enumerate(captioned)]


def product_gallery(root: Path) -> tuple[list[ImageFile], list[JudgedQuery]]:
    """Photos that no training sees, and judged queries about them."""
    styles = products.read_styles(root)
    photos = [
        (product, image)
        for product, image in products.product_images(image_source(root))
        if products.split_of(product) == "val" or products.held_out(product)
    ]
    catalogue = Catalogue([products.item(styles[product], image.id) for product, image in photos], products.KINDS)
    return [image for _, image in photos], judged_queries(catalogue, products.CHANGE_WEIGHTS)


def wardrobe_gallery(folder: Path) -> tuple[list[ImageFile], list[JudgedQuery]]:
    """The garments of `cir evaluate wardrobe`."""
    garments = wardrobe.write(folder, GARMENTS, seed=GARMENT_SEED)
    catalogue = Catalogue([Item(image_id, garment.attributes) for image_id, garment in garments], wardrobe.KINDS)
    return list(scan([folder])), judged_queries(catalogue, wardrobe.CHANGE_WEIGHTS, GARMENT_QUERIES)


def recalls(sample: PairedSample, scores: Floats) -> dict[str, float]:
    """Measure -> share of all queries, fitted on or not: for what nothing was fitted on."""
    return {name: float(sample.hits(scores, k).mean()) for name, k in MEASURES.items()}


def by_seed(collected: Collected) -> list[dict[str, Any]]:
    """Every route, fitted and measured on other halves."""
    results = []
    groups = [query.reference for query in collected.queries]
    for seed in range(SEEDS):
        sample = replace(collected.sample, fit_mask=group_split(groups, np.random.default_rng(seed)))
        fitted, _ = fit_routes(sample)
        measured = [measure(sample, route) for route in fitted]
        compared = baselines(sample)
        verdict = judge(len(groups), compared, measured, EXPENSIVE)
        results.append(
            {
                "measured": int((~sample.fit_mask).sum()),
                "baselines": compared,
                "routes": [result.to_json() for result in measured],
                "verdict": asdict(verdict),
            }
        )
    return results


def generations(
    older: BaseEncoder, second: BaseEncoder, last: BaseEncoder, samples: Mapping[str, PairedSample]
) -> dict[str, Any]:
    """The matrix of three models: rows query, columns have stored. Nothing is fitted, so that all queries count."""
    one, three = samples[second.card.name], samples[last.card.name]
    galleries = [one.old_gallery, one.new_gallery, three.new_gallery]
    assert three.new_states is not None
    querying = [
        [one.old_queries],
        [one.head_queries, one.new_queries],
        [three.head_queries, last.project_states(three.new_states, second.card.space.id), three.new_queries],
    ]
    result: dict[str, Any] = {"models": [model.card.name for model in (older, second, last)]}
    for name in MEASURES:
        matrix = np.zeros((3, 3))
        for i, row in enumerate(querying):
            for j, queries in enumerate(row):
                assert queries is not None
                matrix[i, j] = recalls(three, similarities(queries, galleries[j]))[name]
        result[name] = {
            "matrix": matrix.round(4).tolist(),
            "AC": average_compatibility(matrix),
            "margins": compatibility_margins(matrix).round(4).tolist(),
            "AA": average_accuracy(matrix),
        }
    return result


def mean(values: Sequence[float | None], digits: int = 1) -> str:
    """Percent with the range over seeds."""
    percents = [100 * (value or 0.0) for value in values]
    return f"{np.mean(percents):.{digits}f} ({min(percents):.{digits}f} to {max(percents):.{digits}f})"


def render(seeds: Sequence[Mapping[str, Any]]) -> str:
    """The table as the documents have it."""
    heads = ["", *MEASURES, "recovered at R@1", "at R@10", "95 % lower bound of the gain, R@1, R@10"]
    heads += ["negative flips", "half re-indexed, R@10", "passes"]
    rows = [heads, ["---"] * len(heads)]
    for name in seeds[0]["baselines"]:
        values = [mean([seed["baselines"][name][measure] for seed in seeds]) for measure in MEASURES]
        rows.append([name, *values, *[""] * 6])
    for place, route in enumerate(result["route"] for result in seeds[0]["routes"]):
        results = [seed["routes"][place] for seed in seeds]
        verdicts = [seed["verdict"] for seed in seeds]
        passed = sum(route not in verdict["refused"] and not verdict["objections"] for verdict in verdicts)
        bounds = [np.mean([100 * result["gains"][measure]["lower95"] for result in results]) for measure in MEASURES]
        rows.append(
            [
                route,
                *(mean([result["values"][measure] for result in results]) for measure in MEASURES),
                *(mean([result["recovered"][measure] for result in results], 0) for measure in MEASURES),
                ", ".join(f"{bound:+.1f}" for bound in bounds),
                mean([result["negative_flips"] for result in results]),
                mean([result["half_reindexed"]["R@10"] for result in results]),
                f"{passed} of {len(seeds)}",
            ]
        )
    chosen = ", ".join(str(seed["verdict"]["route"]) for seed in seeds)
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + [f"chosen: {chosen}"])


def study(
    gallery: Path, loaded: Mapping[str, BaseEncoder], queries: Sequence[JudgedQuery], photos: int
) -> dict[str, Any]:
    """Everything that is measured on one gallery, made by the old model."""
    older, newer = loaded["old"], loaded["new"]
    known = {model.card.digest: model for model in (older, newer)}

    def load(card: ModelCard) -> BaseEncoder:
        return known[card.digest]

    searcher = CachingSearcher(Gallery.open(gallery), load)
    collected = {
        role: SampleCollector(searcher, model, photos).collect(older.card, queries, np.random.default_rng(0))
        for role, model in loaded.items()
        if role != "old"
    }
    samples = {loaded[role].card.name: one.sample for role, one in collected.items()}
    native = {role: recalls(one.sample, one.sample.reindexed) for role, one in collected.items()}
    result: dict[str, Any] = {"photos": photos, "queries": len(queries), "seeds": by_seed(collected["new"])}
    result["native, all queries"] = native
    if "finished" in loaded:
        result["finished"] = by_seed(collected["finished"])
        result["cost"] = {name: native["new"][name] - native["finished"][name] for name in MEASURES}
    if "second" in loaded and "third" in loaded:
        result["generations"] = generations(older, loaded["second"], loaded["third"], samples)
    return result


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--finished", type=click.Path(path_type=Path))
@click.option("--second", type=click.Path(path_type=Path))
@click.option("--third", type=click.Path(path_type=Path))
@click.option("--gallery", "galleries", multiple=True, default=("products", "wardrobe"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(
    root: Path,
    old: Path,
    new: Path,
    finished: Path | None,
    second: Path | None,
    third: Path | None,
    galleries: Sequence[str],
    output: Path | None,
) -> None:
    """Measure and write the figures."""
    roles = {"old": old, "new": new, "finished": finished, "second": second, "third": third}
    loaded = {role: load_model(path) for role, path in roles.items() if path}
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cir": cir.__version__,
        "models": {role: {"name": one.card.name, "digest": one.card.digest} for role, one in loaded.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in galleries:
            pictures, queries = product_gallery(root) if name == "products" else wardrobe_gallery(scratch / "garments")
            build_index(pictures, scratch / name, loaded["old"], options=BuildOptions(tokens=False))
            result[name] = study(scratch / name, loaded, queries, len(pictures))
            if output:  # after each gallery: it takes ten minutes
                output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            models = " -> ".join(loaded[role].card.name for role in ("old", "new"))
            click.echo(f"{name}: {len(pictures):,} pictures, {len(queries):,} judged queries, {models}")
            click.echo(render(result[name]["seeds"]))
            others = {
                key: result[name][key] for key in ("native, all queries", "cost", "generations") if key in result[name]
            }
            click.echo(json.dumps(others, indent=1))


if __name__ == "__main__":
    main()
