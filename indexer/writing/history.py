"""The generations of an index, and rolling back to one. Nothing is removed, so going forward again is possible too."""

from __future__ import annotations

from pathlib import Path

from cir.errors import UsageError
from cir.indexer.storage.folder import IndexFolder, numbered
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.manifest import Manifest, open_segment, parse_manifest, publish, read_manifest
from cir.indexer.storage.mappings import read_mapping


def generations(index: Path) -> list[Manifest]:
    """The live generation and the earlier ones whose manifests exist, newest first.

    Raises:
        IndexFormatError: no index.
        CorruptIndexError: a manifest cannot be read.
    """
    folder = IndexFolder(Path(index))
    live = read_manifest(folder).generation
    files = sorted(numbered(folder.manifests, ".json"), reverse=True)
    # A build that was killed may have left a later manifest, which was never published.
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
        IndexFormatError: no index, or a file that the old manifest names is missing or damaged.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the live generation stays.
    """
    folder = IndexFolder(Path(index))
    read_manifest(folder)  # before the lock creates a file in a folder that is no index
    with writer_lock(folder):
        live = read_manifest(folder)
        number = live.previous if to is None else to
        path = folder.manifest(number)
        if number == live.generation or not path.is_file():
            others = sorted(manifest.generation for manifest in generations(index))
            known = ", ".join(str(other) for other in others if other != live.generation) or "none"
            raise UsageError(
                f"{index}: no earlier generation {number or 'is noted'} to go back to; there are: {known}; "
                f"`cir info {index}` describes them"
            )
        earlier = parse_manifest(path.read_bytes(), path)
        for entry in earlier.segments:  # what it names must still exist
            open_segment(folder, entry)
        for mapping in earlier.mappings.values():
            read_mapping(folder, mapping)
        restored = earlier.succeed(folder, previous=live.generation)
        publish(folder, restored)
    return live, restored
