"""Opening the live generation of an index: its manifest and its segments; damaged segments are left out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cir.errors import CorruptIndexError, UsageError
from cir.indexer.reading.spread import Spread
from cir.indexer.storage.fetching import fetch_generation
from cir.indexer.storage.folder import IndexFolder, checked
from cir.indexer.storage.generations import (
    DamagedSegment,
    open_segments,
    read_earlier,
    read_manifest,
    read_pointer,
)
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import keep_in_cache
from cir.indexer.storage.segment import Segment

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Opened:
    """A generation and its open segments.

    Attributes:
        folder: the index.
        pointer: number and SHA-256 of its manifest.
        manifest: the generation.
        segments: those that are sound, by name.
        damaged: the others, which are left out.
    """

    folder: IndexFolder
    pointer: tuple[int, str]
    manifest: Manifest
    segments: Mapping[str, Segment]
    damaged: tuple[DamagedSegment, ...]

    @property
    def is_live(self) -> bool:
        """Whether the index still has the same generation; reads a line. Raises as `read_pointer`."""
        return read_pointer(self.folder) == self.pointer


def open_live(
    folder: IndexFolder, *, strict: bool, before: Opened | None = None, spread: Spread | None = None
) -> Opened:
    """Open the live generation.

    Args:
        folder: the index.
        strict: refuse an index with a damaged segment, in place of a warning.
        before: a generation that is open; what both name is not opened again.
        spread: who searches it; opens it first, and says which segments are damaged.

    Raises:
        ServerError: a part of it does not answer.
        IndexFormatError: there is no index at this path; IndexVersionError: another version wrote it.
        CorruptIndexError: the manifest is damaged; or a segment, with `strict`; or all of them.
    """
    while True:
        pointer = read_pointer(folder)
        try:
            opened = _open(folder, pointer, read_manifest(folder, pointer), before, spread)
        except CorruptIndexError:
            if read_pointer(folder) == pointer:
                raise
            continue
        # A writer may have removed this generation while it was opened; then there is a newer one.
        if not opened.damaged or opened.is_live:
            return _checked(opened, strict)


def open_earlier(live: Opened, generation: int, *, strict: bool, spread: Spread | None = None) -> Opened:
    """Open a generation that an open one names and that is kept; what both name is not opened again.

    Raises:
        UsageError: there is no such generation.
        CorruptIndexError: as for `open_live`.
    """
    entry = next((each for each in live.manifest.earlier if each.generation == generation), None)
    if entry is None:
        known = [live.manifest.generation, *(each.generation for each in live.manifest.earlier)]
        raise UsageError(
            f"{live.folder}: no generation {generation} is kept; there are: {', '.join(map(str, reversed(known)))}"
        )
    manifest = read_earlier(live.folder, entry)
    fetch_generation(live.folder, manifest)
    seconds = spread.deadline if spread else None  # whoever wants it waits for it, and others behind them
    return _checked(_open(live.folder, (generation, entry.sha256), manifest, live, spread, seconds), strict)


def open_part(
    folder: IndexFolder,
    pointer: tuple[int, str],
    manifest: Manifest,
    names: Collection[str],
    before: Opened | None,
) -> Opened:
    """Open some segments of a generation, by name; the others are as if they were not there.

    Args:
        folder: the index. Of one in a store only these segments are fetched.
        pointer: of the generation.
        manifest: of the generation.
        names: of the segments; a damaged one is left out.
        before: a generation that is open; what both name is not opened again.
    """
    part = replace(manifest, segments=tuple(entry for entry in manifest.segments if entry.name in names))
    fetch_generation(folder, part)
    sound, damaged = open_segments(folder, part, _still_open(before, manifest) if before else {})
    keep_in_cache(folder, sound)
    return Opened(folder, pointer, manifest, sound, damaged)


def _checked(opened: Opened, strict: bool) -> Opened:
    """What was opened, with a warning about each damaged segment. Raises CorruptIndexError as `open_live`."""
    folder = opened.folder
    keep_in_cache(folder, opened.segments)
    if opened.damaged and strict:
        raise CorruptIndexError(opened.damaged[0].reason)
    if opened.damaged and not opened.segments:
        count = len(opened.damaged)
        which = "its only segment is damaged" if count == 1 else f"all {count} segments are damaged; the first"
        raise CorruptIndexError(f"{folder}: {which}: {opened.damaged[0].reason}")
    for segment in opened.damaged:
        log.warning("%s; its %s images are left out", segment.reason, f"{segment.images:,}")
    return opened


def _open(
    folder: IndexFolder,
    pointer: tuple[int, str],
    manifest: Manifest,
    before: Opened | None,
    spread: Spread | None,
    seconds: float | None = None,
) -> Opened:
    kept = _still_open(before, manifest) if before else {}
    if spread is None:
        sound, damaged = open_segments(folder, manifest, kept)
    else:  # whoever searches a segment has read all of it, and knows whether it is sound
        damaged = spread.open(folder, pointer, manifest, seconds)
        bad = {segment.name for segment in damaged}
        names = (entry.name for entry in manifest.segments if entry.name not in bad)
        sound = {name: kept.get(name) or Segment(checked(folder, folder.gallery(name))) for name in names}
    return Opened(folder, pointer, manifest, sound, damaged)


def _still_open(before: Opened, manifest: Manifest) -> dict[str, Segment]:
    """The open segments of a generation that another one names too, by name."""
    entries = {entry.name: entry for entry in before.manifest.segments}
    names = (entry.name for entry in manifest.segments if entries.get(entry.name) == entry)
    return {name: before.segments[name] for name in names if name in before.segments}
