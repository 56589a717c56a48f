"""Importing vectors that other programs have made: rows without photos, in the space of the model that is named."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Mask, Rows, Stored, has_direction, norms_of
from cir.data.vector_files import VectorTable, read_table
from cir.errors import DataError, SpaceMismatchError, UsageError
from cir.files import make_folder, remove_tree
from cir.given import MOST_KEPT, instance, kind, path_of, whole_number
from cir.given import shown as described
from cir.images.names import shown
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import IndexFolder, is_index
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import place_of
from cir.indexer.storage.segment import Layout, Segment
from cir.indexer.storage.writer import Writer, remove_unreachable, writing
from cir.indexer.writing.assemble import Added, build_derived, clean_work, next_manifest, write_sources
from cir.indexer.writing.merging import NewRows
from cir.indexer.writing.plan import NewRow, Skipped
from cir.indexer.writing.preconditions import refuse_foreign
from cir.indexer.writing.report import ImportReport, write_skipped
from cir.indexer.writing.stored_rows import StoredRow, StoredRows
from cir.known import remember_model
from cir.types import GalleryEncoder, ModelCard, Progress

_BLOCK_FLOATS = 1024 * 1024  # in double precision
# What rounding to float32 and to float16 moves a norm by at most. Such vectors are stored as they are, so that those of
# another index keep their bits.
_UNIT, _UNIT_FLOAT16 = 1e-6, 1e-3
_ADVICE = "give a model of cir.load_model(name), or cir.ModelCard.named(name, dims) for one that cir does not have"


@dataclass(frozen=True)
class ImportOptions:
    """How to import.

    Attributes:
        id_column: the column of ids, in a parquet file and in a table of metadata.
        vector_column: the column of vectors, in a parquet file.
        precision: how a new index stores numbers, "float16" or "float32"; others stay as they are.
        keep, ann_min_rows: as in `BuildOptions`.

    Raises:
        UsageError: a number below 1, or another precision.
    """

    id_column: str = "id"
    vector_column: str = "vector"
    precision: str = "float16"
    keep: int | None = None
    ann_min_rows: int = ANN_MIN_ROWS

    def __post_init__(self) -> None:
        if self.precision not in ("float16", "float32"):
            raise UsageError(f"precision is {described(self.precision)}; write 'float16' or 'float32'")
        if self.keep is not None:
            object.__setattr__(self, "keep", whole_number(self.keep, "keep", most=MOST_KEPT))
        object.__setattr__(self, "ann_min_rows", whole_number(self.ann_min_rows, "ann_min_rows", least=0))


def import_vectors(
    vectors: Any,
    out: str | Path,
    model: ModelCard | GalleryEncoder,
    *,
    ids: Any = None,
    metadata: Any = None,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Make an index of vectors without photos, or add them to one that the same model serves.

    Vectors are normalised to unit length where they are not. Those that are zero or not finite are skipped, and listed
    in `skipped.jsonl`. An id that the index holds is updated if its vector has changed. Nothing is held in memory but
    ids and metadata.

    Args:
        vectors: (N, D) float16, float32 or float64, an array or the path of a `.npy` file; or of a `.parquet` file,
            which has columns for id, vector and metadata.
        out: the index folder; created, with its parents.
        model: what made the vectors: a loaded model, its card, or `ModelCard.named(name, dims)` for one that cir does
            not have; then the index answers no texts, only vectors and its own ids.
        ids: N ids, or the path of a file with one per line; not with parquet.
        metadata: id -> column -> value, or the path of a CSV table; merged into what the index has, "" removes a value.
        options: names of columns, precision.
        progress: called with (vectors read, vectors to read): each is read to be checked, and again to be written.

    Raises:
        DataError: files that cannot be read or do not fit each other or the model, ids that occur twice, no usable
            vector for a new index, or the disk is full or refuses; what was published stays.
        UsageError: an argument of another kind, or an index or model with tokens.
        IndexFormatError: `out` is not an index, or one of another version, or damaged.
        IndexLockedError: another process is writing to it.
        SpaceMismatchError: the index was made by another model.
        MissingDependencyError: a parquet file, and pyarrow is not installed.
    """
    started = time.perf_counter()
    folder = index_folder(path_of(out, "the path of an index"))
    options = instance(options or ImportOptions(), ImportOptions, "options", "write cir.ImportOptions(...)")
    card = model if isinstance(model, ModelCard) else getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise UsageError(f"model is {kind(model)}, {described(model)}; {_ADVICE}")
    refuse_foreign(folder)
    table = read_table(vectors, ids, metadata, id_column=options.id_column, vector_column=options.vector_column)
    if table.dims != card.dims:
        raise DataError(f"{table.name}: vectors of {table.dims:,} dims; those of {card.name} have {card.dims:,}")
    fresh = not folder.root.exists()
    if fresh:
        _layout(folder, None, card, options)  # a refused request creates no folder
    make_folder(folder.root)
    with writing(folder) as writer:
        manifest = read_manifest(folder) if is_index(folder.root) else None
        layout = _layout(folder, manifest, card, options)
        work = _Import(writer, table, layout, manifest or Manifest.empty(card), progress)
        report = ImportReport(
            place_of(folder), 0, card.name, rewritten=table.rewritten, unmatched=list(table.unmatched)
        )
        try:
            after = work.run(report, options)
        finally:
            if not is_index(folder.root):
                remove_unreachable(folder)  # while its parts show that the segment was never published
            remove_tree(work.scratch)
            clean_work(folder)
            if not is_index(folder.root):
                remove_tree(folder.lock)
                if fresh:
                    with suppress(OSError):
                        folder.root.rmdir()
        directory = getattr(model, "directory", None)
        if directory is not None:
            remember_model(card.digest, directory.resolve())
        build_derived(folder, after, options.ann_min_rows)
    report.seconds = time.perf_counter() - started
    return report


def _layout(folder: IndexFolder, manifest: Manifest | None, card: ModelCard, options: ImportOptions) -> Layout:
    """The layout of imported rows. Raises SpaceMismatchError or UsageError where they cannot join the others."""
    if manifest is not None and manifest.serving != card.digest:
        raise SpaceMismatchError(
            f"{folder} is served by {manifest.card.name} ({manifest.serving}), not by {card.name} ({card.digest}); "
            "vectors of two models are never compared: import these into another index"
        )
    if not card.vector:
        raise UsageError(f"{card.name} gives tokens, not one vector per image; vectors cannot be of that model")
    segments = list(manifest.segments) if manifest else []
    native = [entry for entry in segments if entry.space == card.space.id]
    if native and native[0].tokens:
        raise UsageError(
            f"{folder} holds {native[0].tokens} tokens for each image, which imported vectors do not have; import them "
            "into another index"
        )
    first = next(iter([*native, *segments]), None)
    precision = open_segment(folder, first).layout.precision if first else options.precision
    return Layout.of(card, tokens=False, precision=precision)


@dataclass
class _Import:
    """One import, while the index is held for writing."""

    writer: Writer
    table: VectorTable
    layout: Layout
    manifest: Manifest
    progress: Progress | None
    _written: int = 0

    @property
    def scratch(self) -> Path:
        """Folder of temporary files."""
        return self.writer.folder.work / "import"

    def run(self, report: ImportReport, options: ImportOptions) -> Manifest:
        """Publish the next generation, without changes none, and fill in the report."""
        folder, table = self.writer.folder, self.table
        make_folder(self.scratch)  # says until the end that a first generation is not finished
        array = table.open(self.scratch)
        norms, digests, problems = self._measure(array)
        stored = StoredRows(folder, self.manifest if self.manifest.generation else None)
        same_id = stored.find(table.ids)
        skipped = [Skipped(table.ids[row], reason, "") for row, reason in problems.items()]
        rows: list[NewRow] = []
        places: list[int] = []  # of the same rows in the array
        tombstones: list[StoredRow] = []
        for row in sorted(range(len(table.ids)), key=table.ids.__getitem__):
            image_id, digest = table.ids[row], digests[row].tobytes()
            if row in problems:
                continue
            old = same_id.get(image_id)
            same = old is not None and self._is_stored(old, digest)
            if old is not None and not same and old.root:
                reason = f"{shown(image_id)}: this id belongs to a photo of {old.root}, which the index encodes itself"
                skipped.append(Skipped(image_id, reason, ""))
                continue
            report.added += old is None
            report.unchanged += same
            report.updated += old is not None and not same
            report.normalised += bool(norms[row] != 1)
            given = table.metadata.get(image_id, {})
            if same and not given:
                continue
            before = old.metadata if old else {}
            merged = {name: value for name, value in {**before, **given}.items() if value}
            if old is None or not same or merged != before:
                new = NewRow(image_id, digest, "", merged)
                rows.append(replace(new, digest=old.digest, root=old.root) if old and old.root else new)
                places.append(row)
                tombstones += [old] if old else []
        skipped.sort(key=lambda each: each.id)
        report.skipped = [(each.id, each.reason) for each in skipped]
        if not self.manifest.generation and not rows:
            raise DataError(
                f"{table.name}: none of its {len(table.ids):,} vectors can be used; the first: {skipped[0].reason}"
            )
        write_skipped(folder, skipped)
        after = self.manifest
        if rows or options.keep not in (None, after.keep):
            source = _ImportedRows(rows, lambda inside: self._read(array, norms, np.array(places)[inside]))
            added = write_sources(folder, stored, [(self.layout, source)], tombstones) if rows else Added()
            after = self.writer.publish(next_manifest(after, after.card, added, tombstones, keep=options.keep))
        report.generation, report.total = after.generation, after.rows
        return after

    def _is_stored(self, old: StoredRow, digest: bytes) -> bool:
        """Whether a row holds the bytes of this digest, in this space."""
        vectors = old.segment.segment.vectors
        if old.segment.layout.space != self.layout.space or vectors is None:
            return False
        return (hashlib.sha256(vectors[old.row].tobytes()).digest() if old.root else old.digest) == digest

    def _measure(self, array: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.uint8], dict[int, str]]:
        """One pass over all vectors.

        Returns:
            (N,) what each is divided by, 1 for one that is stored as it is; (N, 32) SHA-256 of what is stored; and row
            -> reason of those that cannot be used.
        """
        norms, digests = np.ones(len(array)), np.zeros((len(array), 32), np.uint8)
        problems: dict[int, str] = {}
        step = max(1, _BLOCK_FLOATS // self.layout.dims)
        for start in range(0, len(array), step):
            rows = slice(start, min(start + step, len(array)))
            block = np.asarray(array[rows], np.float64)
            lengths = norms_of(block)
            for place in np.flatnonzero(~has_direction(lengths)).tolist():
                reason = _unusable(block[place])
                problems[start + place] = f"{shown(self.table.ids[start + place])}: its vector {reason}"
                lengths[place] = 1
            norms[rows] = np.where(_are_unit(block, lengths), 1.0, lengths)
            with np.errstate(over="ignore", invalid="ignore"):
                stored = self._stored(block, norms[rows])
            whole = b"".join(hashlib.sha256(vector.tobytes()).digest() for vector in stored)
            digests[rows] = np.frombuffer(whole, np.uint8).reshape(-1, 32)
            if self.progress:
                self.progress(rows.stop, 2 * len(array))
        return norms, digests, problems

    def _stored(self, block: NDArray[np.float64], norms: NDArray[np.float64]) -> Stored:
        """Rows as they are stored. Element by element, so that they do not depend on the block they are in."""
        stored: Stored = (block / norms[:, None]).astype(self.layout.precision)
        return stored

    def _read(self, array: NDArray[Any], norms: NDArray[np.float64], rows: Rows) -> Stored:
        """Some rows as they are stored."""
        self._written += len(rows)
        if self.progress:
            self.progress(len(array) + self._written, 2 * len(array))
        return self._stored(np.asarray(array[rows], np.float64), norms[rows])


def _are_unit(block: NDArray[np.float64], lengths: NDArray[np.float64]) -> Mask:
    """Which vectors are of unit length as far as their precision goes: float16 if it holds all their numbers."""
    off = np.abs(lengths - 1)
    near = np.flatnonzero((off > _UNIT) & (off <= _UNIT_FLOAT16))
    unit = off <= _UNIT
    unit[near] = (block[near].astype(np.float16) == block[near]).all(axis=1)
    return unit


def _unusable(vector: NDArray[np.float64]) -> str:
    """Why a vector has no direction."""
    if not np.isfinite(vector).all():
        return "has values that are not finite"
    return "is too short or too long to be normalised" if vector.any() else "is all zeros"


class _ImportedRows(NewRows):
    """New rows whose vectors lie in the imported file."""

    def __init__(self, rows: Sequence[NewRow], read: Callable[[Rows], Stored]) -> None:
        super().__init__(rows, dict[bytes, tuple[Segment, int]]().__getitem__)  # none is looked up by its content
        self._read = read

    def vectors(self, rows: Rows) -> Stored:
        """As `Source`."""
        return self._read(rows)
