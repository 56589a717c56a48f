"""Photos with captions: a table of image and caption, several rows a photo, and lists of the photos of each split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cir.data.csv_table import CsvTable
from cir.errors import DataError
from cir.files import read_lines

TABLE = "captions.csv"
SPLITS = ("train", "val", "test")

Captions = Mapping[str, tuple[str, ...]]  # name of a photo -> its captions, in the order of the table


def read_captions(path: Path) -> Captions:
    """The captions in a table with the columns image and caption.

    Raises:
        DataError: no such file, a missing column, or no caption at all.
    """
    table = CsvTable(path, "image", "give a CSV with the columns image and caption, one caption per row")
    if "caption" not in table.columns:
        raise DataError(f"{path}: no column 'caption'; give a CSV with the columns image and caption")
    captions: dict[str, list[str]] = {}
    for _, name, values in table.rows():
        if caption := " ".join(values["caption"].split()):
            captions.setdefault(name, []).append(caption)
    if not captions:
        raise DataError(f"{path}: no captions; give a CSV with the columns image and caption, one caption per row")
    return {name: tuple(texts) for name, texts in captions.items()}


def read_split(root: Path, split: str) -> Captions:
    """The captions of the photos that `SPLIT.txt` lists, one name per line, beside the table.

    Raises:
        DataError: a file is missing, or a listed photo has no captions.
    """
    return select(read_captions(root / TABLE), root / f"{split}.txt", TABLE)


def select(captions: Captions, photos: Path, table: str) -> Captions:
    """The captions of the photos in a list, one name per line.

    Args:
        captions: of these photos and others.
        photos: the list.
        table: where the captions come from, for messages.

    Raises:
        DataError: no such file, a listed photo has no captions, or none is listed.
    """
    chosen = {}
    for where, line in read_lines(photos):
        if line.strip() not in captions:
            raise DataError(f"{where}: {line.strip()!r} has no captions in {table}; check the two files")
        chosen[line.strip()] = captions[line.strip()]
    if not chosen:
        raise DataError(f"{photos}: lists no photos")
    return chosen
