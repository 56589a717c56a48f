"""Building an index: incremental by content, resumable after a kill, published in one step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cir.errors import DataError
from cir.images import ImageFile
from cir.indexer.ann import ANN_MIN_ROWS
from cir.indexer.assemble import index_vectors, next_manifest, write_rows
from cir.indexer.durable import make_folder, remove_temporaries, remove_tree, write_bytes
from cir.indexer.lock import LOCK, writer_lock
from cir.indexer.manifest import (
    CURRENT,
    SEGMENTS,
    Manifest,
    publish,
    read_manifest,
    remove_unpublished,
)
from cir.indexer.parts import WORK, Parts
from cir.indexer.pipeline import Claims, default_workers, run
from cir.indexer.plan import Found, Metadata, NewRow, Plan, Skipped, StoredRow, make_plan, stored_rows
from cir.indexer.report import BuildReport
from cir.indexer.request import SKIPPED, check_request, choose_layout, refuse_foreign
from cir.indexer.store import Layout, Segment
from cir.types import GalleryEncoder, ModelCard

Progress = Callable[[int, int], None]


def build_index(
    images: Sequence[ImageFile],
    out: Path,
    encoder: GalleryEncoder,
    *,
    workers: int | None = None,
    batch_size: int = 32,
    tokens: bool = True,
    precision: str = "float16",
    metadata: Metadata | None = None,
    prune: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    part_rows: int = 1024,
    ann_min_rows: int = ANN_MIN_ROWS,
) -> BuildReport:
    """Build an index of images, or bring one up to date.

    Files are compared by the SHA-256 of their bytes: what the index has is never encoded again, whatever its
    name. A build that is killed is taken up by the next one. Unreadable images are skipped and listed in
    `skipped.jsonl`.

    Args:
        images: what to index, from `cir.images.scan`. Rows of other roots are left alone.
        out: the index folder; created, with its parents.
        encoder: the model.
        workers: threads that decode and encode; default one per core.
        batch_size: images per call of the encoder.
        tokens: store the model's tokens, where it gives some. An existing index decides for itself: one
            without tokens stays without.
        precision: how a new index stores numbers. "float16" moves scores by 5e-5 at most, which is nothing to a
            person; "float32" is for rankings that must equal another program's, at twice the size.
        metadata: columns to set, by id; merged into what the index has, "" removes a value.
        prune: forget images whose file is gone; they are kept otherwise.
        dry_run: read and compare only.
        progress: called with (images done, images in all).
        part_rows: encoded images after which a resumable part is written.
        ann_min_rows: segments of at least so many vectors get an approximate index.

    Raises:
        UsageError: ids given twice, no tokens wanted where there is nothing else, metadata that cannot be
            stored.
        DataError: no usable image for a new index, or the disk is full or refuses; what was published stays.
        IndexFormatError: `out` is something else than an index, or a newer or damaged one.
        IndexLockedError: another process is writing to it.
        SpaceMismatchError: the index was made by another model.
        WeightsError: the encoder does not give what its card says.
    """
    started = time.perf_counter()
    out = Path(out)
    workers = default_workers() if workers is None else workers
    columns = metadata or {}
    check_request(images, columns, workers, batch_size, part_rows)
    refuse_foreign(out)
    look = _Look(images, workers, batch_size, progress)
    if dry_run:
        existing = _Existing.read(out, encoder.card, tokens, precision)
        look.read(existing)
        plan = make_plan(look.found, existing.rows, columns, prune)
        return _report(out, existing.manifest, existing, plan, look, started, dry_run=True)
    fresh = not out.exists()
    if fresh:
        choose_layout(out, None, encoder.card, tokens)  # what is refused leaves no folder
    make_folder(out)
    with writer_lock(out):
        existing = _Existing.read(out, encoder.card, tokens, precision)
        remove_temporaries(out)
        remove_unpublished(out)
        parts = Parts(out, existing.layout, part_rows)
        look.encode(existing, encoder, parts)
        plan = make_plan(look.found, existing.rows, columns, prune)
        if existing.manifest is None and not plan.rows:
            remove_tree(out / LOCK)
            if fresh:
                with suppress(OSError):
                    out.rmdir()
            raise DataError(f"none of the {len(images)} images can be used; the first: {plan.skipped[0].reason}")
        _write_skipped(out, plan.skipped)
        manifest = _publish_plan(out, images, encoder, existing, plan, parts)
        index_vectors(out, manifest, ann_min_rows)
        remove_tree(out / WORK)
    resumed = sum(row.digest in parts.resumed and row.digest not in existing.by_digest for row in plan.rows)
    return _report(out, manifest, existing, plan, look, started, resumed=resumed)


@dataclass(frozen=True)
class _Existing:
    """What the index has before the build: its generation, if any, and its live rows by id and by digest."""

    manifest: Manifest | None
    layout: Layout
    rows: dict[str, StoredRow]
    by_digest: dict[bytes, StoredRow]

    @classmethod
    def read(cls, out: Path, card: ModelCard, tokens: bool, precision: str) -> _Existing:
        manifest = read_manifest(out) if (out / CURRENT).exists() else None
        layout = choose_layout(out, manifest, card, tokens, precision)
        rows = stored_rows(out, manifest)
        return cls(manifest, layout, rows, {row.digest: row for row in rows.values()})


@dataclass
class _Look:
    """One pass over all images, and what it found."""

    images: Sequence[ImageFile]
    workers: int
    batch_size: int
    progress: Progress | None
    found: Found = field(default_factory=Found)
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0

    def encode(self, existing: _Existing, encoder: GalleryEncoder, parts: Parts) -> None:
        """Read all images and encode into `parts` what neither the index nor they have."""
        try:
            with encoder.shared_by(self.workers):
                self._run(existing, encoder, parts)
        finally:
            parts.flush()  # also when the user interrupts: what is encoded is kept

    def read(self, existing: _Existing) -> None:
        """Read all images and encode nothing."""
        self._run(existing, None, None)

    def _run(self, existing: _Existing, encoder: GalleryEncoder | None, parts: Parts | None) -> None:
        claims = Claims({*existing.by_digest, *(parts.resumed if parts else ())})
        batches = run(self.images, encoder, existing.layout, claims, workers=self.workers, batch_size=self.batch_size)
        with closing(batches):
            for batch in batches:
                self.found.files += batch.files
                self.found.unreadable += batch.unreadable
                self.found.undecodable |= batch.undecodable
                self.decode_seconds += batch.decode_seconds
                self.encode_seconds += batch.encode_seconds
                if parts:
                    parts.add(batch)
                if self.progress:
                    self.progress(len(self.found.files) + len(self.found.unreadable), len(self.images))


def _publish_plan(
    out: Path,
    images: Sequence[ImageFile],
    encoder: GalleryEncoder,
    existing: _Existing,
    plan: Plan,
    parts: Parts,
) -> Manifest:
    """Make the next generation live; without changes the old one stays."""
    if existing.manifest is not None and not plan.rows and not plan.tombstones:
        return existing.manifest

    def find(digest: bytes) -> tuple[Segment, int]:
        stored = existing.by_digest.get(digest)
        return (stored.segment, stored.row) if stored else parts.find(digest)

    # What is only renamed keeps its vectors, also those that another model made: a segment for each kind.
    kinds: dict[str, tuple[Layout, list[NewRow]]] = {}
    for row in plan.rows:
        layout = find(row.digest)[0].layout
        kinds.setdefault(layout.space, (layout, []))[1].append(row)
    entries = [write_rows(out, rows, layout, find) for layout, rows in kinds.values()]
    roots = [image.root for image in images]
    manifest = next_manifest(out, existing.manifest, encoder, entries, plan.tombstones, roots)
    publish(out, manifest)
    return manifest


def _write_skipped(out: Path, skipped: Sequence[Skipped]) -> None:
    lines = (json.dumps(asdict(one), sort_keys=True) + "\n" for one in skipped)
    write_bytes(out / SKIPPED, "".join(lines).encode())


def _report(
    out: Path,
    manifest: Manifest | None,
    existing: _Existing,
    plan: Plan,
    look: _Look,
    started: float,
    resumed: int = 0,
    dry_run: bool = False,
) -> BuildReport:
    total = len(existing.rows) + len(plan.rows) - len(plan.tombstones)
    names = [entry.name for entry in manifest.segments] if manifest else []
    used = sum(file.stat().st_size for name in names for file in (out / SEGMENTS / name).iterdir())
    rows = manifest.rows if manifest else 0
    seconds = time.perf_counter() - started
    return BuildReport(
        path=out,
        generation=manifest.generation if manifest else 0,
        added=plan.added,
        unchanged=plan.unchanged,
        updated=plan.updated,
        renamed=plan.renamed,
        missing=plan.missing,
        skipped=[(one.id, one.reason) for one in plan.skipped],
        total=total,
        resumed=resumed,
        seconds=seconds,
        images_per_second=len(look.images) / seconds,
        bytes_per_image=used / rows if rows else 0.0,
        decode_seconds=look.decode_seconds,
        encode_seconds=look.encode_seconds,
        dry_run=dry_run,
    )
