"""Parquet files of pictures: one column of bytes, of paths beside the file, or of addresses on the web.

The column is found by its type and name, so that an id alone leads back to the picture. pyarrow, which is optional, is
imported by whoever opens such a file.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cir.errors import DataError, ImageDecodeError, MissingDependencyError, MissingImageError
from cir.files import read_regular
from cir.images.names import canonical_id, shown
from cir.images.remote import open_archive, read_object
from cir.places import is_url

IDS = ("id", "key", "__key__")  # columns that name the rows; without one, rows are numbered
PICTURES = ("image", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes", "content", "data", "img")
PLACES = ("path", "image_path", "file_name", "filename", "file", "url", "image_url", "image", "picture", "photo")
_WEB = ("http://", "https://")
_SECONDS = 30  # that a server may take to answer
_REQUEST = 1 << 20  # bytes that are asked of a store at once
_DIGITS = 9  # of the number of a row
_GROUPS = 2  # row groups of pictures that stay in memory; rows are read in nearly their order
_LARGEST_GROUP = 4 << 30  # bytes


@dataclass(frozen=True)
class Directory:
    """The pictures of a parquet file.

    Attributes:
        members: canonical name -> (row group, row in it, place); the place of its bytes, "" for those in the file.
        refused: (name, reason) of rows without a usable name or place.
    """

    members: Mapping[str, tuple[int, int, str]]
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Columns:
    """Where a file has its pictures.

    Attributes:
        picture: name of the column.
        inside: "bytes" where the column holds records that have the bytes under this name; else "".
        stored: whether it holds the bytes, and not where they are.
        name: the column of ids; "" for none.
    """

    picture: str
    inside: str
    stored: bool
    name: str


def columns_of(path: str) -> Columns | None:
    """Where a file has its pictures; None if it has none.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        OSError, ValueError: it is gone, not a regular file, or broken.
    """
    with open_archive(path, _REQUEST)[0] as file:
        return _columns(_arrow().ParquetFile(file).schema_arrow)


def directory(path: str) -> Directory:
    """The pictures of a file, read again when it has changed.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        DataError: it has no column of pictures.
        OSError, ValueError: it is gone, not a regular file, or broken.
    """
    return _directory(path, _stamp(path))


def read_member(path: str, name: str, limit: int) -> bytes:
    """The bytes of a picture.

    Raises:
        KeyError: no such picture.
        MissingDependencyError: pyarrow is not installed.
        MissingImageError: the file beside it that the row names is not there.
        ImageDecodeError: there are more than `limit` bytes or none, or the server refuses; the message is the reason.
        OSError, ValueError: the file is gone or broken.
    """
    stamp = _stamp(path)
    group, row, place = _directory(path, stamp).members[name]
    if place.startswith(_WEB):
        return _fetch(place, limit)
    if place:
        beside = f"{os.path.dirname(path)}/{place}"
        return read_object(beside, limit) if is_url(beside) else read_regular(beside, limit)
    with _reading:  # one thread reads a row group, the others find it read
        data = _group(path, stamp, group)[row].as_py()
    if not data:
        raise ImageDecodeError("the row has no picture")
    if len(data) > limit:
        raise ImageDecodeError(f"larger than {limit / 1e6:,.0f} MB; make it smaller")
    return bytes(data)


_reading = threading.Lock()


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            "parquet files need pyarrow; install it: pip install 'cir-engine[parquet]'"
        ) from None
    return pyarrow.parquet


def _types() -> Any:
    import pyarrow.types

    return pyarrow.types


def _stamp(path: str) -> tuple[object, ...]:
    file, stamp = open_archive(path, _REQUEST)
    file.close()
    return stamp


def _columns(schema: Any) -> Columns | None:
    types, fields = _types(), {field.name: field.type for field in schema}
    name = next((each for each in IDS if each in fields and _names(fields[each])), "")
    stored = [each for each, kind in fields.items() if _bytes(kind)]
    records = [
        each
        for each, kind in fields.items()
        if types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    ]
    for chosen, inside in ((records, "bytes"), (stored, "")):
        if len(chosen) == 1:
            return Columns(chosen[0], inside, True, name)
        if chosen:
            best = next((each for each in PICTURES if each in chosen), "")
            if best:
                return Columns(best, inside, True, name)
    texts = [each for each in PLACES if each in fields and _texts(fields[each])]
    return Columns(texts[0], "", False, name) if texts else None


def _bytes(kind: Any) -> bool:
    types = _types()
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _texts(kind: Any) -> bool:
    types = _types()
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _names(kind: Any) -> bool:
    return _texts(kind) or bool(_types().is_integer(kind))


@lru_cache(maxsize=8)
def _directory(path: str, stamp: tuple[object, ...]) -> Directory:
    members: dict[str, tuple[int, int, str]] = {}
    refused: list[tuple[str, str]] = []
    with open_archive(path, _REQUEST)[0] as file:
        table = _arrow().ParquetFile(file)
        columns = _columns(table.schema_arrow)
        if columns is None:
            names = ", ".join(table.schema_arrow.names)[:200]
            raise DataError(f"no column of pictures, paths or addresses among {names}; name it image, path or url")
        wanted = [*filter(None, [columns.name, "" if columns.stored else columns.picture])]
        number = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            read = table.read_row_group(group, columns=wanted)
            ids = read.column(columns.name).to_pylist() if columns.name else [None] * rows
            places = [""] * rows if columns.stored else read.column(columns.picture).to_pylist()
            for row in range(rows):
                given = f"{number:0{_DIGITS}d}" if ids[row] is None else str(ids[row])
                number += 1
                try:
                    name, place = canonical_id(given), _place(places[row], columns.stored)
                except ValueError as error:
                    refused.append((given, f"row {number:,}: {error}"))
                    continue
                if name in members:
                    refused.append((given, f"row {number:,}: another row has the same {columns.name}"))
                    continue
                members[name] = (group, row, place)
    return Directory(members, tuple(refused))


def _place(text: str | None, stored: bool) -> str:
    """Where a picture is. Raises ValueError for none, and for a path that leads out of the file's folder."""
    if stored:
        return ""
    if not text:
        raise ValueError("it names no picture")
    if text.startswith(_WEB):
        return text
    if "://" in text:
        raise ValueError(f"{shown(text[:80])} is no address that can be read; http and https can")
    try:
        return canonical_id(text)
    except ValueError as error:
        raise ValueError(f"its path is {error}; write it from the folder of the parquet file on") from None


@lru_cache(maxsize=_GROUPS)
def _group(path: str, stamp: tuple[object, ...], group: int) -> Any:
    """The pictures of a row group."""
    with open_archive(path, _REQUEST)[0] as file:
        table = _arrow().ParquetFile(file)
        if table.metadata.row_group(group).total_byte_size > _LARGEST_GROUP:
            raise ImageDecodeError(f"its row group holds more than {_LARGEST_GROUP >> 30} GiB; write smaller ones")
        columns = _columns(table.schema_arrow)
        assert columns is not None  # the file has not changed since its directory was read
        column = table.read_row_group(group, columns=[columns.picture]).column(0).combine_chunks()
        return column.field(columns.inside) if columns.inside else column


def _fetch(address: str, limit: int) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            data: bytes = answer.read(limit + 1)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise MissingImageError(f"no longer at {shown(address[:200])}") from None
        raise ImageDecodeError(f"{shown(address[:200])} answers {error.code}") from None
    except (OSError, ValueError) as error:
        raise ImageDecodeError(f"{shown(address[:200])} cannot be read: {' '.join(str(error).split())[:80]}") from None
    if len(data) > limit:
        raise ImageDecodeError(f"larger than {limit / 1e6:,.0f} MB; make it smaller")
    return data
