"""Writing to an index: the lock, what killed writers left, and the step that publishes a generation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from cir.errors import IndexFormatError
from cir.files import remove_temporaries, remove_tree, sha256_bytes, write_bytes
from cir.indexer.storage.folder import IndexFolder, has_lost_pointer, is_index, numbered, record
from cir.indexer.storage.generations import files_of_earlier, parse_manifest, read_manifest, read_pointer
from cir.indexer.storage.lock import WriterLock, writer_lock
from cir.indexer.storage.manifest import EarlierGeneration, Manifest, kept
from cir.indexer.storage.publishing import begin, commit, finish


class Writer:
    """The one process that may change an index; from `writing`.

    Attributes:
        folder: the index.
        has_published: whether this writer has published a generation.
    """

    def __init__(self, folder: IndexFolder, lock: WriterLock) -> None:
        """Use `writing`."""
        self.folder = folder
        self.has_published = False
        self._lock = lock

    def publish(self, manifest: Manifest, *, earlier: Sequence[EarlierGeneration] | None = None) -> Manifest:
        """Make a generation live: its manifest first, then the pointer. Returns it with its number and its ancestry.

        Args:
            manifest: the generation.
            earlier: its ancestry, newest first, in place of the live generation and those before it, which
                `remove_unreachable` removes unless they are named.

        Raises:
            CorruptIndexError: the manifest contradicts itself; the live generation stays.
            DataError: the disk refuses; the live generation stays.
            IndexLockedError: the lock was removed meanwhile, or another writer has published to the same store; the
                live generation stays.
            StoreError: the object store that the index is in cannot be reached, or refuses.
        """
        number = 0
        if earlier is not None:
            number = last_number(self.folder)
        elif is_index(self.folder.root):
            live, (number, digest) = read_manifest(self.folder), read_pointer(self.folder)
            earlier = (EarlierGeneration(number, digest, live.serving), *live.earlier)
        manifest = replace(
            manifest,
            generation=1 + number,
            earlier=kept(tuple(earlier or ()), manifest.serving, manifest.keep),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        data = json.dumps(manifest.to_json(), sort_keys=True, separators=(",", ":")).encode()
        path = self.folder.manifest(manifest.generation)
        parse_manifest(data, path)  # what nobody could read is never published
        self._lock.check()
        write_bytes(path, data)
        self._lock.check()
        line = f"{path.name} {sha256_bytes(data)}\n".encode("ascii")
        commit(self.folder, manifest, data, line)
        write_bytes(self.folder.current, line)
        self.has_published = True
        return manifest


def last_number(folder: IndexFolder) -> int:
    """The highest number of a generation that was ever published, as far as an index still tells; 0 for none."""
    numbers = [int(path.stem) for path in numbered(folder.manifests, ".json")]
    with suppress(IndexFormatError):
        numbers.append(read_pointer(folder)[0])
    return max(numbers, default=0)


@contextmanager
def writing(folder: IndexFolder) -> Iterator[Writer]:
    """Hold an index for writing, without what killed writers left in it.

    Raises:
        IndexLockedError: another writer has it.
        IndexFormatError: generations were published here, but nothing says which one is live.
        DataError: the folder cannot be written to.
        StoreError: the object store that the index is in cannot be reached, or refuses.
    """
    if has_lost_pointer(folder):
        read_pointer(folder)  # says so
    with writer_lock(folder) as lock:
        with begin(folder):
            remove_temporaries(folder.root)
            remove_unreachable(folder)
        writer = Writer(folder, lock)
        yield writer
        finish(folder, published=writer.has_published)


def remove_unreachable(folder: IndexFolder) -> None:
    """Remove manifests, segments and mappings that cannot be reached from `CURRENT`; only the writer may.

    Segments that an unfinished build has recorded stay for it.

    Their writer died before it published them, or their generation is no longer kept. Where a manifest cannot be read,
    segments and mappings stay: it may name any of them, and vectors are worth more than disk space. So does everything
    where generations were published and nothing says which one is live.
    """
    segments: set[str] = set()
    mappings: set[str] = set()
    generations: set[int] = set()
    sound = True
    if is_index(folder.root):
        try:
            live = read_manifest(folder)
        except IndexFormatError:
            return
        generations = {live.generation, *(entry.generation for entry in live.earlier)}
        segments = {entry.name for entry in live.segments}
        mappings = {name for mapping in live.mappings.values() for name in mapping.files}
        for earlier in live.earlier:
            try:
                more_segments, more_mappings = files_of_earlier(folder, earlier)
            except IndexFormatError:
                sound = False
            else:
                segments |= more_segments
                mappings |= more_mappings
    elif has_lost_pointer(folder):
        return
    for path in numbered(folder.manifests, ".json"):
        if int(path.stem) not in generations:
            remove_tree(path)
    if sound:
        for path in numbered(folder.segments):
            if path.name not in segments and not record(folder, path.name).is_file():
                remove_tree(path)
        for path in folder.mappings.glob("*"):
            if path.name not in mappings:
                remove_tree(path)
