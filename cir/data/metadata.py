"""Metadata of images from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cir.errors import DataError
from cir.images import ImageFile


@dataclass(frozen=True)
class ImageMetadata:
    """The rows of a metadata file, by image.

    Attributes:
        by_image: image id -> column -> value, without the id column.
        unmatched: number of rows that name none of the images.
    """

    by_image: Mapping[str, Mapping[str, str]]
    unmatched: int


def read_metadata(path: Path, id_column: str, files: Sequence[ImageFile]) -> ImageMetadata:
    """Read a CSV file with one row per image. A row names its image by id, else by file name, else by its stem.

    Args:
        path: a UTF-8 CSV file with a header.
        id_column: the column that names the images.
        files: the images.

    Raises:
        DataError: no such file, no such column, a name that matches several images, or no row that matches any.
    """
    images = _by_name(files)
    by_image: dict[str, dict[str, str]] = {}
    unmatched = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, skipinitialspace=True)
            reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
            if id_column not in reader.fieldnames:
                columns = ", ".join(reader.fieldnames) or "none"
                raise DataError(f"{path}: no column {id_column!r}; columns: {columns}; name one with --id-column")
            for row in reader:
                where = f"{path} line {reader.line_num}"
                if None in row:
                    raise DataError(f"{where}: more cells than columns; quote cells that hold a comma")
                name = (row.pop(id_column) or "").strip()
                matches = images.get(name, set())
                if len(matches) > 1:
                    raise DataError(f"{where}: {name} fits {len(matches)} images; use full ids")
                unmatched += not matches
                for image_id in matches:
                    if image_id in by_image:
                        raise DataError(f"{where}: a second row for {image_id}; keep one")
                    by_image[image_id] = {column: (value or "").strip() for column, value in row.items()}
    except FileNotFoundError:
        raise DataError(f"no such file: {path}; --metadata is a CSV file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}; save it as UTF-8") from None
    if not by_image:
        raise DataError(f"{path}: no row fits an image; is {id_column!r} the right --id-column?")
    return ImageMetadata(by_image, unmatched)


def _by_name(files: Sequence[ImageFile]) -> Mapping[str, set[str]]:
    """Every name of an image -> ids: its id before its file name before its stem."""
    ids = {file.id: {file.id} for file in files}
    names: dict[str, set[str]] = {}
    stems: dict[str, set[str]] = {}
    for file in files:
        name = file.id.rpartition("/")[2]
        names.setdefault(name, set()).add(file.id)
        stems.setdefault(name.rpartition(".")[0], set()).add(file.id)
    return stems | names | ids
