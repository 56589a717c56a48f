"""The pieces of a next generation: segments of new rows, rows that no longer count, approximate indexes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from cir.errors import MissingDependencyError
from cir.files import make_folder, remove_tree
from cir.indexer.reading.ann import load_or_build
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import adopt_segment, open_segment
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, Segment, write_segment
from cir.indexer.writing.plan import NewRow, StoredRow
from cir.types import ModelCard

_BLOCK_ROWS = 512
_SEGMENT = "segment"  # the folder under work/ in which a segment is put together
FindVectors = Callable[[bytes], tuple[Segment, int]]

log = logging.getLogger(__name__)


def write_rows(folder: IndexFolder, rows: Sequence[NewRow], layout: Layout, find: FindVectors) -> SegmentEntry:
    """Write rows into a new segment, by ascending id; no manifest names it yet.

    Args:
        folder: the index.
        rows: at least one.
        layout: of the segment, and of every segment that `find` returns.
        find: digest of a content -> the open segment and row that hold its vectors.

    Raises:
        DataError: the disk is full or refuses.
    """
    work = folder.work / _SEGMENT
    make_folder(work)
    ordered = sorted(rows, key=lambda row: row.id)
    table = RowTable(
        ids=[row.id for row in ordered],
        digests=np.frombuffer(b"".join(row.digest for row in ordered), np.uint8).reshape(-1, 32),
        roots=[row.root for row in ordered],
        metadata=[row.metadata for row in ordered],
    )
    write_segment(work / GALLERY, layout, table, _blocks(ordered, layout, find))
    file = FileEntry.of(work / GALLERY)
    return SegmentEntry(
        name=adopt_segment(folder, work),
        rows=len(rows),
        model=layout.model,
        space=layout.space,
        dims=layout.dims,
        tokens=layout.tokens,
        vectors=layout.vectors,
        files={GALLERY: file},
    )


def _blocks(rows: Sequence[NewRow], layout: Layout, find: FindVectors) -> Iterator[EncodedBlock]:
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = rows[start : start + _BLOCK_ROWS]
        sources = [find(row.digest) for row in part]
        vectors = [segment.vectors[row] for segment, row in sources if segment.vectors is not None]
        tokens = [segment.tokens[row] for segment, row in sources if segment.tokens is not None]
        yield EncodedBlock(
            vectors=np.stack(vectors) if layout.vectors else None,
            tokens=np.stack(tokens) if layout.tokens else None,
        )


def next_manifest(
    old: Manifest,
    card: ModelCard,
    added: Sequence[SegmentEntry],
    tombstones: Iterable[StoredRow],
    *,
    roots: Iterable[str] = (),
    keep: int | None = None,
) -> Manifest:
    """The generation after `old`: with new segments, without some rows.

    Args:
        old: the live generation, or an empty one.
        card: the serving model.
        added: the new segments; none where rows are only deleted.
        tombstones: rows that no longer count.
        roots: where images were this time.
        keep: how many earlier generations to keep; as before if None.
    """
    rows = defaultdict(list)
    for row in tombstones:
        rows[row.segment_name].append(row.row)
    deleted = old.without(rows)
    after = old.succeed(card=card, segments=[*old.segments, *added], deleted=deleted, roots=roots, keep=keep)
    # A segment without a live row is no longer named; its file stays for older generations.
    live = [entry for entry in after.segments if after.live_rows(entry).any()]
    remaining = {entry.name: deleted[entry.name] for entry in live if entry.name in deleted}
    return after.succeed(segments=live, deleted=remaining)


def build_ann(folder: IndexFolder, manifest: Manifest, min_rows: int) -> None:
    """Build the approximate index of segments of `min_rows` rows and more, so that no search has to."""
    for entry in manifest.segments:
        # A segment that a mapping reaches is searched by its mapped vectors, which have their own.
        wanted = entry.rows >= max(1, min_rows) and entry.space not in manifest.mappings
        vectors = open_segment(folder, entry).vectors if wanted else None
        if vectors is not None:
            try:
                load_or_build(folder.gallery(entry.name).parent, entry.files[GALLERY].sha256, vectors)
            except MissingDependencyError as error:
                log.warning("%s is searched exactly, which is slower: %s", folder, error)


def clean_work(folder: IndexFolder) -> None:
    """Remove the segment under `work/`; parts of an interrupted build stay."""
    remove_tree(folder.work / _SEGMENT)
    with suppress(OSError):
        folder.work.rmdir()
