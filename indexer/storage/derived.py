"""Files that are made from others and made again when they are lost: each with a record of what it was made from.

The record of `ann.faiss` is `ann.json`. Only the record decides whether the file may be used: a reader that finds it
stale, damaged or missing makes the file again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cir.checked import agrees, remember_checked
from cir.files import parse_json, read_regular, sha256_bytes, sha256_file, write_bytes
from cir.typed_json import from_json

_LARGEST_RECORD = 100_000  # bytes


@dataclass(frozen=True)
class _Record:
    """What a derived file was made from, its own size and digest, and what was measured when it was made.

    `digest` is that of the other fields, so that a damaged record is noticed too.
    """

    origin: str
    bytes: int
    sha256: str
    measured: dict[str, Any] | None
    digest: str

    def __post_init__(self) -> None:
        if self.digest != _digest({key: value for key, value in asdict(self).items() if key != "digest"}):
            raise ValueError("digest: contradicts the other fields")


def record_of(path: Path) -> Path:
    """The record of a derived file."""
    return path.with_suffix(".json")


def write_record(path: Path, origin: str, measured: Mapping[str, Any] | None = None) -> None:
    """Record what a finished file was made from, and JSON values measured on it. Raises DataError or OSError."""
    sha256 = sha256_file(path)
    values = {"origin": origin, "bytes": path.stat().st_size, "sha256": sha256, "measured": measured}
    write_bytes(record_of(path), json.dumps({**values, "digest": _digest(values)}).encode())
    remember_checked(path, sha256)


def problem_of(path: Path, origins: Collection[str], *, reread: bool = False) -> str | None:
    """Why a derived file cannot be used; None if it can.

    Args:
        path: the file.
        origins: what it may have been made from.
        reread: read the file even if this user has read it before and it has not changed since (`cir.checked`).

    Raises:
        FileNotFoundError: it is not there, or its record.
        OSError: it cannot be read.
    """
    try:
        record = _read(path)
    except ValueError as error:
        return f"{record_of(path)} is damaged: {error}"
    if record.origin not in origins:
        return f"{record_of(path)} is damaged or stale"
    # The size first: a file may claim to be endless.
    if path.stat().st_size != record.bytes or not _has_digest(path, record.sha256, reread):
        return f"{path} contradicts its digest"
    return None


def measured_of(path: Path) -> dict[str, Any] | None:
    """What was measured when a derived file was made. Raises OSError without a record, ValueError for a damaged one."""
    return _read(path).measured


def _read(path: Path) -> _Record:
    return from_json(_Record, parse_json(read_regular(record_of(path), _LARGEST_RECORD)))


def _has_digest(path: Path, sha256: str, reread: bool) -> bool:
    return sha256_file(path) == sha256 if reread else agrees(path, sha256)


def _digest(values: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(values, sort_keys=True).encode())
