"""Files that are made from others and made again when they are lost: each with a record of what it was made from.

The record of `ann.faiss` is `ann.json`. Only the record decides whether the file may be used: a reader that finds it
stale, damaged or missing makes the file again.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from cir.files import parse_json, read_regular, sha256_file, write_bytes
from cir.typed_json import from_json

_LARGEST_RECORD = 10_000  # bytes


@dataclass(frozen=True)
class _Record:
    """What a derived file was made from, and its own size and digest."""

    origin: str
    bytes: int
    sha256: str


def record_of(path: Path) -> Path:
    """The record of a derived file."""
    return path.with_suffix(".json")


def write_record(path: Path, origin: str) -> None:
    """Record what a finished file was made from. Raises DataError or OSError."""
    record = _Record(origin, path.stat().st_size, sha256_file(path))
    write_bytes(record_of(path), json.dumps(asdict(record)).encode())


def problem_of(path: Path, origins: Collection[str]) -> str | None:
    """Why a derived file cannot be used; None if it can.

    Args:
        path: the file.
        origins: what it may have been made from.

    Raises:
        FileNotFoundError: it is not there, or its record.
        OSError: it cannot be read.
    """
    try:
        record = from_json(_Record, parse_json(read_regular(record_of(path), _LARGEST_RECORD)))
    except ValueError as error:
        return f"{record_of(path)} is damaged: {error}"
    if record.origin not in origins:
        return f"{record_of(path)} is damaged or stale"
    # The size first: a file may claim to be endless.
    if path.stat().st_size != record.bytes or sha256_file(path) != record.sha256:
        return f"{path} contradicts its digest"
    return None
