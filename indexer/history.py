"""The generations of an index, and going back to one. Nothing is removed, so going forward again is possible too."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cir import __version__
from cir.errors import UsageError
from cir.indexer.edges import read_edge
from cir.indexer.lock import writer_lock
from cir.indexer.manifest import (
    MANIFESTS,
    Manifest,
    next_generation,
    open_segment,
    parse_manifest,
    publish,
    read_manifest,
)


def generations(index: Path) -> list[Manifest]:
    """The live generation and those before it whose manifests are there, the newest first.

    Raises:
        IndexFormatError: no index.
        CorruptIndexError: a manifest cannot be read.
    """
    live = read_manifest(index).generation
    files = sorted((file for file in (index / MANIFESTS).glob("*.json") if file.stem.isdecimal()), reverse=True)
    # A build that was killed may have left a later one, which was never published.
    return [parse_manifest(file.read_bytes(), file) for file in files if int(file.stem) <= live]


def rollback(index: Path, to: int | None = None) -> tuple[Manifest, Manifest]:
    """Make an earlier generation live again, as a new one.

    Args:
        index: the index folder.
        to: its number; the generation that was live before this one if None.

    Returns:
        The generation that was live, and the one that is now.

    Raises:
        UsageError: there is no such generation.
        IndexFormatError: no index, or what the old manifest names is gone or damaged.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the live generation stays.
    """
    live = read_manifest(index)  # before the lock makes a file where no index is
    with writer_lock(index):
        live = read_manifest(index)
        number = live.previous if to is None else to
        path = index / MANIFESTS / f"{number:06d}.json"
        if number == live.generation or not path.is_file():
            there = sorted(one.generation for one in generations(index))
            kept = ", ".join(str(each) for each in there if each != live.generation) or "none"
            raise UsageError(
                f"{index}: no earlier generation {number or 'is noted'} to go back to; there are: {kept}; "
                f"`cir info {index}` says what they are"
            )
        earlier = parse_manifest(path.read_bytes(), path)
        for entry in earlier.segments:  # what it names must still be there
            open_segment(index, entry)
        for edge in earlier.edges.values():
            read_edge(index, edge)
        now = replace(
            earlier,
            generation=next_generation(index),
            previous=live.generation,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cir=__version__,
        )
        publish(index, now)
    return live, now
