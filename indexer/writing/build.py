"""Building an index: incremental by content, resumable after a kill, published in one step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cir.errors import DataError
from cir.files import make_folder, remove_tree, size_of
from cir.given import MOST_KEPT, instance, path_of, whole_number
from cir.images import ImageFile, Scan
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import GALLERY, IndexFolder, is_index
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import place_of
from cir.indexer.storage.segment import Layout, Segment
from cir.indexer.storage.writer import Writer, writing
from cir.indexer.writing.assemble import Added, build_derived, next_manifest, write_rows
from cir.indexer.writing.parts import Parts
from cir.indexer.writing.pipeline import DigestRegistry, encode_photos
from cir.indexer.writing.plan import Found, Metadata, Plan, make_plan, merged
from cir.indexer.writing.preconditions import as_images, check_request, choose_layout, refuse_foreign
from cir.indexer.writing.report import BuildReport, write_skipped
from cir.indexer.writing.segment_tasks import KnownDigests, RootedPhoto, SegmentResult, SegmentTask
from cir.indexer.writing.spreading import (
    BATCH,
    Cut,
    InProcess,
    Made,
    Spread,
    file_identity,
    forget_segments,
    make_segments,
    usual_rows,
)
from cir.indexer.writing.stored_rows import StoredRows
from cir.known import remember_model, remember_roots
from cir.types import GalleryEncoder, ModelCard, Progress


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        workers: threads that decode and encode; default one per core.
        batch_size: images per call of the encoder; if None 32, or as many as workers elsewhere were measured to want.
        tokens: store the model's tokens, if it gives any. An index that has none stays without.
        precision: how a new index stores numbers. "float16" moves scores by 5e-5 at most, which no person notices;
            "float32" is for rankings that must equal another program's, at twice the size.
        prune: delete images whose file is gone; otherwise they are kept.
        dry_run: read and compare only.
        part_rows: encoded images after which a resumable part is written.
        segment_rows: write a segment for each so many images, in the order of their ids, so that what is written
            depends neither on the number of workers nor on who they are; None for one segment with all new images.
        ann_min_rows: segments of at least this many vectors get an approximate index; those of tokens alone get token
            codes from this many tokens on.
        keep: earlier generations that the index keeps for a rollback from now on; as before if None, else
            `manifest.KEEP`. Those on both sides of a change of model are kept in any case.

    Raises:
        UsageError: a number below 1, no whole number, or more than 10,000 generations to keep.
    """

    workers: int | None = None
    batch_size: int | None = None
    tokens: bool = True
    precision: str = "float16"
    prune: bool = False
    dry_run: bool = False
    part_rows: int = 1024
    ann_min_rows: int = ANN_MIN_ROWS
    keep: int | None = None
    segment_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size", "part_rows", "segment_rows"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(value, name))
        if self.keep is not None:
            object.__setattr__(self, "keep", whole_number(self.keep, "keep", most=MOST_KEPT))
        object.__setattr__(self, "ann_min_rows", whole_number(self.ann_min_rows, "ann_min_rows", least=0))


def build_index(
    images: str | Path | Iterable[ImageFile | str | Path],
    out: str | Path,
    encoder: GalleryEncoder,
    *,
    options: BuildOptions | None = None,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> BuildReport:
    """Build an index of images, or bring one up to date.

    Files are compared by the SHA-256 of their bytes: a content that the index holds is never encoded again, whatever
    its name. A build that is killed is resumed by the next one. Unreadable images are skipped and listed in
    `skipped.jsonl`.

    Args:
        images: what to index: paths to scan, or a scan, whose unusable names are reported as skipped, or some images of
            one. Rows of other roots are left alone.
        out: the index folder; created, with its parents.
        encoder: the model.
        options: how to build.
        metadata: id -> column -> value to set; merged into what the index has, "" removes a value.
        progress: called with (images done, images in all).
        spread: what encodes, such as workers on other machines (`cir.cluster`); threads of this process if None.

    Raises:
        UsageError: duplicate ids, metadata that cannot be stored, no tokens wanted from a model that gives only tokens,
            an argument of another kind.
        DataError: no usable image for a new index, or the disk is full or refuses; what was published stays.
        IndexFormatError: `out` is not an index, or one of another version, or damaged.
        IndexLockedError: another process is writing to it.
        SpaceMismatchError: the index was made by another model.
        WeightsError: the encoder's output contradicts its card.
    """
    started = time.perf_counter()
    images, columns = as_images(images), {} if metadata is None else metadata
    folder = index_folder(path_of(out, "the path of an index"))
    options = instance(options or BuildOptions(), BuildOptions, "options", "write cir.BuildOptions(...)")
    check_request(images, encoder, columns)
    refuse_foreign(folder)
    scan = _Scan(images, options, progress)
    if options.dry_run:
        existing = _Existing.read(folder, encoder.card, options)
        scan.read(existing)
        plan = make_plan(scan.found, existing.rows, columns, options.prune)
        return _report(folder, existing.manifest, existing, plan, scan, time.perf_counter() - started)
    fresh = not folder.root.exists()
    if fresh:
        choose_layout(folder, None, encoder.card, options.tokens)  # a refused request creates no folder
    make_folder(folder.root)
    with writing(folder) as writer:
        existing = _Existing.read(folder, encoder.card, options)
        remember_roots(image.root for image in images)
        if encoder.directory is not None:
            remember_model(encoder.card.digest, encoder.directory.resolve())
        encoded: Parts | Made
        if spread or options.segment_rows:
            encoded = scan.spread(folder, existing, spread or InProcess(encoder, options.workers), columns)
        else:
            forget_segments(folder)
            encoded = Parts(folder.work, existing.layout, options.part_rows)
            scan.encode(existing, encoder, encoded)
        plan = make_plan(scan.found, existing.rows, columns, options.prune)
        if existing.manifest is None and not plan.rows:
            remove_tree(folder.work)
            remove_tree(folder.lock)
            if fresh:
                with suppress(OSError):
                    folder.root.rmdir()
            raise DataError(f"none of the {len(images)} images can be used; the first: {plan.skipped[0].reason}")
        write_skipped(folder, plan.skipped)
        manifest = _publish_plan(writer, scan, encoder, existing, plan, encoded)
        build_derived(folder, manifest, options.ann_min_rows, encoder)
        forget_segments(folder)
        remove_tree(folder.work)
    if isinstance(encoded, Parts):
        scan.resumed = sum(row.digest in encoded.resumed and row.digest not in existing.rows for row in plan.rows)
    return _report(folder, manifest, existing, plan, scan, time.perf_counter() - started)


@dataclass(frozen=True)
class _Existing:
    """An index before the build: its generation, if any, the layout of new rows, and its live rows."""

    manifest: Manifest | None
    layout: Layout
    rows: StoredRows

    @classmethod
    def read(cls, folder: IndexFolder, card: ModelCard, options: BuildOptions) -> _Existing:
        manifest = read_manifest(folder) if is_index(folder.root) else None
        layout = choose_layout(folder, manifest, card, options.tokens, options.precision)
        return cls(manifest, layout, StoredRows(folder, manifest))


@dataclass
class _Scan:
    """One pass over all images, and what it found."""

    images: Sequence[ImageFile]
    options: BuildOptions
    progress: Progress | None
    found: Found = field(default_factory=Found)
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    resumed: int = 0

    def encode(self, existing: _Existing, encoder: GalleryEncoder, parts: Parts) -> None:
        """Read all images, and encode into `parts` what neither the index nor the parts hold."""
        try:
            self._run(existing, encoder, parts)
        finally:
            parts.flush()  # also when the user interrupts: what is encoded is kept

    def spread(self, folder: IndexFolder, existing: _Existing, spread: Spread, metadata: Metadata) -> Made:
        """Have all images read and encoded in segments, but for what the index holds."""
        self.found.unusable = self.images.unusable if isinstance(self.images, Scan) else ()
        images = sorted(self.images, key=lambda image: image.id)
        stored = existing.rows.find([image.id for image in images])
        rows = self.options.segment_rows or usual_rows(len(images), existing.layout)

        def columns(image: RootedPhoto) -> Mapping[str, str]:
            old = stored.get(image.id)
            return merged(old.metadata if old else {}, metadata.get(image.id, {}))

        cut = Cut(existing.layout, rows, self.options.batch_size, KnownDigests.of(existing.rows))
        by_id = {image.id: image for image in images}

        def note(task: SegmentTask, result: SegmentResult) -> None:
            of = [by_id[photo.id] for photo in task.photos]
            self.found.files += [(of[number], digest) for number, digest in result.digests.items()]
            self.found.unreadable += [(of[number], reason) for number, reason in result.unreadable.items()]
            self.found.undecodable |= result.undecodable
            self.decode_seconds += result.decode_seconds
            self.encode_seconds += result.encode_seconds
            self.resumed += len(result.encoded) if result.resumed else 0
            if self.progress:
                self.progress(len(self.found.files) + len(self.found.unreadable), len(self.images))

        return make_segments(folder, images, columns, file_identity(), spread, cut, note)

    def read(self, existing: _Existing) -> None:
        """Read all images and encode nothing."""
        self._run(existing, None, None)

    def _run(self, existing: _Existing, encoder: GalleryEncoder | None, parts: Parts | None) -> None:
        self.found.unusable = self.images.unusable if isinstance(self.images, Scan) else ()
        registry = DigestRegistry(parts.resumed if parts else (), existing.rows)
        batches = encode_photos(
            self.images,
            encoder,
            existing.layout,
            registry,
            workers=self.options.workers,
            batch_size=self.options.batch_size or BATCH,
        )
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
    writer: Writer, scan: _Scan, encoder: GalleryEncoder, existing: _Existing, plan: Plan, encoded: Parts | Made
) -> Manifest:
    """Publish the next generation; without changes the old one stays."""
    old = existing.manifest or Manifest.empty(encoder.card)
    changed = plan.rows or plan.tombstones or scan.options.keep not in (None, old.keep)
    if existing.manifest is not None and not changed:
        return existing.manifest

    def find(digest: bytes) -> tuple[Segment, int]:
        stored = existing.rows.holding(digest)
        return (stored.segment.segment, stored.row) if stored else encoded.find(digest)

    made, unwanted, rows = encoded.entries(plan.rows) if isinstance(encoded, Made) else ([], {}, plan.rows)
    added = write_rows(writer.folder, existing.rows, rows, find, plan.tombstones)
    added = Added((*made, *added.entries), added.absorbed)
    roots = [image.root for image in scan.images]
    manifest = next_manifest(old, encoder.card, added, plan.tombstones, roots=roots, keep=scan.options.keep)
    return writer.publish(manifest.succeed(deleted=manifest.without(unwanted)) if unwanted else manifest)


def _report(
    folder: IndexFolder, manifest: Manifest | None, existing: _Existing, plan: Plan, scan: _Scan, seconds: float
) -> BuildReport:
    # What workers have written into a store need not be here.
    entries = manifest.segments if manifest else ()
    used = sum(size_of(folder.gallery(entry.name).parent) or entry.files[GALLERY].bytes for entry in entries)
    rows = manifest.rows if manifest else 0
    return BuildReport(
        path=place_of(folder),
        generation=manifest.generation if manifest else 0,
        added=plan.added,
        unchanged=plan.unchanged,
        updated=plan.updated,
        renamed=plan.renamed,
        missing=plan.missing,
        skipped=[(image.id, image.reason) for image in plan.skipped],
        unmatched=plan.unmatched,
        total=len(existing.rows) + len(plan.rows) - len(plan.tombstones),
        resumed=scan.resumed,
        seconds=seconds,
        images_per_second=len(scan.images) / seconds,
        bytes_per_image=used / rows if rows else 0.0,
        decode_seconds=scan.decode_seconds,
        encode_seconds=scan.encode_seconds,
        dry_run=scan.options.dry_run,
    )
