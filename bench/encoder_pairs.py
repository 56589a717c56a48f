"""Does fidelity, which needs no judged queries, tell what a new model brings? Every ordered pair of some models.

    python bench/encoder_pairs.py MODEL MODEL ... --data-root DATA_ROOT --output bench/results/DATE-encoder-pairs.json

MODEL is a name or a folder. The photos are those of `bench/replace_model.py`: of val and of the held-out part of train,
or `--images` of them. For each pair the old model makes an index, and `cir replace-model` studies the new one twice:
with judged queries made from metadata (`cir questions --metadata`), and without any. Both see the same index.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

import cir
from cir.data import products
from cir.data.image_source import image_source
from cir.images import ImageFile
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import BuildOptions, build_index
from cir.models import load_model
from cir.replacement import questions
from cir.replacement.fidelity import ALL, CURRENT
from cir.replacement.study import StudyOptions, study_replacement
from cir.search import Searcher
from cir.tables import align
from cir.types import Encoder

COLUMNS = {kind: kind for kind in products.KINDS}


def gallery_photos(root: Path, count: int | None, seed: int) -> tuple[list[ImageFile], dict[str, dict[str, str]]]:
    """Photos that no training sees, and their metadata."""
    styles = products.read_styles(root)
    photos = [
        (product, image)
        for product, image in products.product_images(image_source(root))
        if products.split_of(product) == "val" or products.held_out(product)
    ]
    order = np.random.default_rng(seed).permutation(len(photos))[:count]
    chosen = [photos[place] for place in sorted(order)]
    metadata = {image.id: dict(products.item(styles[product], image.id).attributes) for product, image in chosen}
    return [image for _, image in chosen], metadata


def study_pair(searcher: Searcher, new: Encoder, options: StudyOptions, count: int, seed: int) -> dict[str, Any]:
    """One new model on the index of an old one, with judged queries and without."""
    judged = questions.generate(searcher.gallery, COLUMNS, count, seed=seed)
    (labelled,) = study_replacement(searcher, new, judged, options=options)
    (unlabelled,) = study_replacement(searcher, new, [], options=options)
    return {
        "old": searcher.gallery.card.name,
        "new": new.card.name,
        "with": labelled.evidence.to_json() | {"fitted_on": []},
        "without": unlabelled.evidence.to_json(),
    }


def rows_of(pair: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured of each route of a pair, side by side; fractions."""
    labelled, unlabelled = pair["with"], pair["without"]
    current, whole = (labelled["baselines"][name]["R@10"] for name in ("current", "reindexed"))
    rows = []
    for result in labelled["routes"]:
        route = result["route"]
        if route not in unlabelled["fidelity"]:
            continue
        by_kind = unlabelled["fidelity"][route]
        rows.append(
            {
                "pair": f"{pair['old']} -> {pair['new']}",
                "route": route,
                "current": current,
                "reindexed": whole,
                "gain": result["gains"]["R@10"]["difference"],
                "overlap": by_kind[ALL]["overlap"],
                "composed": by_kind.get("composed", by_kind[ALL])["overlap"],
                "old index": unlabelled["fidelity"][CURRENT].get(ALL, {}).get("overlap"),
                "passes": not labelled["verdict"]["objections"] and route not in labelled["verdict"]["refused"],
                "faithful": route not in unlabelled["verdict"]["refused"],
                "chosen": (labelled["verdict"]["route"] == route, unlabelled["verdict"]["route"] == route),
            }
        )
    return rows


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation with equal ranks for equal values; None for fewer than three pairs or a constant."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    given = np.asarray(values)
    return [float((given < value).sum() + ((given == value).sum() - 1) / 2) for value in given]


def correlations(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """How the rank of a fidelity goes with that of a measured figure."""
    pairs = {name: [row for row in rows if row["pair"] == name] for name in dict.fromkeys(row["pair"] for row in rows)}
    best = [max(members, key=lambda row: float(row["overlap"])) for members in pairs.values()]
    within = [
        value
        for members in pairs.values()
        if (value := spearman([row["overlap"] for row in members], [row["gain"] for row in members])) is not None
    ]
    return {
        "overlap and gain, over pairs, by the most faithful route": _correlation(best, "overlap", "gain"),
        "overlap and gain, over all routes of all pairs": _correlation(rows, "overlap", "gain"),
        "overlap of composed queries and gain, over all routes of all pairs": _correlation(rows, "composed", "gain"),
        "overlap and gain, over the routes of a pair, mean of pairs": float(np.mean(within)) if within else None,
    }


def _correlation(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> float | None:
    return spearman([row[first] for row in rows], [row[second] for row in rows])


def misleading(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Pairs for which the study without judged queries would serve a model that judged queries refuse."""
    return [f"{row['pair']}, by {row['route']}" for row in rows if row["chosen"][1] and not row["passes"]]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Percent, for people."""
    lines = [["", "route", "R@10 now", "re-index", "gain", "overlap@10", "composed", "now", "labels", "without"]]
    for row in rows:
        now = "-" if row["old index"] is None else f"{100 * row['old index']:.1f}"
        lines.append(
            [
                row["pair"],
                row["route"],
                *(f"{100 * row[name]:.1f}" for name in ("current", "reindexed")),
                f"{100 * row['gain']:+.1f}",
                *(f"{100 * row[name]:.1f}" for name in ("overlap", "composed")),
                now,
                ("passes" if row["passes"] else "refused") + " *" * row["chosen"][0],
                ("faithful" if row["faithful"] else "refused") + " *" * row["chosen"][1],
            ]
        )
    return "\n".join(align(lines))


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data-root", required=True, type=click.Path(exists=True, path_type=Path), help="styles.csv and images.")
@click.option(
    "--images", type=click.IntRange(min=300), help="Photos of the gallery.  [default: all of val and held-out]"
)
@click.option(
    "--conse",
    type=click.Path(exists=True, path_type=Path),
    help="Take ConSE in (bench/conse.py), with these class names.",
)
@click.option("--queries", default=1000, show_default=True, help="Judged queries, half of them for fitting.")
@click.option("--sample", default=2000, show_default=True, help="Images that both models encode.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(
    models: tuple[str, ...],
    data_root: Path,
    images: int | None,
    conse: Path | None,
    queries: int,
    sample: int,
    seed: int,
    output: Path | None,
) -> None:
    """Measure and write the figures."""
    encoders: list[Encoder] = [load_model(name) for name in models]
    if conse is not None:
        from conse import Conse

        encoders.append(Conse(conse))
    loaded = {encoder.card.digest: encoder for encoder in encoders}
    photos, metadata = gallery_photos(data_root, images, seed)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cir": cir.__version__,
        "models": {encoder.card.name: encoder.card.digest for encoder in encoders},
        "photos": len(photos),
        "queries": queries,
        "sample": sample,
        "seed": seed,
        "pairs": [],
    }
    options = StudyOptions(sample, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        for old in encoders:
            path = Path(folder) / old.card.digest
            build_index(photos, path, old, metadata=metadata, options=BuildOptions(tokens=False))
        for old, new in itertools.permutations(encoders, 2):
            gallery = Gallery.open(Path(folder) / old.card.digest, trust_roots=True)
            searcher = Searcher(gallery, lambda card: loaded[card.digest])
            result["pairs"].append(study_pair(searcher, new, options, queries, seed))
            rows = [row for pair in result["pairs"] for row in rows_of(pair)]
            result |= {"rows": rows, "correlations": correlations(rows), "misleading": misleading(rows)}
            if output:  # after each pair: it takes minutes
                output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            click.echo(f"{old.card.name} -> {new.card.name}: done", err=True)
    click.echo(table(result["rows"]))
    click.echo(
        "percent; *: the route chosen; now: the index as it is; overlap@10 and composed are without judged queries"
    )
    for name, value in result["correlations"].items():
        click.echo(f"Spearman, {name}: {'-' if value is None else f'{value:+.2f}'}")
    for pair in result["misleading"]:
        click.echo(f"would have been served without judged queries, and is refused with them: {pair}")


if __name__ == "__main__":
    main()
