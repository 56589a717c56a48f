"""The benchmarks `products` and `wardrobe`: composed queries made from attributes, with exactly known targets.

Protocol (docs/protocols.md): the gallery is every image of the split; a query changes one or two attributes
of a reference; its targets are all other images that equal the reference with the change applied; the reference is
removed from the ranking. The figures are over phrasings that no training has seen; the same queries in the phrasings of
training stand beside them as the group "phrasing:train".
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cir.data import captions
from cir.data import products
from cir.data import wardrobe
from cir.data.items import Catalogue, Item
from cir.errors import DataError
from cir.data.benchmark import Benchmark, JudgedQuery
from cir.stats import parse_measure
from cir.images import ImageFile, scan

if TYPE_CHECKING:
    from collections.abc import Sequence

MEASURES = tuple(parse_measure(name) for name in ("R@1", "R@10", "R@50", "mAP@10"))
PRODUCT_QUERIES, PRODUCT_SEED = 2000, 0
WARDROBE_PICTURES, WARDROBE_QUERIES = 1200, 1000
# Training draws with another seed, so no picture of the benchmark was ever trained on.
WARDROBE_SEED = 2


def load_products(data_root: Path, *, split: str = "val", images: str | None = None) -> Benchmark:
    """Composed queries over real product photos.

    Args:
        data_root: folder of `styles.csv` beside `images/` or zips of it.
        split: "val" or "train".
        images: which folder or zip to use, by default the one of the largest pictures.

    Raises:
        DataError: the files are not there, or the split holds no photos with queries.
    """
    styles = products.read_styles(data_root)
    source = products.image_source(data_root, images)
    gallery = [
        (product, image) for product, image in products.product_images(source) if products.split_of(product) == split
    ]
    items = [products.item(styles[product], image.id) for product, image in gallery if product in styles]
    files = [image for _, image in gallery]
    name = f"products-{split}/{source.stem}"
    catalogue = Catalogue(items, products.KINDS)
    return _benchmark("products", name, files, catalogue, products.CHANGE_WEIGHTS, PRODUCT_QUERIES, PRODUCT_SEED)


def load_wardrobe(folder: Path, *, queries: int = WARDROBE_QUERIES) -> Benchmark:
    """Composed queries over rendered garments, which are drawn into `folder` when it is empty.

    Raises:
        DataError: the folder holds something else, or its table does not fit its pictures.
    """
    table = folder / wardrobe.TABLE
    if not table.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: not empty and no wardrobe; name a new folder, or leave out --data-root")
        try:
            wardrobe.write(folder, WARDROBE_PICTURES, seed=WARDROBE_SEED)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror}; name another folder") from None
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not {"id", *wardrobe.KINDS} <= set(reader.fieldnames or ()):
            raise DataError(f"{table}: not the table of a wardrobe; name a new folder, or leave out --data-root")
        rows = {row["id"]: row for row in reader}
    files = [image for image in scan([folder]) if image.id in rows]
    if len(files) < len(rows):
        raise DataError(
            f"{folder}: {len(rows) - len(files)} pictures of {wardrobe.TABLE} are missing; delete it to draw them again"
        )
    items = [Item(image.id, {kind: rows[image.id][kind] for kind in wardrobe.KINDS}) for image in files]
    catalogue = Catalogue(items, wardrobe.KINDS)
    return _benchmark("wardrobe", f"wardrobe-{len(files)}", files, catalogue, wardrobe.CHANGE_WEIGHTS, queries, 0)


def _benchmark(
    name: str,
    protocol: str,
    files: Sequence[ImageFile],
    catalogue: Catalogue,
    weights: Mapping[tuple[str, ...], float],
    count: int,
    seed: int,
) -> Benchmark:
    changes = catalogue.changes(count, weights, seed=seed)
    if not changes:
        raise DataError(
            f"{protocol}: no queries can be made from {len(files)} images; is this the right split and folder?"
        )
    queries = []
    for phrasing in ("val", "train"):
        rng = random.Random(f"{seed} {phrasing}")
        for number, change in enumerate(changes):
            own = phrasing == "val"
            queries.append(
                JudgedQuery(
                    id=f"{number:04d}" if own else f"{number:04d}-{phrasing}",
                    reference=change.reference,
                    caption=captions.change_caption(change.changes, rng, phrasing=phrasing),
                    targets=frozenset(change.targets),
                    groups=(change.kind, "phrasing:own") if own else (f"phrasing:{phrasing}",),
                    headline=own,
                )
            )
    return Benchmark(name, protocol, files, tuple(queries), MEASURES)
