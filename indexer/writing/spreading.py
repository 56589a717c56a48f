"""A build that is cut into segments by position, whoever makes them: the tasks, and what their results become.

The lock, the plan and the manifest stay with one process. What makes the segments is a `Spread`: this process, or
workers elsewhere (`cir.cluster`).
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from cir.errors import CorruptIndexError
from cir.files import make_folder, remove_tree, write_json
from cir.images import ImageFile
from cir.images.remote import open_archive
from cir.indexer.storage.folder import IndexFolder, is_index, planned_segments, record, records
from cir.indexer.storage.generations import last_segment, read_pointer
from cir.indexer.storage.manifest import SegmentEntry
from cir.indexer.storage.mirror import fetch_segment
from cir.indexer.storage.segment import Layout, Segment
from cir.indexer.storage.writer import remove_unreachable
from cir.indexer.writing.plan import NewRow
from cir.indexer.writing.segment_places import forget_records
from cir.indexer.writing.segment_tasks import (
    KnownDigests,
    Recipe,
    RootedPhoto,
    SegmentResult,
    SegmentTask,
    make_segment,
    read_plan,
    record_keys,
)
from cir.places import is_url
from cir.types import GalleryEncoder

BATCH = 32  # images per call of the encoder where nothing else is given
LEAST_ROWS, MOST_ROWS = 1024, 131_072
SHARES = 16  # a gallery between the two limits is cut into so many segments
_OPEN = 64  # segments at once; rows are read in nearly the order of writing
MOST_BYTES = 256 << 20  # of the vectors of a segment, which its worker holds in memory
Identity = Callable[[Any], object]  # of a photo: what changes when its content may have; JSON values


class Spread(Protocol):
    """What makes the segments of a build."""

    def batch_size(self, photos: Sequence[RootedPhoto], layout: Layout) -> int:
        """Images per call of the encoder, where the user has not said."""

    def make(self, tasks: Sequence[SegmentTask], recipe: Recipe) -> Iterator[SegmentResult]:
        """The results of tasks, in any order. Raises as `make_segment`."""


@dataclass(frozen=True)
class InProcess:
    """Makes segments here, one after the other.

    Attributes:
        encoder: the model.
        workers: threads that decode and encode; default one per core.
    """

    encoder: GalleryEncoder
    workers: int | None = None

    def batch_size(self, photos: Sequence[RootedPhoto], layout: Layout) -> int:
        """As `Spread`."""
        return BATCH

    def make(self, tasks: Sequence[SegmentTask], recipe: Recipe) -> Iterator[SegmentResult]:
        """As `Spread`."""
        return (make_segment(task, recipe, self.encoder, self.workers) for task in tasks)


@dataclass(frozen=True)
class Cut:
    """How photos are cut into segments, and encoded.

    Attributes:
        layout: of the segments.
        rows: photos for each.
        batch_size: images per call of the encoder; as measured, or as usual, if None.
        known: contents that need no encoding.
    """

    layout: Layout
    rows: int
    batch_size: int | None = None
    known: KnownDigests = field(default_factory=KnownDigests.of)


@dataclass(frozen=True)
class Made:
    """The segments of a build, made and not yet published.

    Attributes:
        folder: the index.
        pairs: each task with its result, by position.
    """

    folder: IndexFolder
    pairs: list[tuple[SegmentTask, SegmentResult]]
    _places: dict[bytes, tuple[SegmentEntry, int]] = field(default_factory=dict)
    _open: Callable[[Path], Segment] = field(default_factory=lambda: lru_cache(maxsize=_OPEN)(Segment))

    def entries(self, rows: Iterable[NewRow]) -> tuple[list[SegmentEntry], dict[str, list[int]], list[NewRow]]:
        """What is published of the segments as they are.

        A segment with rows for fewer than half of its photos is left out: the index holds the contents of the others,
        and segments of a few rows would make it slow.

        Args:
            rows: all rows that are wanted.

        Returns:
            The segments; by segment the rows that are not wanted; and the wanted rows that none of them holds.
        """
        wanted = {row.id: row for row in rows}
        entries: list[SegmentEntry] = []
        unwanted: dict[str, list[int]] = {}
        for task, result in self.pairs:
            if result.entry is None or 2 * result.entry.rows < len(task.photos):
                continue
            useless = []
            for place, number in enumerate(result.encoded):
                photo, row = task.photos[number], wanted.get(task.photos[number].id)
                if row and (row.digest, row.root) == (result.digests[number], photo.root):
                    del wanted[photo.id]
                else:
                    useless.append(place)
            if len(useless) < result.entry.rows:
                entries.append(result.entry)
                if useless:
                    unwanted[result.entry.name] = useless
        return entries, unwanted, list(wanted.values())

    def find(self, digest: bytes) -> tuple[Segment, int]:
        """The open segment and row that hold the vectors of a content. Raises KeyError."""
        if not self._places:
            for _, result in self.pairs:
                for place, number in enumerate(result.encoded):
                    if result.entry:
                        self._places[result.digests[number]] = result.entry, place
        entry, row = self._places[digest]
        return self._open(fetch_segment(self.folder, entry)), row


def make_segments(
    folder: IndexFolder,
    photos: Sequence[RootedPhoto],
    metadata: Callable[[RootedPhoto], Mapping[str, str]],
    identity: Identity,
    spread: Spread,
    cut: Cut,
    note: Callable[[SegmentTask, SegmentResult], None] = lambda task, result: None,
) -> Made:
    """Make the segments of some photos; what an earlier build has finished is found again.

    Args:
        folder: the index; the caller holds its lock.
        photos: to read, by ascending id.
        metadata: photo -> column -> value, as its row will have them.
        identity: photo -> what its record is compared by.
        spread: what makes them.
        cut: how the photos are cut and encoded.
        note: called with each task and its result, as they are there.

    Raises:
        As `make_segment`.
    """
    pointer = " ".join(map(str, read_pointer(folder))) if is_index(folder.root) else ""
    before = read_plan(folder)
    batch_size = cut.batch_size or before.get("batch_size") or spread.batch_size(photos, cut.layout)
    stated = [asdict(cut.layout), batch_size, pointer]
    runs = [photos[start : start + cut.rows] for start in range(0, len(photos), cut.rows)]
    described = [tuple(metadata(photo) for photo in run) for run in runs]
    keys = [
        _digest([*stated, [[photo.id, photo.root, identity(photo)] for photo in run], columns])
        for run, columns in zip(runs, described, strict=True)
    ]
    wanted = set(keys)
    names = {key: name for key, name in record_keys(folder) if key in wanted}
    _drop_others(folder, set(names.values()))
    first = 1 + last_segment(folder)
    missing = [key for key in keys if key not in names]
    names |= {key: f"{first + place:06d}" for place, key in enumerate(missing)}
    numbers = [int(name) for name in names.values()] or [first]
    make_folder(records(folder))
    build = uuid.uuid4().hex
    plan = {"first": min(numbers), "last": max(numbers), "batch_size": batch_size, "build": build}
    write_json(record(folder, "plan"), plan, indent=None)
    place = str(folder) if is_url(str(folder)) else str(folder.root.absolute())  # workers run in folders of their own
    recipe = Recipe(place, cut.layout, batch_size, cut.known, build)
    tasks = [
        SegmentTask(names[key], key, tuple(run), columns)
        for key, run, columns in zip(keys, runs, described, strict=True)
    ]
    by_key = {task.key: task for task in tasks}
    results: dict[str, SegmentResult] = {}
    for result in spread.make(tasks, recipe):
        results[result.key] = result
        note(by_key[result.key], result)
    return Made(folder, [(task, results[task.key]) for task in tasks])


def usual_rows(images: int, layout: Layout, least: int = LEAST_ROWS) -> int:
    """Photos for each segment where the user has not said.

    It depends on the gallery alone, and not on the workers: a build that goes on with fewer of them is cut alike.
    """
    affordable = max(1, MOST_BYTES // layout.row_bytes)
    return min(affordable, MOST_ROWS, max(least, -(-images // SHARES)))


def file_identity() -> Identity:
    """A function of an `ImageFile`: where its bytes are, with size and time of change of the file that holds them.

    Of a picture that is an object of its own in a store, it says only where that is: asking for each would take longer
    than reading them.
    """

    @lru_cache(maxsize=4096)
    def stamp(path: str) -> list[object] | None:
        try:
            if is_url(path):
                file, changes = open_archive(path, 0)
                file.close()
                return list(changes)
            state = os.stat(path)
        except (OSError, ValueError):
            return None
        return [state.st_size, state.st_mtime_ns]

    def of(image: ImageFile) -> object:
        alone = image.member is None and is_url(image.path)
        return [image.path, image.member, image.box, None if alone else stamp(image.path)]

    return of


def forget_segments(folder: IndexFolder) -> None:
    """Remove what an unfinished build has made, but for segments that were published."""
    forget_records(folder)
    _drop_others(folder, set())
    remove_tree(records(folder))


def _drop_others(folder: IndexFolder, kept: set[str]) -> None:
    """Remove the records of segments that are no longer wanted, and the segments themselves.

    Segments first: a killed first build is known by its plan, which names them.
    """
    for path in records(folder).glob("[0-9]*.json"):
        if path.stem not in kept:
            remove_tree(path)
    for number in planned_segments(folder):
        name = f"{number:06d}"
        if name not in kept and not is_index(folder.root):
            remove_tree(folder.segments / name)
    if is_index(folder.root):
        try:
            remove_unreachable(folder)
        except CorruptIndexError:  # said where the manifest is read
            return


def _digest(values: object) -> str:
    data = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()
