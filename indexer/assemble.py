"""The next generation: a segment of the new rows, and a manifest that names it and what still counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cir.errors import MissingDependencyError
from cir.indexer.ann import load_or_build
from cir.indexer.durable import make_folder
from cir.indexer.manifest import (
    GALLERY,
    SEGMENTS,
    FileEntry,
    Manifest,
    SegmentEntry,
    adopt_segment,
    next_generation,
    open_segment,
)
from cir.indexer.parts import WORK
from cir.indexer.plan import NewRow, StoredRow
from cir.indexer.store import Block, Layout, Segment, write_segment
from cir.types import GalleryEncoder

_BLOCK_ROWS = 512
Find = Callable[[bytes], tuple[Segment, int]]

log = logging.getLogger(__name__)


def write_rows(out: Path, rows: Sequence[NewRow], layout: Layout, find: Find) -> SegmentEntry:
    """Write rows into a new segment, by ascending id; nothing refers to it yet.

    Args:
        out: the index.
        rows: at least one.
        layout: of the segment, and of all that `find` returns.
        find: where the vectors of a content are, by its digest.

    Raises:
        DataError: the disk is full or refuses.
    """
    folder = out / WORK / "segment"
    make_folder(folder)
    ordered = sorted(rows, key=lambda row: row.id)
    write_segment(folder / GALLERY, layout, len(rows), _blocks(ordered, layout, find))
    file = FileEntry.of(folder / GALLERY)
    name = adopt_segment(out, folder)
    return SegmentEntry(
        name=name,
        rows=len(rows),
        model=layout.model,
        space=layout.space,
        dims=layout.dims,
        tokens=layout.tokens,
        vectors=layout.vectors,
        files={GALLERY: file},
    )


def _blocks(rows: Sequence[NewRow], layout: Layout, find: Find) -> Iterator[Block]:
    for start in range(0, len(rows), _BLOCK_ROWS):
        here = rows[start : start + _BLOCK_ROWS]
        sources = [find(row.digest) for row in here]
        vectors = [segment.vectors[row] for segment, row in sources if segment.vectors is not None]
        tokens = [segment.tokens[row] for segment, row in sources if segment.tokens is not None]
        yield Block(
            ids=[row.id for row in here],
            digests=np.frombuffer(b"".join(row.digest for row in here), np.uint8).reshape(-1, 32),
            roots=[row.root for row in here],
            metadata=[row.metadata for row in here],
            vectors=np.stack(vectors) if layout.vectors else None,
            tokens=np.stack(tokens) if layout.tokens else None,
        )


def next_manifest(
    out: Path,
    old: Manifest | None,
    encoder: GalleryEncoder,
    added: Sequence[SegmentEntry],
    tombstones: Iterable[StoredRow],
    roots: Iterable[str],
) -> Manifest:
    """The generation after `old`: with new segments, without some rows.

    Args:
        out: the index.
        old: the live generation, None for a first.
        encoder: the serving model; a `directory` that it may have is kept as a hint.
        added: the new segments, none where only rows go.
        tombstones: rows that no longer count.
        roots: where images were found this time.
    """
    card = encoder.card
    directory = getattr(encoder, "directory", None)
    path = {card.digest: str(Path(directory).resolve())} if directory else {}
    deleted = {name: set(rows) for name, rows in (old.deleted if old else {}).items()}
    for row in tombstones:
        deleted.setdefault(row.segment_name, set()).add(row.row)
    entries = [*(old.segments if old else ()), *added]
    # A segment without a live row is no longer named; its file stays for older generations.
    live = [entry for entry in entries if len(deleted.get(entry.name, ())) < entry.rows]
    return Manifest(
        generation=next_generation(out),
        previous=old.generation if old else 0,
        serving=card.digest,
        models={**(old.models if old else {}), card.digest: card.to_json()},
        spaces={**(old.spaces if old else {}), card.space.id: asdict(card.space)},
        segments=tuple(live),
        edges=old.edges if old else {},
        deleted={entry.name: tuple(sorted(deleted[entry.name])) for entry in live if entry.name in deleted},
        model_paths={**(old.model_paths if old else {}), **path},
        roots=tuple(dict.fromkeys([*(old.roots if old else ()), *roots])),
    )


def index_vectors(out: Path, manifest: Manifest, min_rows: int) -> None:
    """Give segments of `min_rows` rows and more their approximate index, so that no search has to."""
    for entry in manifest.segments:
        # What is carried along an edge has an approximate index of its own.
        wanted = entry.rows >= max(1, min_rows) and entry.space not in manifest.edges
        vectors = open_segment(out, entry).vectors if wanted else None
        if vectors is not None:
            try:
                load_or_build(out / SEGMENTS / entry.name, entry.files[GALLERY].sha256, vectors)
            except MissingDependencyError as error:
                log.warning("%s is searched exactly, which is slower: %s", out, error)
