"""Checking an index from end to end: every digest, count, norm and number."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress, pairwise
from pathlib import Path

import numpy as np

from cir.arrays import Stored, unit_norm_mask
from cir.errors import CirError, IndexVersionError
from cir.files import is_temporary
from cir.indexer.reading.ann import FILE as ANN
from cir.indexer.reading.token_codes import FILE as CODES
from cir.indexer.storage.derived import problem_of, record_of
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import GALLERY, MARKS, IndexFolder, way_out
from cir.indexer.storage.generations import open_segment, read_earlier, read_manifest
from cir.indexer.storage.manifest import Manifest, SegmentEntry
from cir.indexer.storage.mappings import MAPPED, origins_of, read_mapping
from cir.indexer.storage.marks import check_marks
from cir.indexer.storage.mirror import MirrorFolder, files_of
from cir.indexer.storage.questions import check_questions
from cir.indexer.storage.segment import Segment

# What no answer depends on: hints, reports, and the unpublished.
NOT_CHECKED = ("skipped.jsonl", "retrieved.log", "backfill.json", "quarantine/", "work/", "LOCK")
_STEP_FLOATS = 4 * 1024 * 1024


class _Check:
    """One pass over an index, and the problems it finds: one line each, whatever is wrong.

    Attributes:
        problems: one line each.
    """

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self.problems: list[str] = []
        self._segments: dict[str, Segment] = {}  # by name; several generations share them
        self._seen: set[str] = set()  # mappings, likewise
        self._mappings: set[str] = set()  # names of all

    @contextmanager
    def of(self, path: object) -> Iterator[None]:
        """A check that may fail in any way, as a decoder of damaged files may; each failure is a problem."""
        try:
            yield
        except IndexVersionError:
            raise
        except CirError as error:
            self.problems.append(str(error))
        except Exception as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self.problems.append(f"{path}: cannot be checked: {reason}; {way_out(self._folder)}")

    def generations(self, manifests: Sequence[Manifest]) -> None:
        """Everything that generations name."""
        self._mappings = {mapping.name for manifest in manifests for mapping in manifest.mappings.values()}
        for manifest in manifests:
            self._generation(manifest)

    def _generation(self, manifest: Manifest) -> None:
        ids: Counter[str] = Counter()
        for entry in manifest.segments:
            with self.of(self._folder.gallery(entry.name)):
                segment = self._segment(entry)
                ids.update(compress(segment.ids, manifest.live_rows(entry).tolist()))
        twice = {image_id: count for image_id, count in ids.items() if count > 1}
        for image_id, count in list(twice.items())[:10]:
            self.problems.append(f"generation {manifest.generation}: {count} live rows have the id {image_id!r}")
        for mapping in manifest.mappings.values():
            if mapping.name not in self._seen:
                self._seen.add(mapping.name)
                with self.of(self._folder.mappings / mapping.name):
                    read_mapping(self._folder, mapping)

    def _segment(self, entry: SegmentEntry) -> Segment:
        segment = self._segments.get(entry.name)
        if segment is None:
            segment = self._segments[entry.name] = open_segment(self._folder, entry, reread=True)
            for column in (segment.ids, segment.roots, *segment.metadata.values()):
                with self.of(segment.path):
                    column.check()
            with self.of(segment.path):
                self.problems += _checked_order(segment)
            for name, stored in (("vectors", segment.vectors), ("tokens", segment.tokens)):
                if stored is not None:
                    self.problems += _checked_norms(f"{segment.path}: {name}", stored, segment)
            for path, problem in derived_problems(self._folder, entry, self._mappings):
                self.problems.append(f"{problem}; remove {path}: it is made again")
        return segment


def derived_problems(folder: IndexFolder, entry: SegmentEntry, mappings: Collection[str]) -> Iterator[tuple[Path, str]]:
    """The derived files of a segment that are damaged, with reasons. A reader makes them again.

    A file without its record, or a record without its file, is a lost one: a writer was killed between the two.

    Args:
        folder: the index.
        entry: the segment.
        mappings: names of the mappings of all generations.
    """
    for path, origins in _derived(folder.gallery(entry.name).parent, entry.files[GALLERY].sha256, mappings):
        if os.path.lexists(path) and os.path.lexists(record_of(path)):
            try:
                problem = problem_of(path, origins, reread=True)
            except OSError as error:
                problem = f"{path} cannot be read: {error.strerror or error}"
            if problem:
                yield path, problem


def _derived(folder: Path, gallery_sha256: str, mappings: Collection[str]) -> Iterator[tuple[Path, Collection[str]]]:
    """Where derived files of a segment are, and what each may have been made from."""
    origins = origins_of(gallery_sha256, mappings)
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield place / MAPPED, origins
        yield place / ANN, origins.values()
    for name in (ANN, CODES):
        yield folder / name, [gallery_sha256]


def verify(path: str | Path) -> list[str]:
    """Check all generations of an index; reads every byte of them, and of what belongs to them.

    Returns:
        One line per problem; none for a sound index. `NOT_CHECKED` and `unnamed` tell what is not looked at.

    Raises:
        IndexFormatError: there is no index at this path; IndexVersionError: another version wrote it.
        StoreError: the object store that it is in cannot be reached.
    """
    folder = index_folder(path, earlier=True)
    check = _Check(folder)
    live = None
    if folder.current.exists():
        with check.of(folder.current):
            live = read_manifest(folder)
    else:
        read_manifest(folder)  # says what is there instead
    generations = [] if live is None else [live]
    for entry in live.earlier if live else ():
        with check.of(folder.manifest(entry.generation)):
            generations.append(read_earlier(folder, entry))
    check.generations(generations)
    check.problems += _check_store(folder, generations)
    with check.of(folder.questions):
        check.problems += check_questions(folder)
    with check.of(folder.root / MARKS):
        check.problems += check_marks(folder)
    return list(dict.fromkeys(check.problems))


def _check_store(folder: IndexFolder, generations: Sequence[Manifest]) -> list[str]:
    """What is wrong with the files of an index in a store, whatever the copies are like that are on this machine."""
    if not isinstance(folder, MirrorFolder):
        return []
    problems = []
    files = {key: entry for manifest in generations for key, _, entry in files_of(folder, manifest)}
    for key, entry in sorted(files.items()):
        digest = folder.store.sha256(key)
        if digest != entry.sha256:
            wrong = "is missing" if digest is None else "contradicts its digest"
            problems.append(f"{folder}/{key} {wrong}; restore it from a copy")
    return problems


def unnamed(path: str | Path) -> list[str]:
    """Files and folders of an index that nothing in it names: of people, or of killed writers, which the next removes.

    Raises IndexFormatError where `verify` does.
    """
    folder = index_folder(path, segments=False)
    live = read_manifest(folder)
    known = {folder.root / name.rstrip("/") for name in NOT_CHECKED} | {folder.current, folder.questions}
    known |= {folder.root / MARKS, folder.manifests, folder.segments, folder.mappings}
    manifests = [live]
    for entry in live.earlier:
        known.add(folder.manifest(entry.generation))
        try:
            manifests.append(read_earlier(folder, entry))
        except CirError:
            continue
    known.add(folder.manifest(live.generation))
    for manifest in manifests:
        known |= {folder.gallery(entry.name).parent for entry in manifest.segments}
        known |= {folder.mappings / name for mapping in manifest.mappings.values() for name in mapping.files}
    places = (folder.root, folder.manifests, folder.segments, folder.mappings)
    found = {item for place in places if place.is_dir() for item in place.iterdir()}
    return sorted(str(item.relative_to(folder.root)) for item in found - known if not is_temporary(item.name))


def _checked_order(segment: Segment) -> list[str]:
    """Rows are found by binary search over the ids."""
    for row, (one, following) in enumerate(pairwise(segment.ids)):
        if one >= following:
            return [
                f"{segment.path}: ids do not ascend, {json.dumps(following)} in row {row + 1:,} follows "
                f"{json.dumps(one)}; restore the file from a copy"
            ]
    return []


def _checked_norms(what: str, stored: Stored, segment: Segment) -> list[str]:
    bad: list[str] = []
    step = max(1, _STEP_FLOATS // max(1, int(np.prod(stored.shape[1:]))))
    for start in range(0, len(stored), step):
        block = stored[start : start + step]
        wrong = ~unit_norm_mask(block).reshape(len(block), -1).all(axis=1)
        bad += [segment.ids[start + int(row)] for row in np.flatnonzero(wrong)]
    return [f"{what} of {len(bad)} images are not of unit length, first {json.dumps(bad[0])}"] if bad else []
