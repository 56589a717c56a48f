"""Where the segments of an unfinished build are, with their records: in an index folder, or in an object store.

In a folder both stand under the segment's name. In a store the segment is there by its digest (`mirror`) and its record
by the key of its task, so that any machine finds them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cir.files import make_folder, read_regular, sha256_file, write_bytes
from cir.indexer.storage.folder import GALLERY, LARGEST_JSON, IndexFolder, record
from cir.indexer.storage.manifest import FileEntry
from cir.indexer.storage.mirror import MirrorFolder, folder_at, segment_key, upload_segment

RECORDS = "work/segments/"  # in a store


class SegmentPlace(Protocol):
    """Where a task leaves its segment and its record; `name` is the segment's, `key` the task's."""

    def record(self, name: str, key: str) -> bytes | None:
        """The record, if there is one. Raises OSError where it cannot be read, StoreError."""

    def holds(self, name: str, file: FileEntry) -> bool:
        """Whether the segment is there as it was written. Raises OSError where it cannot be read, StoreError."""

    def add(self, name: str, write: Callable[[Path], None]) -> FileEntry:
        """Have a segment written, and keep it; returns what a manifest says of it. Raises DataError, StoreError."""

    def add_record(self, name: str, key: str, data: bytes) -> None:
        """Write the record, after the segment. Raises DataError, StoreError."""


@dataclass(frozen=True)
class OnDisk:
    """In an index folder."""

    folder: IndexFolder

    def record(self, name: str, key: str) -> bytes | None:
        """As `SegmentPlace`."""
        path = record(self.folder, name)
        return read_regular(path, LARGEST_JSON) if path.exists() else None

    def holds(self, name: str, file: FileEntry) -> bool:
        """As `SegmentPlace`."""
        path = self.folder.gallery(name)
        return path.exists() and sha256_file(path) == file.sha256

    def add(self, name: str, write: Callable[[Path], None]) -> FileEntry:
        """As `SegmentPlace`."""
        path = self.folder.gallery(name)
        make_folder(path.parent)
        write(path)
        return FileEntry.of(path)

    def add_record(self, name: str, key: str, data: bytes) -> None:
        """As `SegmentPlace`."""
        write_bytes(record(self.folder, name), data)


@dataclass(frozen=True)
class InStore:
    """In an object store. The segment passes through this machine's temporary folder, and is not kept there."""

    folder: MirrorFolder

    def record(self, name: str, key: str) -> bytes | None:
        """As `SegmentPlace`."""
        found = self.folder.store.get(f"{RECORDS}{key}.json", LARGEST_JSON)
        return found[0] if found else None

    def holds(self, name: str, file: FileEntry) -> bool:
        """As `SegmentPlace`: by its size, for its digest is its name and the store shows no half of an upload."""
        there = self.folder.store.info(segment_key(file.sha256))
        return there is not None and there.bytes == file.bytes

    def add(self, name: str, write: Callable[[Path], None]) -> FileEntry:
        """As `SegmentPlace`."""
        with tempfile.TemporaryDirectory(prefix="cir-segment-") as scratch:
            path = Path(scratch) / GALLERY
            write(path)
            return upload_segment(self.folder, path)

    def add_record(self, name: str, key: str, data: bytes) -> None:
        """As `SegmentPlace`."""
        self.folder.store.put(f"{RECORDS}{key}.json", data)


def place_at(index: str) -> SegmentPlace:
    """The place of an index folder or of a URL. Raises as `mirror.folder_at`."""
    folder = folder_at(index)
    return InStore(folder) if isinstance(folder, MirrorFolder) else OnDisk(folder)


def forget_records(folder: IndexFolder) -> None:
    """Remove all records from a store; what no generation names is removed by a later writer. Raises StoreError."""
    if isinstance(folder, MirrorFolder):
        keys = [info.key for info in folder.store.listed(RECORDS)]
        for start in range(0, len(keys), 1000):
            folder.store.delete(keys[start : start + 1000])
