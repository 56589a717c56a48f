"""The reports of a build and of an import, and the list of what they left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cir.files import write_bytes
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.writing.plan import Skipped


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: the index.
        generation: the live generation afterwards; a build without changes publishes none.
        added, unchanged, updated, missing: ids; the missing are kept unless they were pruned.
        renamed: (old, new) ids.
        skipped: (id, reason) of images that could not be used.
        unmatched: ids of metadata that no image has; that metadata is not stored.
        total: live images afterwards.
        resumed: how many rows came from an interrupted build.
        seconds: wall time.
        images_per_second: images read, per second of wall time.
        bytes_per_image: on disk, everything the live generation uses.
        decode_seconds, encode_seconds: CPU time, summed over workers.
        dry_run: whether nothing was written; then only reading has been tried, not decoding.
    """

    path: Path
    generation: int
    added: list[str]
    unchanged: list[str]
    updated: list[str]
    renamed: list[tuple[str, str]]
    missing: list[str]
    skipped: list[tuple[str, str]]
    unmatched: list[str]
    total: int
    resumed: int
    seconds: float
    images_per_second: float
    bytes_per_image: float
    decode_seconds: float
    encode_seconds: float
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        path: the index.
        generation: the live generation afterwards; an import without changes publishes none.
        model: name of the model that made the vectors.
        added, updated, unchanged: number of vectors.
        normalised: vectors that were not of unit length and are stored so.
        rewritten: ids that are stored in another form (`cir.images.names.canonical_id`).
        skipped: (id, reason) of vectors that cannot be used; what the index had under that id stays.
        unmatched: ids of metadata that no vector has; that metadata is not stored.
        total: live images and vectors afterwards.
        seconds: wall time.
    """

    path: Path
    generation: int
    model: str
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    normalised: int = 0
    rewritten: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    total: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


def write_skipped(folder: IndexFolder, skipped: Sequence[Skipped]) -> None:
    """Replace the list of what the last build or import could not use. Raises DataError when the disk refuses."""
    lines = (json.dumps(asdict(each), sort_keys=True) + "\n" for each in skipped)
    write_bytes(folder.skipped, "".join(lines).encode())
