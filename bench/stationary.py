"""What a stationary gallery costs and brings: projections of one kind after another on the states of a frozen model.

    python bench/stationary.py DATA_ROOT OLD NEW --work DIR --output bench/results/DATE-stationary.json

OLD is stationary, NEW is any model of another training. NEW's Q-Former stays as it is; on what it says of photos and of
8,000 training triplets, a gallery and a query projection are trained anew for each variant, with the losses of
`cir train`. Everything is asked on the held-out part of train: NEW by itself, and NEW's queries over the vectors of OLD
by nothing but the dims that both simplices anchor. One seed, half a minute a variant.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.training import losses
from cir.data import captions
from cir.models import weights
from cir.models.sprc import Sprc
from cir.models.stationary import arrange
from cir.training.config import read_config
from cir.training.sources import HELD_OUT_SEED, HeldOut, Source, gather
from cir.training.class_map import VertexLoss, class_map
from cir.types import Simplex

TRIPLETS, STEPS, BATCH, SEED = 8_000, 800, 256, 0
PHOTOS = "images-224.zip"


@dataclass(frozen=True)
class Variant:
    """What the heads are trained by; the weights of the terms."""

    vertex: float = 0.0
    settled: bool = False
    anchored: float = 0.0
    hoc: float = 0.0
    asked: float = 0.0


VARIANTS = {
    "free": Variant(),
    "vertices, contrast moves all": Variant(vertex=0.25),
    "vertices, contrast moves all, HOC 0.9": Variant(vertex=0.25, hoc=0.9),
    "vertices alone": Variant(vertex=0.25, settled=True, anchored=0.5),
    "vertices alone, queries too 0.1": Variant(vertex=0.25, settled=True, anchored=0.5, asked=0.1),
    "vertices alone, queries too 0.5": Variant(vertex=0.25, settled=True, anchored=0.5, asked=0.5),
    "vertices alone, queries by vertices 0.5": Variant(vertex=0.25, settled=True, asked=0.5),
    "vertices alone, queries too 0.5, HOC 0.1": Variant(vertex=0.25, settled=True, anchored=0.5, asked=0.5, hoc=0.1),
}


@dataclass(frozen=True)
class States:
    """What the frozen model says: of every photo (N, width), of training triplets and of the held-out queries."""

    photos: Tensor
    wishes: list
    asked: Tensor
    held_out: Tensor


@torch.inference_mode()
def states(model: Sprc, source: Source, held_out: HeldOut) -> States:
    """Encode once."""
    rng = random.Random(SEED)
    wishes = list(source.wishes(TRIPLETS, rng))
    photos = torch.zeros(len(source.table.items), model.config.width)
    rows = np.flatnonzero(source.places >= 0)
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        maps = torch.from_numpy(source.maps_of(part)).float()
        photos[part] = model.target_states(maps).mean(dim=1)

    def ask(references: list[int], captions: list[str]) -> Tensor:
        out = []
        for start in range(0, len(captions), 128):
            maps = torch.from_numpy(source.maps_of(references[start : start + 128])).float()
            ids, mask = model.tokenize(captions[start : start + 128])
            out.append(model.sentence_state(model.sentence_prompt(maps, ids, mask), ids, mask))
        return torch.cat(out)

    place = dict(zip(held_out.order, held_out.rows, strict=True))
    said = random.Random(HELD_OUT_SEED)
    captions = [captions.change_caption(change.changes, said, phrasing="train") for change in held_out.changes]
    return States(
        photos,
        wishes,
        ask([wish.reference for wish in wishes], [wish.caption for wish in wishes]),
        ask([int(place[change.reference]) for change in held_out.changes], captions),
    )


def train(
    how: Variant, seen: States, source: Source, anchors: Simplex, dims: int, old: Tensor
) -> tuple[nn.Linear, nn.Linear]:
    """A gallery head and a query head."""
    torch.manual_seed(SEED)
    width = seen.photos.shape[1]
    gallery, query = nn.Linear(width, dims), nn.Linear(width, dims)
    temperature = nn.Parameter(torch.tensor(0.07))
    vertex_loss = VertexLoss(anchors, class_map(anchors, [source.table], {}), [source.table])
    optimiser = torch.optim.AdamW([*gallery.parameters(), *query.parameters(), temperature], lr=2e-3, weight_decay=0.01)
    rng = np.random.default_rng(SEED)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 2e-3 * (0.5 + 0.5 * np.cos(np.pi * step / STEPS))
        batch = rng.choice(len(seen.wishes), BATCH, replace=False)
        wishes = [seen.wishes[i] for i in batch]
        items = np.array([wish.target for wish in wishes] + [wish.reference for wish in wishes])
        answered = torch.from_numpy(np.stack([wish.answered_by(items) for wish in wishes]))
        features = gallery(seen.photos[items])
        vectors = arrange(features, anchors, settled=how.settled) if how.vertex else F.normalize(features, dim=-1)
        composed = F.normalize(query(seen.asked[batch]), dim=-1)
        warm = temperature.clamp(0.01, 0.5)
        total = losses.contrast(losses.cosines(composed, vectors), warm, answered)
        if how.vertex:
            total = total + how.vertex * vertex_loss(features, [(source.table, int(row)) for row in items])
        if how.anchored:
            inside = [F.normalize(each[:, : anchors.dims], dim=-1) for each in (composed, vectors)]
            total = total + how.anchored * losses.contrast(losses.cosines(*inside), warm, answered)
        if how.asked:
            raw = query(seen.asked[batch])
            total = total + how.asked * vertex_loss(raw, [(source.table, wish.target) for wish in wishes])
        if how.hoc:
            total = total + how.hoc * losses.hoc(old[items], arrange(features, anchors))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return gallery, query


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, old: Path, new: Path, work: Path, output: Path | None) -> None:
    """Measure and write the figures."""
    older, card, how = weights.load(old)
    model, new_card, preprocess = weights.load(new)
    anchors = card.simplex
    assert anchors is not None, "OLD is not stationary"
    settings = read_config("small").batches
    settings = replace(settings, sources={PHOTOS: 1.0}, share=1.0)
    (source,), (held_out,) = gather(settings, root, work, model.vision, preprocess, {card.space.id: (older, how)})
    kept = work / f"states-{new_card.digest}.npz"
    if kept.is_file():
        told = np.load(kept)
        wishes = list(source.wishes(TRIPLETS, random.Random(SEED)))
        seen = States(
            torch.from_numpy(told["photos"]), wishes, *(torch.from_numpy(told[k]) for k in ("asked", "held_out"))
        )
    else:
        seen = states(model, source, held_out)
        np.savez(kept, photos=seen.photos, asked=seen.asked, held_out=seen.held_out)
    stored = torch.zeros(len(source.table.items), card.dims)
    rows = np.flatnonzero(source.places >= 0)
    stored[rows] = torch.from_numpy(source.old_of(card.space.id, rows)[:, 0]).float()
    place = {product: number for number, product in enumerate(held_out.order)}
    references = torch.tensor([place[change.reference] for change in held_out.changes])
    right = torch.zeros(len(references), len(place), dtype=torch.bool)
    for row, change in enumerate(held_out.changes):
        right[row, [place[target] for target in change.targets]] = True

    def recall(queries: Tensor, gallery: Tensor) -> dict[str, float]:
        found = queries @ gallery.T
        found[torch.arange(len(queries)), references] = -2
        return {f"R@{k}": float(right.gather(1, found.topk(k).indices).any(dim=1).float().mean()) for k in (1, 10)}

    figures = {}
    with torch.no_grad():
        own = model.project_vector(seen.photos[held_out.rows][:, None])
        figures["NEW as it is"] = {"native": recall(model.project_query(seen.held_out), own)}
    for name, variant in VARIANTS.items():
        started = time.monotonic()
        gallery, query = train(variant, seen, source, anchors, card.dims, stored)
        with torch.no_grad():
            features = gallery(seen.photos[held_out.rows])
            vectors = arrange(features, anchors) if variant.vertex else F.normalize(features, dim=-1)
            asked = F.normalize(query(seen.held_out), dim=-1)
            told = {"native": recall(asked, vectors)}
            if variant.vertex:
                bare = F.normalize(asked * (torch.arange(card.dims) < anchors.dims), dim=-1)
                told["anchored dims, own gallery"] = recall(bare, vectors)
                told["anchored dims, gallery of OLD"] = recall(bare, stored[held_out.rows])
                for block in anchors.blocks if variant == VARIANTS["vertices alone, queries too 0.5"] else ():
                    left = bare.clone()
                    start = anchors.offsets[block.name]
                    left[:, start : start + block.room - 1] = 0
                    told[f"without {block.name}, gallery of OLD"] = recall(
                        F.normalize(left, dim=-1), stored[held_out.rows]
                    )
        figures[name] = told
        for what, values in told.items():
            said = "  ".join(f"{k} {100 * v:.1f}" for k, v in values.items())
            click.echo(f"{name:45} {what:40} {said}")
        click.echo(f"  {time.monotonic() - started:.0f} s")
    click.echo(json.dumps(figures["NEW as it is"]))
    if output:
        told = {
            "date": datetime.now(UTC).date().isoformat(),
            "old": card.name,
            "new": new_card.name,
            "figures": figures,
        }
        output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
