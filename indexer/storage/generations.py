"""The generations of an index on disk: their manifests, and the pointer to the live one.

`CURRENT` holds the name and the SHA-256 of the live manifest. A manifest names every file of its generation with size
and digest, and the manifests of the earlier generations with theirs. So replacing `CURRENT` is the single moment at
which a generation is published, and what cannot be reached from it does not count: a writer removes it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cir.checked import agrees, is_checked
from cir.errors import CorruptIndexError, IndexFormatError, IndexVersionError
from cir.files import disk_errors, make_folder, move, parse_json, sha256_bytes, sha256_file, sync
from cir.indexer.storage.folder import (
    IndexFolder,
    checked,
    has_lost_pointer,
    numbered,
    planned_segments,
    read_file,
    way_out,
)
from cir.indexer.storage.lock import writer_of
from cir.indexer.storage.manifest import FORMAT, EarlierGeneration, Manifest, SegmentEntry
from cir.indexer.storage.segment import Segment

_LARGE = 100_000_000  # bytes; a file of more takes a moment to digest
_POINTER = re.compile(r"(\d{6,18})\.json ([0-9a-f]{64})\n?")


log = logging.getLogger(__name__)


def read_manifest(folder: IndexFolder, pointer: tuple[int, str] | None = None) -> Manifest:
    """The live generation of an index.

    Args:
        folder: the index.
        pointer: what `read_pointer` has just returned; it is read if None.

    Raises:
        IndexFormatError: there is no index at this path.
        IndexVersionError: another version of this package wrote it.
        CorruptIndexError: the manifest is missing or contradicts its digest.
    """
    number, digest = pointer or read_pointer(folder)
    path = folder.manifest(number)
    if not os.path.lexists(path):  # one of the two is damaged
        raise CorruptIndexError(f"{path} is missing, which {folder.current} names; {way_out(folder)}")
    return _read(folder, number, digest, f" in {folder.current.name}")


def read_pointer(folder: IndexFolder) -> tuple[int, str]:
    """Number and SHA-256 of the live manifest. Raises as `read_manifest`."""
    if not folder.current.is_symlink() and not folder.current.exists():
        raise IndexFormatError(_no_index(folder))
    pointer = parse_pointer(read_file(folder, folder.current, 1000))
    if pointer is None:
        raise CorruptIndexError(
            f"{folder.current} cannot be read: it does not name a manifest and its digest; {way_out(folder)}"
        )
    return pointer


def parse_pointer(line: bytes) -> tuple[int, str] | None:
    """Number and SHA-256 of the manifest that a `CURRENT` names; None if it names none."""
    found = _POINTER.fullmatch(line.decode("ascii", "replace"))
    return (int(found[1]), found[2]) if found else None


def read_earlier(folder: IndexFolder, entry: EarlierGeneration) -> Manifest:
    """An earlier generation that the live one names. Raises CorruptIndexError when its manifest is not as it was."""
    return _read(folder, entry.generation, entry.sha256)


def files_of_earlier(folder: IndexFolder, entry: EarlierGeneration) -> tuple[set[str], set[str]]:
    """Names of the segments and of the mapping files of an earlier generation.

    What else its manifest says is not looked at: its digest vouches for it, and every writer asks for all generations.

    Raises:
        CorruptIndexError: the manifest is not as it was.
    """
    path = folder.manifest(entry.generation)
    try:
        values = parse_json(_signed(folder, path, entry.sha256))
        mappings = {name for mapping in values["mappings"].values() for name in mapping["files"]}
        return {segment["name"] for segment in values["segments"]}, mappings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, IndexFormatError):
            raise
        raise CorruptIndexError(f"{path} is not a manifest; {way_out(folder)}") from None


def _read(folder: IndexFolder, generation: int, sha256: str, where: str = "") -> Manifest:
    path = folder.manifest(generation)
    manifest = parse_manifest(_signed(folder, path, sha256, where), path)
    if manifest.generation != generation:
        raise CorruptIndexError(f"{path} is generation {manifest.generation}; {way_out(folder)}")
    return manifest


def _signed(folder: IndexFolder, path: Path, sha256: str, where: str = "") -> bytes:
    data = read_file(folder, path)
    if sha256_bytes(data) != sha256:
        raise CorruptIndexError(f"{path} contradicts its digest{where}; {way_out(folder)}")
    return data


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """The manifest in the bytes of `path`. Raises IndexVersionError or CorruptIndexError."""
    try:
        values = parse_json(data)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        if values.get("format") != FORMAT:
            version = repr(values.get("format"))[:20]
            raise IndexVersionError(f"{path} has format {version}, not {FORMAT}; upgrade cir-engine, or build it again")
        return Manifest.from_json(values)
    except ValueError as error:
        if isinstance(error, IndexFormatError):
            raise
        raise CorruptIndexError(f"{path} is not a manifest: {error}; restore the index from a copy") from None


def adopt_segment(folder: IndexFolder, finished: Path) -> str:
    """Move a finished segment folder to its final place, synced; returns its name. Raises DataError."""
    make_folder(folder.segments)
    name = f"{1 + last_segment(folder):06d}"
    with disk_errors(folder.segments / name):
        sync(finished)
        move(finished, folder.segments / name)
    return name


def last_segment(folder: IndexFolder) -> int:
    """The highest number of a segment that is there or planned; 0 for none."""
    numbers = (int(path.name) for path in numbered(folder.segments))
    return max([*numbers, *planned_segments(folder)[-1:]], default=0)


@dataclass(frozen=True)
class DamagedSegment:
    """A segment that is left out since its file is missing, damaged or unreadable.

    Attributes:
        name: of the segment.
        reason: what is wrong, in one line.
        images: how many live images are left out with it.
    """

    name: str
    reason: str
    images: int


def open_segment(folder: IndexFolder, entry: SegmentEntry, *, reread: bool = False) -> Segment:
    """A published segment, after a check of its size, digest and rows.

    Args:
        folder: the index.
        entry: what the manifest says about it.
        reread: read the file to the end even if this user has done so before and it has not changed since.

    Raises:
        CorruptIndexError: it is missing, damaged or cannot be read.
    """
    path = checked(folder, folder.gallery(entry.name))
    expected = entry.files[path.name].bytes
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise CorruptIndexError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    if size != expected:
        problem = "is missing" if size is None else f"has {size} bytes instead of {expected}"
        raise CorruptIndexError(f"{path} {problem}; {way_out(folder)}")
    try:
        sound = _has_digest(path, entry.files[path.name].sha256, reread)
    except OSError as error:
        raise CorruptIndexError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    if not sound:  # HDF5 must not see it
        raise CorruptIndexError(f"{path} contradicts its digest; {way_out(folder)}")
    segment = Segment(path)
    layout = segment.layout
    found = (len(segment), layout.model, layout.space, layout.dims, layout.tokens, layout.vectors)
    if found != (entry.rows, entry.model, entry.space, entry.dims, entry.tokens, entry.vectors):
        raise CorruptIndexError(f"{path} holds other rows or vectors than the manifest says; {way_out(folder)}")
    return segment


def open_segments(
    folder: IndexFolder, manifest: Manifest, already: Mapping[str, Segment] | None = None
) -> tuple[dict[str, Segment], tuple[DamagedSegment, ...]]:
    """The sound segments of a generation by name, and the others.

    Args:
        folder: the index.
        manifest: the generation.
        already: segments of it that are open, by name.
    """
    sound: dict[str, Segment] = {}
    damaged: list[DamagedSegment] = []
    for entry in manifest.segments:
        try:
            opened = already.get(entry.name) if already else None
            sound[entry.name] = opened or open_segment(folder, entry)
        except CorruptIndexError as error:
            damaged.append(DamagedSegment(entry.name, str(error), int(manifest.live_rows(entry).sum())))
    return sound, tuple(damaged)


def check_segments(folder: IndexFolder, manifest: Manifest) -> None:
    """Refuse a generation with a damaged segment: a writer must not go on from it. Raises CorruptIndexError."""
    for entry in manifest.segments:
        open_segment(folder, entry)


def _has_digest(path: Path, sha256: str, reread: bool) -> bool:
    if reread:
        return sha256_file(path) == sha256
    size = path.stat().st_size
    if size > _LARGE and not is_checked(path, sha256):
        log.info("reading %s to check its digest, %.0f MB; this is done once for each file", path, size / 1e6)
    return agrees(path, sha256)


def _no_index(folder: IndexFolder) -> str:
    if not folder.root.exists():
        return f"no such index: {folder}; make one with `cir build-index IMAGES -o {folder}`"
    if not folder.root.is_dir():
        return f"not an index but a file: {folder}; make one with `cir build-index IMAGES -o NEW.index`"
    if has_lost_pointer(folder):
        if not numbered(folder.manifests, ".json"):
            return (
                f"{folder} has lost its {folder.current.name} and {folder.manifests.name}, which say what its segments "
                "hold; restore them from a copy, or make another index"
            )
        return f"{folder} has lost its {folder.current.name}, which says what is live; {way_out(folder)}"
    writer = writer_of(folder)
    if writer:
        return f"{folder} is being built for the first time by {writer}; it can be searched when that is done"
    if folder.work.is_dir() or folder.lock.exists():
        return f"an unfinished index: {folder}; run the same `cir build-index` again to finish it"
    return f"not an index: no {folder.current.name} in {folder}; make one with `cir build-index IMAGES -o {folder}`"
