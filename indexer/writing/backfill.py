"""Encoding the images of older models again, the most retrieved first: a re-index in parts.

A backfill publishes one generation per part: whenever it stops, what is done counts, and the rest is still searched by
its mapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from cir.errors import SpaceMismatchError
from cir.files import remove_tree
from cir.images.names import shown
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.stored_image import KeptPhoto, StoredImage
from cir.indexer.reading.usage import read_usage
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.segment import Layout
from cir.indexer.storage.writer import Writer, writing
from cir.indexer.writing.assemble import build_derived, clean_work, next_manifest, write_rows
from cir.indexer.writing.parts import Parts
from cir.indexer.writing.pipeline import DigestRegistry, encode_photos
from cir.indexer.writing.plan import NewRow
from cir.indexer.writing.preconditions import choose_layout
from cir.indexer.writing.spreading import Cut, Made, Spread, forget_segments, make_segments, usual_rows
from cir.indexer.writing.stored_rows import StoredRow, StoredRows
from cir.types import GalleryEncoder

PART = 8192
_LEAST_ROWS = 64  # photos that a process of a cluster is given at least: a part is small, and all shall have some
_PART_ROWS = 1024  # encoded images that are held in memory at most


@dataclass(frozen=True)
class BackfillProgress:
    """How far a backfill is.

    Attributes:
        images: live images of the index.
        older: images of older models when it began.
        done: images encoded again since.
        skipped: (id, reason) of images whose photo is gone, changed or broken; they stay as they are.
        generation: the last one published.
    """

    images: int
    older: int
    done: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    generation: int = 0

    @property
    def left(self) -> int:
        """Images of older models that remain."""
        return self.older - self.done


def backfill(
    index: Path,
    encoder: GalleryEncoder,
    *,
    count: int | None = None,
    part: int = PART,
    workers: int | None = None,
    ann_min_rows: int = ANN_MIN_ROWS,
    trust_roots: bool = False,
    spread: Spread | None = None,
) -> Iterator[BackfillProgress]:
    """Encode images of older models again with the serving one.

    Args:
        index: the index folder.
        encoder: the serving model.
        count: how many images at most; all if None.
        part: images per generation.
        workers: threads that decode and encode; default one per core.
        ann_min_rows: segments of at least this many vectors get an approximate index.
        trust_roots: read photos also below folders that this user has not indexed.
        spread: what encodes, such as workers on other machines (`cir.cluster`); threads of this process if None.

    Yields:
        Progress after each generation that was published, and at least once if there is anything to encode. Close the
        iterator to stop.

    Raises:
        SpaceMismatchError: another model serves the index.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; what was published stays.
        WeightsError: the encoder's output contradicts its card.
    """
    folder = index_folder(index)
    read_manifest(folder)  # before the lock creates a file in a folder that is no index
    with writing(folder) as writer:
        manifest = read_manifest(folder)
        if manifest.serving != encoder.card.digest:
            raise SpaceMismatchError(f"{index} is served by {manifest.card.name}, not {encoder.card.name}")
        layout = choose_layout(folder, manifest, encoder.card, True)
        gallery = Gallery.open(folder.root, trust_roots=trust_roots, strict=True)
        task = _Task(writer, gallery, encoder, layout, workers, ann_min_rows)
        waiting = _older_rows(folder, manifest)
        state = BackfillProgress(manifest.rows, len(waiting), generation=manifest.generation)
        limit = len(waiting) if count is None else count
        while state.done < limit and waiting:
            size = min(part, limit - state.done)
            vectors: Parts | Made
            if spread:
                encoded, skipped, waiting, vectors = task.encode_elsewhere(waiting, size, spread)
            else:
                vectors = parts = Parts(task.work, task.layout, _PART_ROWS)  # with what an interrupted one had encoded
                encoded, skipped, waiting = task.encode(waiting, size, parts)
            state = replace(state, skipped=(*state.skipped, *skipped))
            if encoded:
                manifest = task.publish(manifest, encoded, vectors)
                state = replace(state, done=state.done + len(encoded), generation=manifest.generation)
            if encoded or not state.done:  # also if none of the photos can be used
                yield state
        if not state.left:
            remove_tree(folder.usage)
        if not waiting:
            forget_segments(folder)
            remove_tree(task.work)
            clean_work(folder)


def _identity(photo: KeptPhoto) -> object:
    """What a photo's record is compared by: a photo is only read if it is the one that was indexed."""
    return photo.digest.hex()


def _older_rows(folder: IndexFolder, manifest: Manifest) -> list[StoredRow]:
    """Rows of older models: first those that no mapping reaches, then the most retrieved."""
    native, usage = manifest.space.id, read_usage(folder)
    segments = (segment for segment in StoredRows(folder, manifest).segments if segment.layout.space != native)
    rows = [row for segment in segments for row in segment]
    rows.sort(key=lambda row: (row.segment.layout.space in manifest.mappings, -usage[row.id], row.id))
    return rows


@dataclass(frozen=True)
class _Task:
    """What stays the same over the parts of a backfill."""

    writer: Writer
    gallery: Gallery  # the generation before the backfill: where photos are
    encoder: GalleryEncoder
    layout: Layout
    workers: int | None
    ann_min_rows: int

    @property
    def folder(self) -> IndexFolder:
        """The index."""
        return self.writer.folder

    @property
    def work(self) -> Path:
        """Folder of encoded parts that are not published yet."""
        return self.folder.work / "backfill"

    def encode(
        self, waiting: Sequence[StoredRow], count: int, parts: Parts
    ) -> tuple[list[StoredRow], list[tuple[str, str]], list[StoredRow]]:
        """Encode the photos of the first `count` usable rows into `parts`.

        Returns:
            The rows that were encoded, (id, reason) of those that were skipped, and the rows that still wait.
        """
        registry = DigestRegistry(parts.resumed)
        undecodable: dict[bytes, str] = {}
        encoded: list[StoredRow] = []
        skipped: list[tuple[str, str]] = []
        start = 0
        try:
            while len(encoded) < count and start < len(waiting):
                rows = waiting[start : start + count - len(encoded)]
                start += len(rows)
                reasons = self._encode([self.gallery.image(row.id) for row in rows], parts, registry, undecodable)
                skipped += reasons.items()
                encoded += [row for row in rows if row.id not in reasons]
        finally:
            parts.flush()  # also when the user interrupts: what is encoded is kept
        return encoded, skipped, list(waiting[start:])

    def _encode(
        self, photos: Sequence[StoredImage], parts: Parts, registry: DigestRegistry, undecodable: dict[bytes, str]
    ) -> dict[str, str]:
        """Encode photos into `parts`; returns id -> reason of those that cannot be used.

        Args:
            photos: what to encode.
            parts: what is encoded already, added to.
            registry: contents that were tried, added to.
            undecodable: those of them that are not usable images, digest -> reason, added to.
        """
        reasons: dict[str, str] = {}
        with closing(encode_photos(photos, self.encoder, self.layout, registry, workers=self.workers)) as batches:
            for batch in batches:
                parts.add(batch)
                undecodable |= batch.undecodable
                reasons |= {photo.id: reason for photo, reason in batch.unreadable}
        broken = [photo for photo in photos if photo.digest in undecodable]
        return reasons | {photo.id: f"{shown(photo.id)}: {undecodable[photo.digest]}" for photo in broken}

    def encode_elsewhere(
        self, waiting: Sequence[StoredRow], count: int, spread: Spread
    ) -> tuple[list[StoredRow], list[tuple[str, str]], list[StoredRow], Made]:
        """Have the photos of the first `count` rows encoded; returns as `encode`, and where the vectors are."""
        rows = {row.id: row for row in sorted(waiting[:count], key=lambda row: row.id)}
        photos = [self.gallery.image(image_id).photo for image_id in rows]
        cut = Cut(self.layout, usual_rows(len(photos), self.layout, least=_LEAST_ROWS))
        made = make_segments(self.folder, photos, lambda photo: {}, _identity, spread, cut)
        reasons: dict[str, str] = {}
        for task, result in made.pairs:
            reasons |= {task.photos[number].id: reason for number, reason in result.unreadable.items()}
            for number, digest in result.digests.items():
                if digest in result.undecodable:
                    image_id = task.photos[number].id
                    reasons[image_id] = f"{shown(image_id)}: {result.undecodable[digest]}"
        encoded = [row for image_id, row in rows.items() if image_id not in reasons]
        return encoded, list(reasons.items()), list(waiting[count:]), made

    def publish(self, manifest: Manifest, rows: Sequence[StoredRow], parts: Parts | Made) -> Manifest:
        """Publish the encoded rows in a new segment, and delete them where they were."""
        stored = StoredRows(self.folder, manifest)
        added = write_rows(self.folder, stored, list(map(NewRow.copy, rows)), parts.find, rows)
        manifest = self.writer.publish(next_manifest(manifest, self.encoder.card, added, rows))
        build_derived(self.folder, manifest, self.ann_min_rows, self.encoder)
        forget_segments(self.folder)
        remove_tree(self.work)
        clean_work(self.folder)
        return manifest
