"""References as they are given on a command line and in JSON: ids in any form, files, members of zips, and stdin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cir.errors import DataError, ImageDecodeError, MissingImageError, UsageError
from cir.images.files import locate
from cir.images.names import canonical_id

if TYPE_CHECKING:
    from cir.search import Searcher

STDIN = "-"
LARGEST = 1_000_000_000  # bytes of a picture on stdin
_PATHS = ("/", "./", "../")  # what starts like this is a file before it is an id


def read_stdin() -> bytes:
    """The picture on standard input. Raises DataError when there is none, UsageError at a terminal."""
    if sys.stdin is None:
        raise DataError("standard input is closed; -i - reads a picture from it")
    if sys.stdin.isatty():
        raise UsageError("-i - reads a picture from standard input: cir query INDEX -i - < picture.jpg")
    try:
        data = sys.stdin.buffer.read(LARGEST + 1)
    except OSError as error:
        raise DataError(f"standard input cannot be read: {error.strerror}") from None
    if not data:
        raise DataError("nothing on standard input; -i - reads a picture from it")
    if len(data) > LARGEST:
        raise DataError(f"more than {LARGEST / 1e6:,.0f} MB on standard input; -i - reads one picture from it")
    return data


def find_reference(searcher: Searcher, name: str) -> str | bytes:
    """What the search package takes for a name: an id of the gallery, a file, or the bytes of a member of a zip.

    A name that is none of them is returned as it is, and refused by the search.
    """
    if name in searcher.gallery:
        return name
    is_file = _is_file(name)
    if is_file and name.startswith(_PATHS):
        return name
    try:
        image_id = canonical_id(name)
    except ValueError:
        image_id = ""
    if image_id in searcher.gallery:
        return image_id
    if is_file or ".zip/" not in name.casefold():
        return name
    try:
        return locate("/", str(Path(name).absolute()).removeprefix("/")).read()
    except (MissingImageError, ImageDecodeError):
        return name


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # longer than any file's name, or with a NUL
        return False
