"""Product photos with attributes in the Kaggle layout: `styles.csv` beside `images/` or zips of it.

The splits are by the hash of an id, so that they are the same for everybody whatever subset of the photos they hold
(docs/protocols.md). A product id names a row of `styles.csv` and the stem of its photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cir.data.captions import value_in_name
from cir.data.csv_table import CsvTable
from cir.data.items import Item
from cir.errors import DataError
from cir.images import ImageFile, scan

KINDS = ("colour", "type", "gender")
COLUMNS = {"colour": "baseColour", "type": "articleType", "gender": "gender"}
FROM_NAMES = ("pattern", "neckline", "sleeves", "material")  # attributes that only a product's name mentions
# How often each set of attributes is changed together, in training and in the benchmark.
CHANGE_WEIGHTS: dict[tuple[str, ...], float] = {
    ("colour",): 0.35,
    ("type",): 0.20,
    ("gender",): 0.15,
    ("colour", "type"): 0.15,
    ("colour", "gender"): 0.10,
    ("type", "gender"): 0.05,
}


def split_of(product: str) -> str:
    """ "test", "val" or "train", from SHA-1 of the id modulo 10."""
    rest = _bucket(product)
    return {0: "test", 1: "val"}.get(rest, "train")


def held_out(product: str) -> bool:
    """Whether a train product belongs to the development part, on which checkpoints are chosen."""
    return _bucket(product) == 2


def among_first(product: str, share: float) -> bool:
    """Whether a product belongs to a share of all products; a smaller share is part of every larger one."""
    return _digest(product) // 10 % 1000 < 1000 * share


def _bucket(product: str) -> int:
    return _digest(product) % 10


def _digest(product: str) -> int:
    return int(hashlib.sha1(product.encode("ascii", "replace")).hexdigest(), 16)


def read_styles(data_root: Path) -> dict[str, dict[str, str]]:
    """`styles.csv` as product id -> row. Raises DataError when the file is missing or lacks a column."""
    path = data_root / "styles.csv"
    if not path.is_file():
        raise DataError(f"{data_root}: no styles.csv; --data-root is the folder of the product data set")
    table = CsvTable(path, "id", "is it the styles.csv of the data set?")
    missing = {"masterCategory", "productDisplayName", *COLUMNS.values()} - set(table.columns)
    if missing:
        raise DataError(f"{path}: no column {', '.join(sorted(missing))}; is it the styles.csv of the data set?")
    return {name: values for _, name, values in table.rows(longer=True)}


def product_images(source: Path) -> Iterator[tuple[str, ImageFile]]:
    """(product id, image) of a folder or zip; the id is the file's stem."""
    for image in scan([source]):
        yield image.id.rpartition("/")[2].rpartition(".")[0], image


def item(row: dict[str, str], image_id: str) -> Item:
    """One row of `styles.csv` as a catalogue item; a type changes only within its master category."""
    attributes = {kind: row[column] for kind, column in COLUMNS.items()}
    return Item(image_id, attributes, fixed=row["masterCategory"])


def details(row: dict[str, str]) -> dict[str, str]:
    """All known attributes of a product, as kind -> value with "" for unknown.

    `KINDS`, usage and season are columns. Pattern, neckline, sleeves and material come from the product's name, which
    mentions them in a minority of rows.
    """
    from_name = {kind: value_in_name(kind, row["productDisplayName"] or "") for kind in FROM_NAMES}
    usage = "" if row["usage"] in ("NA", "Home") else row["usage"]
    return {
        **{kind: row[column] for kind, column in COLUMNS.items()},
        **from_name,
        "usage": usage,
        "season": row["season"],
    }
