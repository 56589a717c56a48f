"""Repair of a damaged index: what is derived is made again, and what is lost is left out, listed and put aside.

A damaged segment is not corrected: nothing says which of its vectors are right. Its images come back from the segments
of earlier generations where those hold them with the same content; `cir build-index` encodes the others again.

Everything is published in one step, as a new generation. Before it, damaged files are linked into `quarantine/`, and
what is lost is written down; after it, they are removed from where they were. So an interrupted repair can be repeated.
"""

from __future__ import annotations

import json
import os
import shutil
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cir.errors import CorruptIndexError, IndexFormatError
from cir.files import disk_errors, make_folder, remove_temporaries, remove_tree, sync, write_atomically, write_bytes
from cir.given import path_of
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.derived import record_of
from cir.indexer.storage.folder import MARKS, QUARANTINE, IndexFolder, numbered, way_out
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.manifest import EarlierGeneration, Manifest, SegmentEntry, runs_of
from cir.indexer.storage.marks import keep_whole_marks
from cir.indexer.storage.mirror import on_disk
from cir.indexer.storage.segment import Segment
from cir.indexer.storage.writer import Writer, last_number, remove_unreachable
from cir.indexer.writing.assemble import build_derived
from cir.indexer.writing.diagnosis import Diagnosis, diagnose

LOST = "lost.jsonl"  # in quarantine/: images that were lost or restored, one per line


@dataclass(frozen=True)
class Lost:
    """Images of a damaged segment.

    Attributes:
        segment: its name.
        images: how many live images it held.
        restored: id -> the older segment that holds the same image.
        ids: ids of the others, as far as the damaged file still tells them.
        imported: how many of the others are vectors that were imported without a photo, as far as that is known.
    """

    segment: str
    images: int
    restored: dict[str, str]
    ids: tuple[str, ...]
    imported: int = 0

    @property
    def lost(self) -> int:
        """How many images are not restored."""
        return self.images - len(self.restored)


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did, or would do.

    Attributes:
        path: the index.
        dry_run: whether nothing was changed.
        base: the generation that the repair went on from.
        generation: the live generation afterwards; the one before where nothing had to be published.
        images: live images afterwards.
        problems: what was damaged, one line each.
        segments: what was lost and restored, by damaged segment.
        forgotten: earlier generations to which there is no way back any more.
        remade: derived files that were damaged and were made again; in a dry run all that are damaged.
        removed: the others of them, without which nothing is missing or which the first search makes again.
        aside: files in `quarantine/`.
    """

    path: Path
    dry_run: bool
    base: int
    generation: int
    images: int
    problems: tuple[str, ...] = ()
    segments: tuple[Lost, ...] = ()
    forgotten: tuple[int, ...] = ()
    remade: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """How many images are lost and must be encoded again."""
        return sum(segment.lost for segment in self.segments)

    @property
    def imported(self) -> int:
        """How many of those are vectors that must be imported again."""
        return sum(segment.imported for segment in self.segments)

    @property
    def restored(self) -> int:
        """How many images came back from older segments, with the metadata that they had there."""
        return sum(len(segment.restored) for segment in self.segments)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        counts = {"lost": self.lost, "restored": self.restored, "imported": self.imported}
        return {**asdict(self), "path": str(self.path), **counts}


def repair(index: str | Path, *, dry_run: bool = False, ann_min_rows: int = ANN_MIN_ROWS) -> RepairReport:
    """Make a damaged index whole again, without what is lost; a sound one stays as it is. Every byte is read.

    Args:
        index: the index folder.
        dry_run: only say what would be done.
        ann_min_rows: segments of at least this many vectors get an approximate index.

    Raises:
        IndexFormatError: there is no index; IndexVersionError: another version wrote it.
        CorruptIndexError: no manifest can be read, so nothing says what the segments hold.
        IndexLockedError: another process is writing to it.
        DataError: the disk is full or refuses; run it again.
    """
    folder = on_disk(path_of(index, "the path of an index"), "`cir repair`")
    if dry_run:
        found = diagnose(folder)
        return _report(found, _next(found), None)
    if not numbered(folder.manifests, ".json"):
        read_manifest(folder)  # says what is there instead, before the lock creates a file in it
    with writer_lock(folder) as lock:
        remove_temporaries(folder.root)
        _remove_unpublished(folder)
        found = diagnose(folder)
        plan = _next(found)
        aside = _put_aside(found)
        manifest = found.base
        if found.needs_generation:
            _write_lost(folder, plan)
            manifest = Writer(folder, lock).publish(plan.manifest, earlier=plan.earlier)
        remove_unreachable(folder)  # also what a repair has left that was killed here
        if found.questions:
            remove_tree(folder.questions)
        if found.marks:
            keep_whole_marks(folder)
        for path in found.derived:
            remove_tree(path)
            remove_tree(record_of(path))
        build_derived(folder, manifest, ann_min_rows)
        if found.derived:
            Gallery.open(folder.root, ann_min_rows=ann_min_rows)  # maps vectors again
    return _report(found, plan, manifest, aside)


@dataclass
class _Plan:
    """The next generation, and what becomes of the images of damaged segments."""

    manifest: Manifest
    earlier: list[EarlierGeneration]
    lost: list[Lost] = field(default_factory=list)


def _next(found: Diagnosis) -> _Plan:
    base = found.base
    lost = [_lost(found, entry) for entry in found.damaged]
    wanted: dict[str, list[int]] = {}  # rows to count again, by segment
    for each in lost:
        for image_id, name in each.restored.items():
            wanted.setdefault(name, []).append(bisect_left(found.sound[name].ids, image_id))
    present = [entry for entry in base.segments if entry.name not in found.segments]
    names = {entry.name for entry in present}
    added = [entry for entry in found.sources if entry.name in wanted and entry.name not in names]
    deleted = {name: runs for name, runs in base.deleted.items() if name in names}
    for entry in (*present, *added):
        if entry.name in wanted:
            live = base.live_rows(entry) if entry.name in names else np.zeros(entry.rows, np.bool_)
            live[wanted[entry.name]] = True
            deleted[entry.name] = runs_of(np.flatnonzero(~live))
    mappings = {space: mapping for space, mapping in base.mappings.items() if space not in found.mappings}
    manifest = base.succeed(segments=[*added, *present], mappings=mappings, deleted=deleted)
    earlier = list(found.earlier)
    if not found.damaged and not found.mappings:
        earlier.insert(0, EarlierGeneration(base.generation, found.base_sha256, base.serving))
    return _Plan(manifest, earlier, lost)


def _lost(found: Diagnosis, entry: SegmentEntry) -> Lost:
    """What becomes of the images of a damaged segment."""
    images = int(found.base.live_rows(entry).sum())
    told = _told(found, entry)
    live = {each.name: found.base.live_rows(each) for each in found.base.segments}
    sources = [*reversed(found.base.segments), *found.sources]
    usable = [
        each
        for each in sources
        if each.name in found.sound
        and (each.space == entry.space or each.space in found.base.mappings.keys() - found.mappings.keys())
    ]
    restored: dict[str, str] = {}
    gone: list[str] = []
    imported = 0
    for image_id, (digest, root) in told.items():
        for each in usable:
            segment = found.sound[each.name]
            row = bisect_left(segment.ids, image_id)
            same = row < len(segment) and segment.ids[row] == image_id and segment.digests[row].tobytes() == digest
            if same and not (each.name in live and live[each.name][row]):
                restored[image_id] = each.name
                break
        else:
            gone.append(image_id)
            imported += root == ""
    if not found.base.roots:  # no photo was ever indexed
        imported = images - len(restored)
    return Lost(entry.name, images, restored, tuple(gone), imported)


def _told(found: Diagnosis, entry: SegmentEntry) -> dict[str, tuple[bytes, str]]:
    """Id -> digest and root of the live images that a damaged segment still tells; they may be damaged too."""
    try:
        segment = Segment(found.folder.gallery(entry.name))
    except CorruptIndexError:
        return {}
    told: dict[str, tuple[bytes, str]] = {}
    for row in np.flatnonzero(found.base.live_rows(entry)).tolist():
        try:
            told[segment.ids[row]] = segment.digests[row].tobytes(), segment.roots[row]
        except (ValueError, IndexError):  # not text, or not in the file
            continue
    return told


def _remove_unpublished(folder: IndexFolder) -> None:
    """Remove manifests after the live one, if that is sound: their writer died before it published them.

    So a repair that was killed there does the same again, under the same number.
    """
    with suppress(IndexFormatError):
        live = read_manifest(folder).generation
        for path in numbered(folder.manifests, ".json"):
            if int(path.stem) > live:
                remove_tree(path)


def _put_aside(found: Diagnosis) -> list[str]:
    """Link damaged files into `quarantine/`; returns their names there."""
    folder = found.folder
    number = 1 + last_number(folder)
    files = {f"segment-{name}.h5": folder.gallery(name) for name in found.segments}
    generations = (int(path.stem) for path in numbered(folder.manifests, ".json"))
    lost = [generation for generation in generations if found.lost and generation > found.base.generation]
    files |= {f"manifest-{number}.json": folder.manifest(number) for number in (*lost, *found.forgotten)}
    if found.lost:
        files["CURRENT"] = folder.current
    for space in found.mappings:
        files |= {name: folder.mappings / name for name in found.base.mappings[space].files}
    if found.questions:
        files[folder.questions.name] = folder.questions
    if found.marks:
        files[MARKS] = folder.root / MARKS
    aside = []
    for name, path in files.items():
        if path.is_file() and not path.is_symlink():
            aside.append(f"{number:06d}-{name}")
            _link(path, folder.root / QUARANTINE / aside[-1])
    if aside:
        sync(folder.root / QUARANTINE)
    return aside


def _link(path: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk knows no links."""
    make_folder(target.parent)
    if target.exists():  # of an interrupted repair
        return
    try:
        os.link(path, target)
    except OSError:
        with write_atomically(target, path.stat().st_size) as temporary, disk_errors(target):
            shutil.copyfile(path, temporary)


def _write_lost(folder: IndexFolder, plan: _Plan) -> None:
    """Add to `lost.jsonl` what is lost and what is restored. A repair that runs again replaces its lines."""
    generation = 1 + last_number(folder)
    lines = [json.dumps({"generation": generation, **line}) for each in plan.lost for line in _lines(each)]
    if not lines:
        return
    path = folder.root / QUARANTINE / LOST
    before = path.read_text("utf-8").splitlines() if path.is_file() else []
    own = json.dumps({"generation": generation})[:-1] + ","
    kept = [line for line in before if not line.startswith(own)]
    write_bytes(path, "".join(line + "\n" for line in [*kept, *lines]).encode())


def _lines(lost: Lost) -> Iterator[dict[str, object]]:
    unknown = lost.lost - len(lost.ids)
    if unknown:
        yield {"segment": lost.segment, "images": unknown, "id": None, "restored_from": None}
    for image_id in lost.ids:
        yield {"segment": lost.segment, "id": image_id, "restored_from": None}
    for image_id, name in lost.restored.items():
        yield {"segment": lost.segment, "id": image_id, "restored_from": name}


def _report(found: Diagnosis, plan: _Plan, manifest: Manifest | None, aside: list[str] | None = None) -> RepairReport:
    problems = [found.lost] if found.lost else []
    problems += [found.segments[each.segment] for each in plan.lost]
    problems += [*found.mappings.values(), *found.forgotten.values(), *found.derived.values()]
    problems += filter(None, [found.questions, found.marks])
    root, dry = found.folder.root, manifest is None
    derived = {str(path.relative_to(root)): dry or path.exists() for path in found.derived}
    advice = f"; {way_out(found.folder)}"  # which is what is being done
    return RepairReport(
        path=root,
        dry_run=dry,
        base=found.base.generation,
        generation=found.base.generation if manifest is None else manifest.generation,
        images=plan.manifest.rows,
        problems=tuple(dict.fromkeys(problem.replace(advice, "") for problem in problems)),
        segments=tuple(plan.lost),
        forgotten=tuple(sorted(found.forgotten)),
        remade=tuple(name for name, there in derived.items() if there),
        removed=tuple(name for name, there in derived.items() if not there),
        aside=tuple(f"{QUARANTINE}/{name}" for name in aside or ()),
    )
