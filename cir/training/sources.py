"""The training data of the task `attributes`: product photos and the rendered wardrobe, with their attributes.

The features of the frozen backbone are computed once and stored, and so are the gallery vectors of older models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cir.arrays import Floats, Mask
from cir.data import products, wardrobe
from cir.data.captions import with_captions
from cir.data.items import Catalogue
from cir.errors import UsageError
from cir.images import Preprocess
from cir.training import everyday
from cir.training.photo_source import AttributeData, ComputesFeatures, HeldOut, PhotoSource, ProductPixels
from cir.training.triplet_sampling import AttributeTable

HELD_OUT_QUERIES, HELD_OUT_SEED = 1000, 7
WARDROBE = "wardrobe"


@dataclass(frozen=True)
class AttributeBatches:
    """The section [batches] of the task `attributes`.

    Attributes:
        batch: triplets per step.
        sources: name -> share of a batch: names of zips (or folders) of product photos, "wardrobe", and "everyday",
            photos with captions.
        kinds: for "products" and "wardrobe", kind of change -> its share; "a+b" is two changes in one caption.
        descriptions: triplets per step whose description trains pass D; at most `batch`.
        wardrobe_pictures, wardrobe_seed: number and seed of the rendered garments.
        rtc_weight, align_weight: of SPRC's second and third loss.
        share: share of the product photos to train on, chosen by their ids.
        shares: the same for single sources, by name.
        vertex_weight: of the cross-entropy of gallery vectors against the vertices, for a model with a simplex.
        query_vertex_weight: of the cross-entropy of composed queries against the vertices of their targets.
        simplex_weight: of the contrastive loss on the simplex dims alone, so that queries do not depend on the others.
        cached_triplets: train only the projections, on this number of triplets, which the frozen Q-Former encodes
            once; 0 trains the whole model.
        mined: share of everyday triplets that ask a mined question; the others describe a photo.
        views: of each everyday photo: the photo, and random crops of it.
        heads: train a query head for each replaced model; without, only its class map is continued, and the heads
            follow with --heads-only.
        imitation_weight: of the imitation of a replaced model over the same backbone, on all sources but "everyday";
            0 trains without a teacher.
        restore_text: give the model that --start names MiniLM's text feed-forwards again.
        text_rate: learning rate of the Q-Former's text layers, relative to the others'; 0 leaves them as they are.
        whole_rate: the same of what sees whole pictures, `Sprc.whole`.
        keep_gallery: train only the query side of the model that --start names, so that its gallery vectors, and with
            them its space, stay as they are.
    """

    batch: int
    sources: Mapping[str, float]
    kinds: Mapping[str, Mapping[str, float]]
    descriptions: int
    wardrobe_pictures: int = 6000
    wardrobe_seed: int = 1
    rtc_weight: float = 0.4
    align_weight: float = 0.4
    share: float = 1.0
    shares: Mapping[str, float] = field(default_factory=dict)
    vertex_weight: float = 1.0
    query_vertex_weight: float = 0.0
    simplex_weight: float = 0.0
    cached_triplets: int = 0
    mined: float = 0.5
    views: int = 1
    whole_rate: float = 1.0
    heads: bool = True
    imitation_weight: float = 0.0
    restore_text: bool = False
    text_rate: float = 1.0
    keep_gallery: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for settings that give no batches."""
        if self.batch < 1 or not 0 <= self.descriptions <= self.batch or self.wardrobe_pictures < 1:
            raise ValueError("batch and wardrobe_pictures are 1 or more, descriptions is at most batch")
        if self.cached_triplets and self.cached_triplets < self.batch:
            raise ValueError("cached_triplets is at least batch, or 0")
        if not all(0 < share <= 1 for share in (self.share, *self.shares.values())):
            raise ValueError("share and shares are above 0 and at most 1")
        if self.views < 1 or not 0 <= self.mined <= 1 or not 0 <= self.text_rate <= 1 or not 0 < self.whole_rate <= 1:
            raise ValueError("views is 1 or more; mined, text_rate and whole_rate are shares")


def gather(
    batches: AttributeBatches, root: Path, features: ComputesFeatures, *, photos: Path | None = None
) -> AttributeData:
    """The sources to train on, and the held-out galleries.

    Args:
        batches: names the sources.
        root: folder of the product data.
        features: computes and stores the features of the pictures.
        photos: folder of the photos with captions.

    Raises:
        DataError: the data is missing, or a picture cannot be read.
        UsageError: `photos` is not given where the sources name "everyday".
    """
    if everyday.NAME in batches.sources and photos is None:
        raise UsageError("the source everyday needs --photos, a folder of captions.csv, its splits and photos")
    of_products = set(batches.sources) - {WARDROBE, everyday.NAME}
    train_split = _Products.read(root) if of_products else None
    sources, held_out = [], []
    for name in batches.sources:
        if name == WARDROBE:
            sources.append(_wardrobe(batches, features))
        elif name == everyday.NAME:
            assert photos is not None
            source, gallery = everyday.captioned_photos(photos, batches.mined, batches.views, features)
            sources.append(source)
            held_out.append(gallery)
        else:
            assert train_split is not None
            share = batches.shares.get(name, batches.share)
            source = train_split.source(root / name, name, share, _kinds(batches.kinds["products"]), features)
            sources.append(source)
            held_out.append(train_split.held_out(source))
    return AttributeData(sources, held_out)


@dataclass(frozen=True)
class _Products:
    """The train split of the product data.

    Attributes:
        styles: product id -> row of `styles.csv`.
        table: the products as items.
        apart: (rows of the table,) bool, the held-out products.
    """

    styles: Mapping[str, dict[str, str]]
    table: AttributeTable
    apart: Mask

    @classmethod
    def read(cls, root: Path) -> _Products:
        styles = products.read_styles(root)
        ids = [product for product in sorted(styles) if products.split_of(product) == "train"]
        table = AttributeTable(
            "products",
            [products.details(styles[product]) for product in ids],
            products.KINDS,
            ids=ids,
            fixed=[styles[product]["masterCategory"] for product in ids],
            names=[styles[product]["productDisplayName"] or "" for product in ids],
        )
        return cls(styles, table, np.array([products.held_out(product) for product in ids]))

    def source(
        self, folder: Path, name: str, share: float, kinds: Mapping[tuple[str, ...], float], features: ComputesFeatures
    ) -> PhotoSource:
        """The photos in a zip or folder; those that are neither trained on nor held out get no features."""
        ids = self.table.ids
        row_of = {product: row for row, product in enumerate(ids)}
        chosen = np.array([products.among_first(product, share) for product in ids])
        files = {product: image for product, image in products.product_images(folder) if product in row_of}
        files = {product: image for product, image in files.items() if (self.apart | chosen)[row_of[product]]}
        pixels = ProductPixels(files, sorted(files))
        maps, older = features.compute(Path(name).stem, len(files), pixels)
        places = np.full(len(ids), -1)
        places[[row_of[product] for product in pixels.order]] = np.arange(len(files))
        return PhotoSource(name, self.table, maps, places, (places >= 0) & ~self.apart & chosen, kinds, older)

    def held_out(self, source: PhotoSource) -> HeldOut:
        """The held-out photos of a source, and queries over them."""
        rows = np.flatnonzero((source.places >= 0) & self.apart)
        ids = [self.table.ids[row] for row in rows.tolist()]
        catalogue = Catalogue([products.item(self.styles[product], product) for product in ids], products.KINDS)
        queries = catalogue.judged_queries(HELD_OUT_QUERIES, products.CHANGE_WEIGHTS, seed=HELD_OUT_SEED)
        return HeldOut(source, ids, rows, with_captions(queries, random.Random(HELD_OUT_SEED), phrasing="train"))


def _wardrobe(batches: AttributeBatches, features: ComputesFeatures) -> PhotoSource:
    """Garments rendered for training alone: those of the benchmark and the demo have other seeds."""
    garments = wardrobe.garments(batches.wardrobe_pictures, seed=batches.wardrobe_seed)

    def pixels(preprocess: Preprocess, number: int) -> Floats:
        picture_seed = batches.wardrobe_seed * 1_000_000 + number
        return preprocess(wardrobe.draw(garments[number], seed=picture_seed))

    maps, older = features.compute(WARDROBE, len(garments), pixels)
    every = np.arange(len(garments))
    table = AttributeTable(WARDROBE, [garment.attributes for garment in garments], wardrobe.KINDS)
    return PhotoSource(WARDROBE, table, maps, every, every >= 0, _kinds(batches.kinds[WARDROBE]), older)


def _kinds(shares: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {tuple(kinds.split("+")): share for kinds, share in shares.items()}
