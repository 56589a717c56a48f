"""Metadata of images from a table with one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cir.data.csv_table import CsvTable
from cir.data.image_names import ImageNames
from cir.errors import DataError
from cir.images import ImageFile


@dataclass(frozen=True)
class ImageMetadata:
    """The rows of a metadata file, by image.

    Attributes:
        by_image: image id -> column -> value, without the id column.
        unmatched: number of rows that name none of the images.
        example: the name in the first of them; empty if all fit.
    """

    by_image: Mapping[str, Mapping[str, str]]
    unmatched: int
    example: str = ""


def read_metadata(path: Path, id_column: str, files: Sequence[ImageFile]) -> ImageMetadata:
    """Read a table with a header and one row per image.

    What a table may look like: `cir.data.csv_table`. How a row names its image: `cir.data.image_names`.

    Args:
        path: the table.
        id_column: the column that names the images; another letter case will do.
        files: the images.

    Raises:
        DataError: no such file, no such column, text in another encoding, a broken row, a name that fits several
            images, or no row that fits any.
    """
    table = CsvTable(path, id_column, "name one with --id-column")
    names = ImageNames(files)
    by_image: dict[str, dict[str, str]] = {}
    unmatched: list[tuple[str, str, dict[str, str]]] = []

    def note(where: str, image_id: str, values: dict[str, str]) -> None:
        if image_id in by_image:
            raise DataError(f"{where}: a second row for {image_id}; keep one")
        by_image[image_id] = values

    for where, name, values in table.rows():
        matches = names.find(name)
        if len(matches) > 1:
            raise DataError(f"{where}: {_short(name)} fits {len(matches)} images; use full ids")
        if matches:
            note(where, matches.pop(), values)
        else:
            unmatched.append((where, name, values))
    if not by_image:
        prefix = names.common_prefix(name for _, name, _ in unmatched)
        if prefix is None:
            raise _nothing_fits(path, id_column, unmatched, files)
        waiting, unmatched = unmatched, []
        for where, name, values in waiting:
            below = names.below(prefix, name)
            if below is None:
                unmatched.append((where, name, values))
            else:
                note(where, below, values)
    return ImageMetadata(by_image, len(unmatched), _short(unmatched[0][1]) if unmatched else "")


def _nothing_fits(
    path: Path, id_column: str, unmatched: Sequence[tuple[str, str, object]], files: Sequence[ImageFile]
) -> DataError:
    if not unmatched:
        return DataError(f"{path}: no rows below the header; write one per image")
    there = _short(next((name for _, name, _ in unmatched if name), ""))
    here = f"the first image is {files[0].id!r}" if files else "there are no images"
    return DataError(
        f"{path}: no row fits an image: its first {id_column!r} is {there!r}, {here};"
        f" is {id_column!r} the right --id-column?"
    )


def _short(name: str) -> str:
    """A name for a message, on one line."""
    line = " ".join(name.split())
    return line if len(line) <= 80 else f"{line[:80]}..."
