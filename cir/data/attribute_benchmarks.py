"""The benchmarks `products` and `wardrobe`: composed queries from attributes, with exactly known targets.

Protocol (docs/protocols.md): the gallery is every image of the split; a query changes one or two attributes
of a reference; its targets are all other images that equal the reference with the change applied; the reference is
removed from the ranking. The figures are over phrasings that training has never seen. The same queries in training's
phrasings are reported as the group "phrasing:train".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cir.data import products, wardrobe
from cir.data.benchmark import Benchmark
from cir.data.captions import with_captions
from cir.data.csv_table import CsvTable
from cir.data.image_source import image_source
from cir.data.items import Catalogue, Item
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.images import ImageFile, scan
from cir.stats import parse_measure

MEASURES = tuple(parse_measure(name) for name in ("R@1", "R@10", "R@50", "mAP@10"))
PRODUCT_QUERIES, PRODUCT_SEED = 2000, 0
WARDROBE_PICTURES, WARDROBE_QUERIES = 1200, 1000
# Training draws with another seed, so no picture of the benchmark was ever trained on.
WARDROBE_SEED = 2


def load_products(data_root: Path, *, split: str = "val", images: str | None = None) -> Benchmark:
    """Composed queries over real product photos.

    Args:
        data_root: folder of `styles.csv` beside `images/` or zips of it.
        split: "val", "test" or "train".
        images: which folder or zip to use; by default the zip with the largest pictures.

    Raises:
        DataError: the files are missing, or the split holds no photos with queries.
    """
    styles = products.read_styles(data_root)
    source = image_source(data_root, images)
    gallery = [
        (product, image) for product, image in products.product_images(source) if products.split_of(product) == split
    ]
    items = [products.item(styles[product], image.id) for product, image in gallery if product in styles]
    name = f"products-{split}/{source.stem}"
    catalogue = Catalogue(items, products.KINDS)
    queries = catalogue.judged_queries(PRODUCT_QUERIES, products.CHANGE_WEIGHTS, seed=PRODUCT_SEED)
    return _benchmark("products", name, [image for _, image in gallery], queries, PRODUCT_SEED)


def load_wardrobe(folder: Path, *, queries: int = WARDROBE_QUERIES) -> Benchmark:
    """Composed queries over rendered garments, which are drawn into `folder` when it is empty.

    Raises:
        DataError: the folder holds something else or cannot be written to, or its table does not fit its pictures.
    """
    table = folder / wardrobe.TABLE
    if not table.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: not empty and no wardrobe; name a new folder, or leave out --data-root")
        wardrobe.write(folder, WARDROBE_PICTURES, seed=WARDROBE_SEED)
    drawn_before = CsvTable(table, "id", "name a new folder, or leave out --data-root")
    if not set(wardrobe.KINDS) <= set(drawn_before.columns):
        raise DataError(f"{table}: not the table of a wardrobe; name a new folder, or leave out --data-root")
    rows = {name: values for _, name, values in drawn_before.rows()}
    files = [image for image in scan([folder]) if image.id in rows]
    if len(files) < len(rows):
        raise DataError(
            f"{folder}: {len(rows) - len(files)} pictures of {wardrobe.TABLE} are missing; delete it to draw them again"
        )
    items = [Item(image.id, {kind: rows[image.id][kind] for kind in wardrobe.KINDS}) for image in files]
    drawn = Catalogue(items, wardrobe.KINDS).judged_queries(queries, wardrobe.CHANGE_WEIGHTS, seed=0)
    return _benchmark("wardrobe", f"wardrobe-{len(files)}", files, drawn, 0)


def _benchmark(
    name: str, protocol: str, files: Sequence[ImageFile], drawn: Sequence[JudgedQuery], seed: int
) -> Benchmark:
    """The drawn queries in the phrasing "val", which counts in the overall figures, and again in "train"."""
    if not drawn:
        raise DataError(f"{protocol}: {len(files)} images give no queries; is this the right split and folder?")
    queries = [
        replace(query, groups=(query.kind, "phrasing:own"))
        for query in with_captions(drawn, random.Random(f"{seed} val"), phrasing="val")
    ]
    queries += [
        replace(query, id=f"{query.id}-train", groups=("phrasing:train",), headline=False)
        for query in with_captions(drawn, random.Random(f"{seed} train"), phrasing="train")
    ]
    return Benchmark(name, protocol, files, tuple(queries), MEASURES)
