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
from cir.files import is_temporary, sha256_file
from cir.indexer.reading.ann import FILE as ANN
from cir.indexer.reading.token_codes import FILE as CODES
from cir.indexer.storage.derived import problem_of, record_of
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import open_segment, read_earlier, read_manifest
from cir.indexer.storage.manifest import Manifest, SegmentEntry
from cir.indexer.storage.mappings import MAPPED, origins_of, read_mapping
from cir.indexer.storage.questions import check_questions
from cir.indexer.storage.segment import Segment

# What no answer depends on: hints, reports, and the unpublished.
NOT_CHECKED = ("skipped.jsonl", "retrieved.log", "backfill.json", "work/", "LOCK")
_STEP_FLOATS = 4 * 1024 * 1024


class _Check:
    """One pass over an index, and the problems it finds: one line each, whatever is wrong.

    Attributes:
        problems: one line each.
    """

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self.problems: list[str] = []
        self._seen: set[str] = set()  # segments and mappings that several generations share
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
            self.problems.append(f"{path}: cannot be checked: {reason}; restore it from a copy")

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
        segment = open_segment(self._folder, entry)
        if entry.name not in self._seen:
            self._seen.add(entry.name)
            if sha256_file(segment.path) != entry.files[GALLERY].sha256:
                self.problems.append(f"{segment.path} contradicts its digest; restore it from a copy")
            for column in (segment.ids, segment.roots, *segment.metadata.values()):
                with self.of(segment.path):
                    column.check()
            with self.of(segment.path):
                self.problems += _checked_order(segment)
            for name, stored in (("vectors", segment.vectors), ("tokens", segment.tokens)):
                if stored is not None:
                    self.problems += _checked_norms(f"{segment.path}: {name}", stored, segment)
            self._derived(segment.path.parent, entry.files[GALLERY].sha256)
        return segment

    def _derived(self, folder: Path, gallery_sha256: str) -> None:
        """Files that a reader makes again when they are lost or stale; a damaged one is a problem nevertheless.

        A file without its record, or a record without its file, is a lost one: a writer was killed between the two.
        """
        origins = origins_of(gallery_sha256, self._mappings)
        for place in sorted(path for path in folder.iterdir() if path.is_dir()):
            self._check_derived(place / MAPPED, origins)
            self._check_derived(place / ANN, origins.values())
        for name in (ANN, CODES):
            self._check_derived(folder / name, [gallery_sha256])

    def _check_derived(self, path: Path, origins: Collection[str]) -> None:
        if os.path.lexists(path) and os.path.lexists(record_of(path)):
            with self.of(path):
                problem = problem_of(path, origins, reread=True)
                if problem:
                    self.problems.append(f"{problem}; remove {path}: it is made again")


def verify(path: str | Path) -> list[str]:
    """Check all generations of an index; reads every byte of them, and of what belongs to them.

    Returns:
        One line per problem; none for a sound index. `NOT_CHECKED` and `unnamed` tell what is not looked at.

    Raises:
        IndexFormatError: there is no index at this path; IndexVersionError: another version wrote it.
    """
    folder = IndexFolder(Path(path))
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
    with check.of(folder.questions):
        problems = check_questions(folder)
        check.problems += problems
    return list(dict.fromkeys(check.problems))


def unnamed(path: str | Path) -> list[str]:
    """Files and folders of an index that nothing in it names: of people, or of killed writers, which the next removes.

    Raises IndexFormatError where `verify` does.
    """
    folder = IndexFolder(Path(path))
    live = read_manifest(folder)
    known = {folder.root / name.rstrip("/") for name in NOT_CHECKED} | {folder.current, folder.questions}
    known |= {folder.manifests, folder.segments, folder.mappings}
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
