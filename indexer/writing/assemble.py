"""The pieces of a next generation: segments of new rows, rows that no longer count, approximate indexes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from cir.errors import MissingDependencyError
from cir.files import make_folder, remove_tree
from cir.indexer.reading.ann import load_or_build
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry, adopt_segment, open_segment
from cir.indexer.storage.segment import Layout, RowBlock, Segment, write_segment
from cir.indexer.writing.plan import NewRow, StoredRow
from cir.types import GalleryEncoder

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
    write_segment(work / GALLERY, layout, len(rows), _blocks(ordered, layout, find))
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


def _blocks(rows: Sequence[NewRow], layout: Layout, find: FindVectors) -> Iterator[RowBlock]:
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = rows[start : start + _BLOCK_ROWS]
        sources = [find(row.digest) for row in part]
        vectors = [segment.vectors[row] for segment, row in sources if segment.vectors is not None]
        tokens = [segment.tokens[row] for segment, row in sources if segment.tokens is not None]
        yield RowBlock(
            ids=[row.id for row in part],
            digests=np.frombuffer(b"".join(row.digest for row in part), np.uint8).reshape(-1, 32),
            roots=[row.root for row in part],
            metadata=[row.metadata for row in part],
            vectors=np.stack(vectors) if layout.vectors else None,
            tokens=np.stack(tokens) if layout.tokens else None,
        )


def next_manifest(
    folder: IndexFolder,
    old: Manifest,
    encoder: GalleryEncoder,
    added: Sequence[SegmentEntry],
    tombstones: Iterable[StoredRow],
    roots: Iterable[str] = (),
) -> Manifest:
    """The generation after `old`: with new segments, without some rows.

    Args:
        folder: the index.
        old: the live generation, or an empty one.
        encoder: the serving model.
        added: the new segments; none where rows are only deleted.
        tombstones: rows that no longer count.
        roots: where images were this time.
    """
    deleted = {name: set(rows) for name, rows in old.deleted.items()}
    for row in tombstones:
        deleted.setdefault(row.segment_name, set()).add(row.row)
    # A segment without a live row is no longer named; its file stays for older generations.
    live = [entry for entry in (*old.segments, *added) if len(deleted.get(entry.name, ())) < entry.rows]
    remaining = {entry.name: tuple(sorted(deleted[entry.name])) for entry in live if entry.name in deleted}
    return old.succeed(folder, encoder=encoder, segments=live, deleted=remaining, roots=roots)


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
