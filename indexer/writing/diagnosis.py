"""What is damaged in an index, and what is left to go on from. Reads every byte; never writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cir.errors import CorruptIndexError, DataError, IndexFormatError, IndexVersionError
from cir.files import sha256_bytes
from cir.indexer.reading.verify import derived_problems
from cir.indexer.storage.folder import IndexFolder, numbered, read_file
from cir.indexer.storage.generations import (
    open_segment,
    parse_manifest,
    read_earlier,
    read_manifest,
    read_pointer,
)
from cir.indexer.storage.manifest import EarlierGeneration, Manifest, SegmentEntry
from cir.indexer.storage.mappings import read_mapping
from cir.indexer.storage.marks import check_marks
from cir.indexer.storage.questions import check_questions
from cir.indexer.storage.segment import Segment


@dataclass
class Diagnosis:
    """What is damaged in an index.

    Attributes:
        folder: the index.
        base: the generation to go on from: the live one, or the newest sound one where that is lost.
        base_sha256: SHA-256 of its manifest.
        lost: why the live generation is lost; empty if it is not.
        sound: the sound segments by name, those of earlier generations too.
        segments: reasons, by name, of the damaged segments of any generation.
        mappings: reasons, by space, of the damaged mappings of `base`.
        earlier: the sound generations before `base`, newest first.
        sources: the segments of earlier generations, sound or not, that `base` does not name; newest first.
        forgotten: reasons, by number, of earlier generations that cannot be restored.
        derived: damaged files that are made again -> reason.
        questions, marks: what is wrong with the judged queries, and with the marks; empty for nothing.
    """

    folder: IndexFolder
    base: Manifest
    base_sha256: str
    lost: str = ""
    sound: dict[str, Segment] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)
    mappings: dict[str, str] = field(default_factory=dict)
    earlier: list[EarlierGeneration] = field(default_factory=list)
    sources: list[SegmentEntry] = field(default_factory=list)
    forgotten: dict[int, str] = field(default_factory=dict)
    derived: dict[Path, str] = field(default_factory=dict)
    questions: str = ""
    marks: str = ""

    @property
    def damaged(self) -> list[SegmentEntry]:
        """The damaged segments of `base`."""
        return [entry for entry in self.base.segments if entry.name in self.segments]

    @property
    def needs_generation(self) -> bool:
        """Whether something is damaged that a generation names."""
        return bool(self.lost or self.damaged or self.mappings or self.forgotten)


def diagnose(folder: IndexFolder) -> Diagnosis:
    """Look at everything that an index holds.

    Raises:
        IndexFormatError: there is no index; IndexVersionError: another version wrote it.
        CorruptIndexError: no manifest can be read, so nothing says what the segments hold.
    """
    sound: dict[str, Segment] = {}
    damaged: dict[str, str] = {}
    check = partial(_check_segment, folder, sound, damaged)
    try:
        pointer = read_pointer(folder)
        found = Diagnosis(folder, read_manifest(folder, pointer), pointer[1])
    except IndexVersionError:
        raise
    except IndexFormatError as error:
        if not numbered(folder.manifests, ".json"):
            raise
        base, sha256 = _newest_sound(folder, check)
        found = Diagnosis(folder, base, sha256, lost=str(error))
    found.sound, found.segments = sound, damaged
    for entry in found.base.segments:
        check(entry)
    for space, mapping in found.base.mappings.items():
        try:
            read_mapping(folder, mapping)
        except CorruptIndexError as error:
            found.mappings[space] = str(error)
    mappings = {mapping.name for space, mapping in found.base.mappings.items() if space not in found.mappings}
    for generation in found.base.earlier:
        mappings |= _look_at(found, generation, check)
    digests = {entry.name: entry for entry in (*found.base.segments, *found.sources)}
    for name in sound:
        found.derived |= dict(derived_problems(folder, digests[name], mappings))
    try:
        found.questions = "; ".join(check_questions(folder))
    except (CorruptIndexError, DataError, OSError) as error:
        found.questions = str(error)
    try:
        found.marks = "; ".join(check_marks(folder))
    except CorruptIndexError as error:
        found.marks = str(error)
    return found


def _check_segment(
    folder: IndexFolder, sound: dict[str, Segment], damaged: dict[str, str], entry: SegmentEntry
) -> str | None:
    """What is wrong with a segment; each is read once."""
    if entry.name not in sound and entry.name not in damaged:
        try:
            sound[entry.name] = open_segment(folder, entry, reread=True)
        except CorruptIndexError as error:
            damaged[entry.name] = str(error)
    return damaged.get(entry.name)


def _look_at(found: Diagnosis, generation: EarlierGeneration, check: Callable[[SegmentEntry], str | None]) -> set[str]:
    """Check an earlier generation; returns the names of its mappings if it can be restored."""
    try:
        manifest = read_earlier(found.folder, generation)
    except CorruptIndexError as error:
        found.forgotten[generation.generation] = str(error)
        return set()
    reasons = list(filter(None, map(check, manifest.segments)))
    known = {entry.name for entry in (*found.base.segments, *found.sources)}
    found.sources += [entry for entry in reversed(manifest.segments) if entry.name not in known]
    try:
        for mapping in manifest.mappings.values():
            read_mapping(found.folder, mapping)
    except CorruptIndexError as error:
        reasons.append(str(error))
    if reasons:
        found.forgotten[generation.generation] = reasons[0]
        return set()
    found.earlier.append(generation)
    return {mapping.name for mapping in manifest.mappings.values()}


def _newest_sound(folder: IndexFolder, check: Callable[[SegmentEntry], str | None]) -> tuple[Manifest, str]:
    """The newest generation whose manifest and segments are sound; else the newest whose manifest is."""
    candidates = list(_readable(folder))
    if not candidates:
        raise CorruptIndexError(
            f"{folder}: none of its manifests can be read, and without one nothing says what its files hold; "
            "restore the index from a copy, or build it again"
        )
    whole = (candidate for candidate in candidates if not any(map(check, candidate[0].segments)))
    return next(whole, candidates[0])


def _readable(folder: IndexFolder) -> Iterator[tuple[Manifest, str]]:
    """Manifests and their digests, newest first, but for those that contradict what a newer one says about them."""
    known: dict[int, str] = {}
    try:
        number, sha256 = read_pointer(folder)
        known[number] = sha256
    except IndexFormatError:
        pass
    for path in sorted(numbered(folder.manifests, ".json"), key=lambda path: int(path.stem), reverse=True):
        try:
            data = read_file(folder, path)
            manifest = parse_manifest(data, path)
        except CorruptIndexError:
            continue
        sha256 = sha256_bytes(data)
        if manifest.generation == int(path.stem) and known.get(manifest.generation, sha256) == sha256:
            known |= {entry.generation: entry.sha256 for entry in manifest.earlier if entry.generation not in known}
            yield manifest, sha256
