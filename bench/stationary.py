"""Costs and gains of a stationary gallery: projections of several kinds on the states of a frozen model.

    python bench/stationary.py DATA_ROOT OLD NEW --work DIR --output bench/results/DATE-stationary.json

OLD has a simplex, NEW is any model of another training. NEW's Q-Former stays frozen. On its states of photos and of
8,000 training triplets, a gallery and a query projection are trained from scratch for each variant, with the losses of
`cir train` and with HOC, which `cir train` does not use. Figures are for the held-out part of train: NEW by itself, and
NEW's queries over the stored vectors of OLD on the simplex dims alone. One seed, half a minute per variant.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.arrays import Rows
from cir.files import write_json
from cir.models import weights
from cir.models.sprc import Sprc
from cir.models.stationary import assemble_blocks
from cir.training import losses
from cir.training.class_map import VertexLoss, class_map
from cir.training.config import read_config
from cir.training.features import FeatureStore
from cir.training.photo_source import HeldOut, PhotoSource
from cir.training.sources import AttributeBatches, gather
from cir.training.triplet_sampling import SampledTriplet
from cir.types import Simplex

TRIPLETS, STEPS, BATCH, SEED, ENCODED = 8_000, 800, 256, 0, 128
PHOTOS = "images-224.zip"


@dataclass(frozen=True)
class Variant:
    """How the two projections are trained: weights of the terms, and whether the contrastive loss moves the blocks."""

    vertex: float = 0.0
    detach_simplex: bool = False
    simplex: float = 0.0
    hoc: float = 0.0
    query_vertex: float = 0.0


# The names are those of the recorded results.
BY_BLOCK = "vertices alone, queries too 0.5"
VARIANTS = {
    "free": Variant(),
    "vertices, contrast moves all": Variant(vertex=0.25),
    "vertices, contrast moves all, HOC 0.9": Variant(vertex=0.25, hoc=0.9),
    "vertices alone": Variant(vertex=0.25, detach_simplex=True, simplex=0.5),
    "vertices alone, queries too 0.1": Variant(vertex=0.25, detach_simplex=True, simplex=0.5, query_vertex=0.1),
    BY_BLOCK: Variant(vertex=0.25, detach_simplex=True, simplex=0.5, query_vertex=0.5),
    "vertices alone, queries by vertices 0.5": Variant(vertex=0.25, detach_simplex=True, query_vertex=0.5),
    "vertices alone, queries too 0.5, HOC 0.1": Variant(
        vertex=0.25, detach_simplex=True, simplex=0.5, query_vertex=0.5, hoc=0.1
    ),
}


@dataclass(frozen=True)
class States:
    """Q-Former states of the frozen model.

    Attributes:
        photos: (rows of the table, width) of pass C, the mean over T; zero without a photo.
        triplets: training triplets.
        queries: (8,000, width) of passes A and B on them.
        held_out: (Q, width) of passes A and B on the held-out queries.
    """

    photos: Tensor
    triplets: Sequence[SampledTriplet]
    queries: Tensor
    held_out: Tensor


@torch.inference_mode()
def encode(model: Sprc, source: PhotoSource, held_out: HeldOut) -> States:
    """Encode photos, triplets and held-out queries once."""
    triplets = list(source.sample(TRIPLETS, random.Random(SEED)))
    photos = torch.zeros(len(source.table.items), model.config.width)
    rows = np.flatnonzero(source.places >= 0)
    for start in range(0, len(rows), ENCODED):
        part = rows[start : start + ENCODED]
        photos[part] = model.target_states(maps_of(source, part)).mean(dim=1)

    def compose(references: Sequence[int], captions: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(captions), ENCODED):
            maps = maps_of(source, references[start : start + ENCODED])
            ids, mask = model.tokenize(captions[start : start + ENCODED])
            parts.append(model.sentence_state(model.sentence_prompt(maps, ids, mask), ids, mask))
        return torch.cat(parts)

    row_of = dict(zip(held_out.ids, held_out.rows, strict=True))
    return States(
        photos,
        triplets,
        compose([triplet.reference for triplet in triplets], [triplet.query.caption for triplet in triplets]),
        compose(
            [int(row_of[query.reference]) for query in held_out.queries],
            [query.caption for query in held_out.queries],
        ),
    )


def maps_of(source: PhotoSource, rows: Sequence[int] | Rows) -> Tensor:
    """(B, P, W) float32 feature maps of rows of the table."""
    return torch.from_numpy(source.maps[source.places[list(rows)]]).float()


def encoded_once(path: Path, model: Sprc, source: PhotoSource, held_out: HeldOut) -> States:
    """The states, read from a file or computed and written there."""
    if path.is_file():
        stored = np.load(path)
        photos, queries, apart = (torch.from_numpy(stored[name]) for name in ("photos", "queries", "held_out"))
        return States(photos, list(source.sample(TRIPLETS, random.Random(SEED))), queries, apart)
    states = encode(model, source, held_out)
    np.savez(path, photos=states.photos, queries=states.queries, held_out=states.held_out)
    return states


def train(
    variant: Variant, states: States, source: PhotoSource, simplex: Simplex, dims: int, older: Tensor
) -> tuple[nn.Linear, nn.Linear]:
    """Train a gallery projection and a query projection.

    Args:
        variant: how.
        states: what to project.
        source: of the photos.
        simplex: the product simplex.
        dims: D of the vectors.
        older: (rows of the table, D) stored vectors of OLD, for HOC.
    """
    torch.manual_seed(SEED)
    width = states.photos.shape[1]
    gallery, query = nn.Linear(width, dims), nn.Linear(width, dims)
    temperature = nn.Parameter(torch.tensor(0.07))
    vertex_loss = VertexLoss(simplex, class_map(simplex, [source.table], {}), [source.table])
    optimiser = torch.optim.AdamW([*gallery.parameters(), *query.parameters(), temperature], lr=2e-3, weight_decay=0.01)
    rng = np.random.default_rng(SEED)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 2e-3 * (0.5 + 0.5 * np.cos(np.pi * step / STEPS))
        batch = rng.choice(len(states.triplets), BATCH, replace=False)
        triplets = [states.triplets[i] for i in batch]
        items = np.array([triplet.target for triplet in triplets] + [triplet.reference for triplet in triplets])
        answered = torch.from_numpy(np.stack([triplet.answered_by(items) for triplet in triplets]))
        features = gallery(states.photos[items])
        vectors = normalise(features, simplex, variant)
        composed = F.normalize(query(states.queries[batch]), dim=-1)
        clamped = temperature.clamp(0.01, 0.5)
        total = losses.info_nce(losses.cosines(composed, vectors), clamped, answered)
        if variant.vertex:
            total = total + variant.vertex * vertex_loss(features, [(source.table, int(row)) for row in items])
        if variant.simplex:
            inside = [F.normalize(values[:, : simplex.dims], dim=-1) for values in (composed, vectors)]
            total = total + variant.simplex * losses.info_nce(losses.cosines(*inside), clamped, answered)
        if variant.query_vertex:
            raw = query(states.queries[batch])
            targets = [(source.table, triplet.target) for triplet in triplets]
            total = total + variant.query_vertex * vertex_loss(raw, targets)
        if variant.hoc:
            total = total + variant.hoc * losses.hoc(older[items], assemble_blocks(features, simplex))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return gallery, query


def normalise(features: Tensor, simplex: Simplex, variant: Variant) -> Tensor:
    """(B, D) features -> (B, D) unit-norm gallery vectors; by blocks for a variant with vertices."""
    if not variant.vertex:
        return F.normalize(features, dim=-1)
    return assemble_blocks(features, simplex, detach_simplex=variant.detach_simplex)


@dataclass(frozen=True)
class Recall:
    """R@1 and R@10 of the held-out queries, as {"R@1": share, "R@10": share}.

    Attributes:
        references: (Q,) place of each reference in the held-out gallery.
        targets: (Q, N) bool, the right answers.
    """

    references: Tensor
    targets: Tensor

    @classmethod
    def of(cls, held_out: HeldOut) -> Recall:
        """The recall over a held-out gallery."""
        place = {product: number for number, product in enumerate(held_out.ids)}
        targets = torch.zeros(len(held_out.queries), len(place), dtype=torch.bool)
        for row, query in enumerate(held_out.queries):
            targets[row, [place[target] for target in query.targets]] = True
        return cls(torch.tensor([place[query.reference] for query in held_out.queries]), targets)

    def __call__(self, queries: Tensor, gallery: Tensor) -> dict[str, float]:
        """(Q, D) queries over an (N, D) gallery."""
        scores = queries @ gallery.T
        scores[torch.arange(len(queries)), self.references] = -2
        found = {k: self.targets.gather(1, scores.topk(k).indices).any(dim=1) for k in (1, 10)}
        return {f"R@{k}": float(hits.float().mean()) for k, hits in found.items()}


@torch.no_grad()
def measure(
    queries: Tensor, vectors: Tensor, recall: Recall, *, older: Tensor, simplex: Simplex | None, by_block: bool
) -> dict[str, dict[str, float]]:
    """Recalls of (Q, D) queries: native, and on the simplex dims over both galleries; by block if wanted."""
    figures = {"native": recall(queries, vectors)}
    if simplex is None:
        return figures
    inside = F.normalize(queries * (torch.arange(queries.shape[1]) < simplex.dims), dim=-1)
    figures["simplex dims, own gallery"] = recall(inside, vectors)
    figures["simplex dims, gallery of OLD"] = recall(inside, older)
    for block in simplex.blocks if by_block else ():
        without = inside.clone()
        start = simplex.offsets[block.name]
        without[:, start : start + block.capacity - 1] = 0
        figures[f"without {block.name}, gallery of OLD"] = recall(F.normalize(without, dim=-1), older)
    return figures


def show(name: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print one line per kind of figure."""
    for kind, values in figures.items():
        click.echo(f"{name:45} {kind:40} " + "  ".join(f"{k} {100 * value:.1f}" for k, value in values.items()))


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, old: Path, new: Path, work: Path, output: Path | None) -> None:
    """Measure and write the figures."""
    older_model, card, older_preprocess = weights.load(old)
    model, new_card, preprocess = weights.load(new)
    simplex = card.simplex
    assert simplex is not None, "OLD has no simplex"
    batches = read_config("small-3").batches
    assert isinstance(batches, AttributeBatches)
    batches = replace(batches, sources={PHOTOS: 1.0}, share=1.0)
    store = FeatureStore(work, model.vision, preprocess, {card.space.id: (older_model, older_preprocess)})
    data = gather(batches, root, store)
    (source,), (held_out,) = data.sources, data.held_out
    states = encoded_once(work / f"states-{new_card.digest}.npz", model, source, held_out)
    stored = torch.zeros(len(source.table.items), card.dims)
    rows = np.flatnonzero(source.places >= 0)
    stored[rows] = torch.from_numpy(source.older_of(card.space.id, rows.tolist())[:, 0]).float()
    recall = Recall.of(held_out)
    with torch.no_grad():
        own = model.project_vector(states.photos[held_out.rows][:, None])
        figures = {"NEW as it is": {"native": recall(model.project_query(states.held_out), own)}}
    for name, variant in VARIANTS.items():
        started = time.monotonic()
        gallery, query = train(variant, states, source, simplex, card.dims, stored)
        with torch.no_grad():
            vectors = normalise(gallery(states.photos[held_out.rows]), simplex, variant)
            queries = F.normalize(query(states.held_out), dim=-1)
        figures[name] = measure(
            queries,
            vectors,
            recall,
            older=stored[held_out.rows],
            simplex=simplex if variant.vertex else None,
            by_block=name == BY_BLOCK,
        )
        show(name, figures[name])
        click.echo(f"  {time.monotonic() - started:.0f} s")
    click.echo(json.dumps(figures["NEW as it is"]))
    if output:
        date = datetime.now(UTC).date().isoformat()
        write_json(output, {"date": date, "old": card.name, "new": new_card.name, "figures": figures}, indent=1)


if __name__ == "__main__":
    main()
