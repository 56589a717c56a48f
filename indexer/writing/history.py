"""The generations of an index, and rolling back to one; a rollback removes none, so going forward again is possible."""

from __future__ import annotations

from pathlib import Path

from cir.errors import CorruptIndexError, UsageError
from cir.indexer.storage.fetching import fetch_generation, index_folder
from cir.indexer.storage.generations import open_segment, read_earlier, read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mappings import read_mapping
from cir.indexer.storage.mirror import folder_at
from cir.indexer.storage.writer import writing


def generations(index: Path) -> tuple[list[Manifest], list[str]]:
    """The live generation and the earlier ones that are kept, newest first.

    Of an index in a store, as this machine has it: `Gallery.open` fetches what there is now.

    Returns:
        Those whose manifests are sound, and one line about each of the others.

    Raises:
        IndexFormatError: no index, or its live generation is damaged.
    """
    folder = folder_at(index)
    sound, damaged = [read_manifest(folder)], []
    for entry in sound[0].earlier:
        try:
            sound.append(read_earlier(folder, entry))
        except CorruptIndexError as error:
            damaged.append(str(error))
    return sound, damaged


def rollback(index: Path, to: int | None = None) -> tuple[Manifest, Manifest]:
    """Make an earlier generation live again, as a new one.

    Args:
        index: the index folder.
        to: its number; the generation that was live before this one if None.

    Returns:
        The generation that was live, and the one that is now.

    Raises:
        UsageError: there is no such generation.
        IndexFormatError: no index, or a file that the old generation names is missing or damaged.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the live generation stays.
    """
    folder = index_folder(index)
    read_manifest(folder)  # before the lock creates a file in a folder that is no index
    with writing(folder) as writer:
        live = read_manifest(folder)
        number = live.previous if to is None else to
        found = next((entry for entry in live.earlier if entry.generation == number), None)
        if found is None:
            known = ", ".join(str(entry.generation) for entry in reversed(live.earlier)) or "none"
            raise UsageError(
                f"{index}: no earlier generation {number or 'is noted'} to go back to; there are: {known}; "
                f"`cir info {index}` describes them"
            )
        earlier = read_earlier(folder, found)
        fetch_generation(folder, earlier)
        for entry in earlier.segments:  # what it names must still exist
            open_segment(folder, entry)
        for mapping in earlier.mappings.values():
            read_mapping(folder, mapping)
        return live, writer.publish(earlier.succeed(keep=live.keep))
