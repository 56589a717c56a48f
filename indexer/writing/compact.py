"""Compacting an index: one segment for each layout, without deleted rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cir.files import size_of
from cir.given import MOST_KEPT, path_of, whole_number
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import IndexFolder, numbered
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest, SegmentEntry
from cir.indexer.storage.mirror import place_of
from cir.indexer.storage.writer import remove_unreachable, writing
from cir.indexer.writing.assemble import Added, build_derived, clean_work, next_manifest
from cir.indexer.writing.merging import SegmentRows, check_intact, write_merged
from cir.indexer.writing.stored_rows import StoredRows, StoredSegment, live_rows


@dataclass(frozen=True)
class CompactReport:
    """What compacting did.

    Attributes:
        path: the index.
        generation_before, generation: the live one; the same where there was nothing to do.
        images: live images.
        segments_before, segments: of the live generation.
        dropped: deleted rows that are in no segment of the live generation any more.
        bytes_before, bytes: of the files of the live generation's segments.
        earlier: how many earlier generations are kept.
        earlier_bytes: of the files that only they need.
    """

    path: Path
    generation_before: int
    generation: int
    images: int
    segments_before: int
    segments: int
    dropped: int
    bytes_before: int
    bytes: int
    earlier: int
    earlier_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


def compact(index: str | Path, *, keep: int | None = None, ann_min_rows: int = ANN_MIN_ROWS) -> CompactReport:
    """Put the live rows of an index into one segment for each layout; no vector is changed, and none encoded again.

    Args:
        index: the index folder.
        keep: how many earlier generations the index keeps for a rollback from now on, as before if None; their files
            are removed at once. 0 forgets all that are there, those around a change of model included, and leaves what
            is kept from now on as it is.
        ann_min_rows: segments of at least this many vectors get an approximate index.

    Raises:
        UsageError: `keep` is no whole number from 0 to 10,000.
        IndexFormatError: no index, or a damaged one.
        IndexLockedError: another process is writing to it.
        DataError: the disk is full or refuses; the live generation stays.
    """
    folder = index_folder(path_of(index, "the path of an index"))
    keep = None if keep is None else whole_number(keep, "keep", least=0, most=MOST_KEPT)
    read_manifest(folder)  # before the lock creates a file in a folder that is no index
    with writing(folder) as writer:
        before = manifest = read_manifest(folder)
        used = _bytes(folder, before)
        added = _compacted(folder, before)
        forget = keep == 0 and bool(before.earlier or added.entries)
        if added.entries or forget or keep not in (None, 0, before.keep):
            manifest = writer.publish(
                next_manifest(before, before.card, added, keep=keep or None), earlier=[] if keep == 0 else None
            )
            build_derived(folder, manifest, ann_min_rows)
        if keep is not None:
            remove_unreachable(folder)
        clean_work(folder)
        everything = sum(size_of(path) for path in numbered(folder.segments))
    return CompactReport(
        path=place_of(folder),
        generation_before=before.generation,
        generation=manifest.generation,
        images=manifest.rows,
        segments_before=len(before.segments),
        segments=len(manifest.segments),
        dropped=before.deleted_rows - manifest.deleted_rows,
        bytes_before=used,
        bytes=_bytes(folder, manifest),
        earlier=len(manifest.earlier),
        earlier_bytes=everything - _bytes(folder, manifest),
    )


def _compacted(folder: IndexFolder, manifest: Manifest) -> Added:
    """The new segments, and those that they take the place of."""
    groups: list[list[StoredSegment]] = []
    for segment in StoredRows(folder, manifest).segments:
        group = next((group for group in groups if group[0].layout.fits(segment.layout)), None)
        if group is None:
            groups.append([segment])
        else:
            group.append(segment)
    entries: list[SegmentEntry] = []
    absorbed: set[str] = set()
    for group in groups:
        if len(group) > 1 or not group[0].live.all():
            for segment in group:
                check_intact(segment)
            sources = [SegmentRows(each.segment, live_rows(each)) for each in group]
            entries.append(write_merged(folder, group[0].layout, sources))
            absorbed.update(each.name for each in group)
    return Added(tuple(entries), frozenset(absorbed))


def _bytes(folder: IndexFolder, manifest: Manifest) -> int:
    return sum(size_of(folder.gallery(entry.name).parent) for entry in manifest.segments)
