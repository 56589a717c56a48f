"""Files that hold pictures: zips, tars, parquet files. What each kind is asked, whichever it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from types import ModuleType
from typing import Protocol

from cir.images import parquets, tars, zips

ZIP_SUFFIX, TAR_SUFFIX, PARQUET_SUFFIX = ".zip", ".tar", ".parquet"
ARCHIVES: Mapping[str, ModuleType] = {ZIP_SUFFIX: zips, TAR_SUFFIX: tars, PARQUET_SUFFIX: parquets}


class Directory(Protocol):
    """The pictures of an archive."""

    @property
    def members(self) -> Mapping[str, object]:
        """Canonical name -> where it lies."""

    @property
    def refused(self) -> Iterable[tuple[str, str]]:
        """(name, reason) of members that have no usable name of their own."""


def suffix_of(path: str) -> str:
    """The suffix of an archive's name, in lower case; "" for any other file."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in ARCHIVES else ""


def directory(path: str) -> Directory:
    """The pictures of an archive. Raises what the module of its kind raises: `files.UNREADABLE`, or DataError."""
    found: Directory = ARCHIVES[suffix_of(path)].directory(path)
    return found


def read_member(path: str, name: str, limit: int) -> bytes:
    """The bytes of a member of at most `limit` bytes. Raises KeyError, and as `directory`."""
    data: bytes = ARCHIVES[suffix_of(path)].read_member(path, name, limit)
    return data


def is_member(path: str, name: str) -> bool:
    """Whether a file is an archive that has a member of that name. Raises as `directory`."""
    return bool(suffix_of(path)) and name in directory(path).members
