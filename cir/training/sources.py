"""What `small` learns from: product photos and the rendered wardrobe, as feature maps beside what is known of them.

Maps of the frozen trunk are computed once and kept, and so is what older models have stored of the same pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cir.data import products
from cir.data import wardrobe
from cir.data.items import Catalogue
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.images import ImageFile, Preprocess, decode
from cir.models.sprc import Sprc
from cir.training.features import Floats16, cached
from cir.training.triplet_sampling import Table, Wish

Rows = NDArray[np.int64]

HELD_OUT_QUERIES, HELD_OUT_SEED = 1000, 7
WARDROBE = "wardrobe"


@dataclass(frozen=True)
class Settings:
    """What decides the batches; the rest is in the `Recipe` and the `SprcConfig`.

    Attributes:
        batch: triplets a step.
        sources: name -> share of a batch: names of zips (or folders) of product photos, and "wardrobe".
        kinds: for "products" and "wardrobe", how often each kind of wish is asked; "a+b" is two in one caption.
        described: descriptions for pass D a step; at most `batch`.
        wardrobe_pictures, wardrobe_seed: what is drawn.
        rtc_weight, align_weight: of SPRC's second and third loss.
        share: of the product photos that is trained on, chosen by their ids.
        shares: the same for single sources, by name.
        vertex_weight: of the cross-entropy against the vertices, where the gallery is anchored to a simplex.
        settled: contrast moves only the dims that no vertex anchors.
        asked_weight: of the cross-entropy of composed queries against the vertices of their targets.
        anchored_weight: of the contrast by the anchored dims alone, so that queries do without the others.
        hoc_weight: of the pull of gallery vectors towards those of predecessors of the same simplex.
        pool: train the projections alone, on so many triplets that the Q-Former, which stays as it is, is asked once;
            0 trains all of the model.
    """

    batch: int
    sources: Mapping[str, float]
    kinds: Mapping[str, Mapping[str, float]]
    described: int
    wardrobe_pictures: int = 6000
    wardrobe_seed: int = 1
    rtc_weight: float = 0.4
    align_weight: float = 0.4
    share: float = 1.0
    shares: Mapping[str, float] = field(default_factory=dict)
    vertex_weight: float = 1.0
    settled: bool = True
    asked_weight: float = 0.0
    anchored_weight: float = 0.0
    hoc_weight: float = 0.0
    pool: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what makes no batches."""
        if self.batch < 1 or not 0 <= self.described <= self.batch or self.wardrobe_pictures < 1:
            raise ValueError("batch and wardrobe_pictures are 1 or more, described is at most batch")
        if self.pool and self.pool < self.batch:
            raise ValueError("pool is at least batch, or 0")
        if not all(0 < share <= 1 for share in (self.share, *self.shares.values())):
            raise ValueError("share and shares are above 0 and at most 1")


@dataclass(frozen=True)
class Source:
    """Items of a table that have pictures of one origin.

    Attributes:
        name: of the origin.
        table: what is known of the items.
        maps: (N, P, W) float16 feature maps.
        places: row of the table -> row of `maps`, or -1.
        among: (rows of the table,) bool, the items to train on.
        kinds: kinds of wishes -> share.
        old: id of each older space -> (N, T, D) float16, what its model's gallery holds of these pictures.
    """

    name: str
    table: Table
    maps: Floats16
    places: Rows
    among: NDArray[np.bool_]
    kinds: Mapping[tuple[str, ...], float]
    old: Mapping[str, Floats16] = field(default_factory=dict)

    def wishes(self, count: int, rng: random.Random) -> Iterator[Wish]:
        """`count` random wishes about these items."""
        rows = np.flatnonzero(self.among)
        sets, shares = list(self.kinds), list(self.kinds.values())
        while count:
            made = self.table.wish(int(rows[rng.randrange(len(rows))]), rng.choices(sets, shares)[0], self.among, rng)
            if made is not None:
                count -= 1
                yield made

    def maps_of(self, rows: Sequence[int]) -> Floats16:
        """(B, P, W) float16 feature maps of rows of the table."""
        return self.maps[self.places[list(rows)]]

    def old_of(self, space: str, rows: Sequence[int]) -> Floats16:
        """(B, T, D) float16, what the gallery of an older space holds of rows of the table."""
        return self.old[space][self.places[list(rows)]]


@dataclass(frozen=True)
class HeldOut:
    """Products that training never sees: the gallery on which checkpoints are chosen."""

    source: Source
    order: list[str]
    rows: Rows
    changes: list[JudgedQuery]


class OldGallery(nn.Module):
    """What a model stores of pictures: (B, 3, H, W) -> (B, T, D) unit-norm, its tokens or its one vector."""

    def __init__(self, model: Sprc) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.model.target_states(self.model.image_features(pixels))
        if self.model.gallery_proj is None:
            return self.model.project_tokens(states)
        return self.model.project_vector(states)[:, None]


Old = Mapping[str, tuple[Sprc, Preprocess]]


def gather(
    settings: Settings, root: Path, work: Path, trunk: nn.Module, preprocess: Preprocess, old: Old | None = None
) -> tuple[list[Source], list[HeldOut]]:
    """Sources to train on and the held-out galleries of product photos; feature maps are kept under `work`.

    Args:
        settings: which sources.
        root: folder of the product data.
        work: keeps feature maps, and what older models store of the same pictures.
        trunk, preprocess: of the model to train.
        old: id of each older space -> the model that spans it.

    Raises:
        DataError: the product data is not there, or a picture cannot be read.
    """
    styles = products.read_styles(root)
    ids = [product for product in sorted(styles) if products.split_of(product) == "train"]
    table = Table(
        "products",
        [products.details(styles[product]) for product in ids],
        products.KINDS,
        fixed=[styles[product]["masterCategory"] for product in ids],
        names=[styles[product]["productDisplayName"] or "" for product in ids],
    )
    place = {product: row for row, product in enumerate(ids)}
    apart = np.array([products.held_out(product) for product in ids])
    kinds = _kinds(settings.kinds["products"])
    sources, held_out = [], []
    for name in settings.sources:
        if name == WARDROBE:
            sources.append(_wardrobe(settings, work, trunk, preprocess, old or {}))
            continue
        share = settings.shares.get(name, settings.share)
        chosen = np.array([products.among_first(product, share) for product in ids])
        files = {product: image for product, image in products.product_images(root / name) if product in place}
        # What is neither trained on nor held out needs no maps.
        files = {product: image for product, image in files.items() if (apart | chosen)[place[product]]}
        order = sorted(files)
        stem = Path(name).stem
        maps = cached(work / f"{stem}.npy", len(order), _Pixels(files, order, preprocess), trunk)
        stored = {
            space: cached(work / f"{stem}-{space}.npy", len(order), _Pixels(files, order, how), OldGallery(model))
            for space, (model, how) in (old or {}).items()
        }
        places = np.full(len(ids), -1)
        places[[place[product] for product in order]] = np.arange(len(order))
        sources.append(Source(name, table, maps, places, (places >= 0) & ~apart & chosen, kinds, stored))
        rows = np.flatnonzero((places >= 0) & apart)
        kept = [ids[row] for row in rows]
        changes = Catalogue([products.item(styles[product], product) for product in kept], products.KINDS).judged_queries(
            HELD_OUT_QUERIES, products.CHANGE_WEIGHTS, seed=HELD_OUT_SEED
        )
        held_out.append(HeldOut(sources[-1], kept, rows, changes))
    return sources, held_out


def _wardrobe(settings: Settings, work: Path, trunk: nn.Module, preprocess: Preprocess, old: Old) -> Source:
    """Rendered garments, drawn for training alone: the benchmark's and the demo's have other seeds."""
    garments = wardrobe.garments(settings.wardrobe_pictures, seed=settings.wardrobe_seed)

    def pixels(how: Preprocess, i: int) -> NDArray[np.float32]:
        return how(wardrobe.draw(garments[i], seed=settings.wardrobe_seed * 1_000_000 + i))

    maps = cached(work / "wardrobe.npy", len(garments), partial(pixels, preprocess), trunk)
    stored = {
        space: cached(work / f"wardrobe-{space}.npy", len(garments), partial(pixels, how), OldGallery(model))
        for space, (model, how) in old.items()
    }
    every = np.arange(len(garments))
    table = Table(WARDROBE, [garment.attributes for garment in garments], wardrobe.KINDS)
    return Source(WARDROBE, table, maps, every, every >= 0, _kinds(settings.kinds[WARDROBE]), stored)


def _kinds(shares: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {tuple(kinds.split("+")): share for kinds, share in shares.items()}


@dataclass(frozen=True)
class _Pixels:
    files: Mapping[str, ImageFile]
    order: Sequence[str]
    preprocess: Preprocess

    def __call__(self, i: int) -> NDArray[np.float32]:
        image = self.files[self.order[i]]
        try:
            return self.preprocess(decode(image.read(), image.id))
        except Exception as error:
            raise DataError(f"{image.id}: cannot be read for training: {error}") from error
