"""Encoding the images of older models again, a part at a time, the most retrieved first.

Each part is a generation of its own: whenever it stops, what is done counts, and what is not done is still searched
over its edge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cir.errors import DataError, SpaceMismatchError
from cir.images import decode, locate
from cir.indexer.ann import ANN_MIN_ROWS
from cir.indexer.assemble import index_vectors, next_manifest, write_rows
from cir.indexer.durable import make_folder, remove_temporaries, remove_tree
from cir.indexer.lock import writer_lock
from cir.indexer.manifest import Manifest, publish, read_manifest, remove_unpublished
from cir.indexer.parts import WORK
from cir.indexer.pipeline import checked
from cir.indexer.plan import NewRow, StoredRow, stored_rows
from cir.indexer.request import choose_layout
from cir.indexer.scoring import Floats
from cir.indexer.store import Block, Layout, Segment, Stored, write_segment
from cir.indexer.usage import USAGE, retrieved
from cir.types import GalleryEncoder

PART = 8192
_BATCH = 32
_ENCODED = "backfill.h5"


@dataclass
class Backfill:
    """How far it is.

    Attributes:
        images: live images of the index.
        older: images of older models when it began.
        done: encoded again since.
        skipped: (id, reason) of images whose photo is gone, changed or broken; they stay as they are.
        generation: the last one published.
    """

    images: int
    older: int
    done: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    generation: int = 0

    @property
    def left(self) -> int:
        """Images of older models that remain."""
        return self.older - self.done

    @property
    def share(self) -> float:
        """Share of the index that is of the serving model."""
        return 1 - self.left / max(1, self.images)


def backfill(
    index: Path,
    encoder: GalleryEncoder,
    *,
    count: int | None = None,
    part: int = PART,
    ann_min_rows: int = ANN_MIN_ROWS,
) -> Iterator[Backfill]:
    """Encode images of older models again by the serving one.

    Args:
        index: the index folder.
        encoder: the serving model.
        count: how many at most; all if None.
        part: images a generation.
        ann_min_rows: when nothing is left and the serving model's segments have so many rows together, they become one,
            with an approximate index.

    Yields:
        Where it is, after each generation that was published, and at least once where there is something to encode;
        stop asking, and it stops.

    Raises:
        SpaceMismatchError: another model serves the index.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; what was published stays.
        WeightsError: the encoder does not give what its card says.
    """
    with writer_lock(index):
        manifest = read_manifest(index)
        if manifest.serving != encoder.card.digest:
            raise SpaceMismatchError(f"{index} is served by {manifest.card.name}, not {encoder.card.name}")
        remove_temporaries(index)
        remove_unpublished(index)
        layout = choose_layout(index, manifest, encoder.card, True)
        rows = [row for row in stored_rows(index, manifest).values() if row.segment.layout.space != manifest.space.id]
        often, reached = retrieved(index), manifest.edges.keys()
        # What nothing leads to cannot be retrieved at all: first.
        rows.sort(key=lambda row: (row.segment.layout.space in reached, -often[row.id], row.id))
        state = Backfill(manifest.rows, len(rows), generation=manifest.generation)
        waiting, most = iter(rows), len(rows) if count is None else count
        while state.done < most:
            encoded, segment = _encode(index, encoder, layout, waiting, min(part, most - state.done), state)
            if segment is None:
                if not state.done:
                    yield state  # none of the photos can be used: that is to be told as well
                break
            manifest = _publish(index, manifest, encoder, layout, encoded, segment)
            state.done += len(encoded)
            state.generation = manifest.generation
            _clean(index)
            yield state
        if state.done + len(state.skipped) == state.older:
            merged = _merge(index, manifest, encoder, layout, ann_min_rows)
            state.generation = merged.generation
        if not state.left:
            remove_tree(index / USAGE)


def _merge(index: Path, manifest: Manifest, encoder: GalleryEncoder, layout: Layout, ann_min_rows: int) -> Manifest:
    """The parts of a large gallery as one segment: many small ones are each scanned, and each a file to open."""
    rows = [row for row in stored_rows(index, manifest).values() if row.segment.layout.space == manifest.space.id]
    if len({row.segment_name for row in rows}) < 2 or len(rows) < ann_min_rows:
        return manifest
    places = {row.digest: (row.segment, row.row) for row in rows}
    new = [NewRow(row.id, row.digest, row.root, row.metadata) for row in rows]
    manifest = next_manifest(index, manifest, encoder, [write_rows(index, new, layout, places.__getitem__)], rows, [])
    publish(index, manifest)
    index_vectors(index, manifest, ann_min_rows)
    _clean(index)
    return manifest


def _clean(index: Path) -> None:
    """Remove what was put together under `work/`; parts of a build that was stopped stay there."""
    for name in (_ENCODED, "segment"):
        remove_tree(index / WORK / name)
    with suppress(OSError):
        (index / WORK).rmdir()


def _encode(
    index: Path, encoder: GalleryEncoder, layout: Layout, rows: Iterator[StoredRow], count: int, state: Backfill
) -> tuple[list[StoredRow], Segment | None]:
    """Encode the photos of the next `count` rows into a segment under `work/`; those that cannot be used are noted."""
    kept: list[StoredRow] = []
    vectors: list[Stored] = []
    tokens: list[Stored] = []
    pixels: list[Floats] = []

    def flush() -> None:
        if pixels:
            made = checked(encoder.encode_images(np.stack(pixels)), layout, len(pixels))
            vectors.extend(values for values in made[:1] if values is not None)
            tokens.extend(values for values in made[1:] if values is not None)
            pixels.clear()

    for row in rows:
        try:
            data = locate(row.root, row.id).read()
            if hashlib.sha256(data).digest() != row.digest:
                raise DataError(f"{row.id}: the photo has changed; build-index takes it up")
            pixels.append(encoder.preprocess(decode(data, row.id)))
        except (DataError, OSError) as error:
            state.skipped.append((row.id, str(error)))
            continue
        kept.append(row)
        if len(pixels) == _BATCH:
            flush()
        if len(kept) == count:
            break
    flush()
    if not kept:
        return [], None
    path = index / WORK / _ENCODED
    make_folder(path.parent)
    block = Block(
        ids=[row.id for row in kept],
        digests=np.frombuffer(b"".join(row.digest for row in kept), np.uint8).reshape(-1, 32),
        roots=[row.root for row in kept],
        metadata=[{}] * len(kept),
        vectors=np.concatenate(vectors) if vectors else None,
        tokens=np.concatenate(tokens) if tokens else None,
    )
    write_segment(path, layout, len(kept), [block])
    return kept, Segment(path)


def _publish(
    index: Path,
    manifest: Manifest,
    encoder: GalleryEncoder,
    layout: Layout,
    rows: Sequence[StoredRow],
    encoded: Segment,
) -> Manifest:
    """The next generation: these rows in a segment of the serving model's, and no longer where they were."""
    places = {row.digest: place for place, row in enumerate(rows)}
    new = [NewRow(row.id, row.digest, row.root, row.metadata) for row in rows]
    entry = write_rows(index, new, layout, lambda digest: (encoded, places[digest]))
    manifest = next_manifest(index, manifest, encoder, [entry], rows, [])
    publish(index, manifest)
    return manifest
