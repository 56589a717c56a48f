"""Publishing from this machine's copy of an index in an object store; see `mirror`.

`writer` calls `begin`, `commit` and `finish`, which do nothing for an index on disk.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cir.errors import CorruptIndexError, IndexFormatError, IndexLockedError, StoreConflictError, StoreError
from cir.files import is_temporary, sha256_bytes, write_bytes
from cir.indexer.storage.cache import updating
from cir.indexer.storage.fetching import pull
from cir.indexer.storage.folder import GALLERY, LARGEST_JSON, MARKS, IndexFolder
from cir.indexer.storage.generations import parse_pointer, read_earlier, read_manifest
from cir.indexer.storage.manifest import FileEntry, Manifest
from cir.indexer.storage.mirror import (
    CURRENT,
    GRACE,
    MirrorFolder,
    files_of,
    is_own,
    manifest_key,
    put_file,
    read_state,
    segment_key,
    shared_names,
    write_state,
)
from cir.objects import Store

_TRIES = 3  # to write CURRENT
_APPENDS = 20  # to append lines while others do


@contextmanager
def begin(folder: IndexFolder) -> Iterator[None]:
    """Entered by the one writer of this machine: the live generation, which `commit` will write over."""
    if not isinstance(folder, MirrorFolder):
        yield
        return
    with updating(folder.root):
        pull(folder, writing=True)
        yield


def commit(folder: IndexFolder, manifest: Manifest, data: bytes, line: bytes) -> None:
    """Publish a generation in the store: its segments and mappings, its manifest, and `CURRENT` last.

    Segments that are not on this machine must be in the store already (`upload_segment`).

    Args:
        folder: the index, within `begin` and `finish`.
        manifest: the generation.
        data: its file.
        line: what `CURRENT` is to hold.

    Raises:
        IndexLockedError: another writer has published since `begin`; nothing of this generation is published.
        StoreError: the store cannot be reached or refuses, or knows no conditional writes.
        CorruptIndexError: a file of the generation is neither here nor in the store.
    """
    if not isinstance(folder, MirrorFolder):
        return
    store, before = folder.store, folder.versions.get(CURRENT)
    with updating(folder.root):
        there = store.get(CURRENT, 1000)
        if (there[1] if there else None) != before:
            raise _lost(folder, there)
        _check_conditions(folder)
        published = _reachable(folder, _live(folder))
        for key, path, entry in files_of(folder, manifest):
            if key not in published:
                _offer(store, key, path, entry)
        store.put(manifest_key(manifest.generation, sha256_bytes(data)), data)
        folder.versions[CURRENT] = _swap(folder, line, before)


def finish(folder: IndexFolder, *, published: bool) -> None:
    """Share what no manifest names, and what was derived from the segments; remove what no generation needs.

    Args:
        folder: the index.
        published: whether the writer has published a generation.

    Raises:
        StoreError: the store cannot be reached or refuses; what was published stays.
        StoreConflictError: somebody else has changed the judged queries meanwhile.
    """
    if not isinstance(folder, MirrorFolder):
        return
    with updating(folder.root):
        for name in shared_names(folder):
            _share(folder, name)
        live = _live(folder)
        if live is not None and published:
            _share_derived(folder, live)
            _sweep(folder, live)


@contextmanager
def sharing_lines(folder: IndexFolder, name: str) -> Iterator[None]:
    """Entered around appending whole lines to a file that no manifest names: they are shared at the end.

    Lines that were appended elsewhere meanwhile are kept, before ours.

    Raises:
        StoreError: the store cannot be reached, or refuses: then the lines are not kept.
    """
    if not isinstance(folder, MirrorFolder):
        yield
        return
    with updating(folder.root):
        yield
        path, store = folder.root / name, folder.store
        ours = path.read_bytes().splitlines(keepends=True)
        for left in reversed(range(_APPENDS)):
            got = store.get(name, LARGEST_JSON)
            theirs = got[0].splitlines(keepends=True) if got else []
            there = set(theirs)
            data = b"".join([*theirs, *(line for line in ours if line not in there)])
            try:
                version = store.put_if(name, data, got[1] if got else None)
                break
            except StoreConflictError:
                if not left:
                    raise
        write_bytes(path, data)
        write_state(folder, {**read_state(folder), name: (version, sha256_bytes(data))})


def _lost(folder: MirrorFolder, there: tuple[bytes, str] | None) -> IndexLockedError:
    pointer = parse_pointer(there[0]) if there else None
    what = f"generation {pointer[0]}" if pointer else "the index, or removed it,"
    return IndexLockedError(
        f"{folder}: another writer has published {what} meanwhile, so nothing of this was published; run the same "
        "command again"
    )


def _swap(folder: MirrorFolder, line: bytes, before: str | None) -> str:
    """Write `CURRENT` over the version that was read; returns the new version.

    Where an answer is lost on its way, what is there tells whether the write arrived.
    """
    store = folder.store
    for left in reversed(range(_TRIES)):
        try:
            return store.put_if(CURRENT, line, before)
        except StoreError as error:
            unknown = StoreError(
                f"{error}; whether this generation was published cannot be told now: `cir info {folder}` tells once "
                "the store answers"
            )
            try:
                there = store.get(CURRENT, 1000)
            except StoreError:
                raise unknown from None
            if there is not None and there[0] == line:
                return there[1]
            if isinstance(error, StoreConflictError) or (there[1] if there else None) != before:
                raise _lost(folder, there) from None
            if not left:  # the last write may still be on its way
                raise unknown from None
    raise AssertionError("the last attempt returns or raises")


def _check_conditions(folder: MirrorFolder) -> None:
    """Whether the server keeps two writers apart, once for each writer. Raises StoreError where it does not."""
    if "conditions" in folder.watch:
        return
    store, key = folder.store, f"probe-{uuid.uuid4().hex}"
    version = store.put_if(key, b"1", None)
    try:
        for stale in (None, '"0123456789abcdef0123456789abcdef"'):
            with suppress(StoreConflictError):
                store.put_if(key, b"2", stale)
                raise StoreError(
                    f"{folder}: the store ignores the conditions of a write (If-None-Match, If-Match), so two writers "
                    "could overwrite each other; use a store that knows them"
                )
        store.put_if(key, b"3", version)
    finally:
        store.delete([key])
    folder.watch["conditions"] = 1.0


def _offer(store: Store, key: str, path: Path, entry: FileEntry) -> None:
    if path.is_file() and path.stat().st_size == entry.bytes:
        put_file(store, key, path, entry)
        return
    there = store.info(key)
    if there is None or there.bytes != entry.bytes:
        raise CorruptIndexError(f"{store}/{key} is not there, and {path} neither; upload it before it is published")


def _live(folder: MirrorFolder) -> Manifest | None:
    return read_manifest(folder) if folder.current.is_file() else None


def _reachable(folder: MirrorFolder, live: Manifest | None) -> set[str]:
    """Keys of everything that `CURRENT` leads to. Raises IndexFormatError if a manifest is not here."""
    if live is None:
        return set()
    pointer = parse_pointer(folder.current.read_bytes())
    assert pointer is not None
    keys = {manifest_key(*pointer)} | {key for key, _, _ in files_of(folder, live)}
    for entry in live.earlier:
        keys.add(manifest_key(entry.generation, entry.sha256))
        with suppress(CorruptIndexError):
            keys |= {key for key, _, _ in files_of(folder, read_earlier(folder, entry))}
    return keys


def _sweep(folder: MirrorFolder, live: Manifest) -> None:
    """Remove what no kept generation names and is older than a day: another writer may be about to name the rest."""
    store = folder.store
    now = store.info(CURRENT)
    try:
        for entry in live.earlier:
            read_earlier(folder, entry)
    except IndexFormatError:
        return  # it may name anything
    if now is None:
        return
    keys = _reachable(folder, live)
    segments = {key.split("/")[1] for key in keys if key.startswith("segments/")}
    old = [
        info.key
        for place in ("manifests", "segments", "mappings")
        for info in store.listed(place)
        if now.modified - info.modified > GRACE
        and info.key not in keys
        and is_own(info.key)
        and not (place == "segments" and info.key.split("/")[1] in segments)
    ]
    for start in range(0, len(old), 1000):
        store.delete(old[start : start + 1000])


def _share(folder: MirrorFolder, name: str) -> None:
    """Write a file that the writer has changed over the version that it was made from."""
    state, path = read_state(folder), folder.root / name
    version, before = state.get(name, (None, None))
    data = path.read_bytes() if path.is_file() else None
    digest = sha256_bytes(data) if data is not None else None
    if digest == before:
        return
    if data is None or digest is None:
        folder.store.delete([name])
        state.pop(name, None)
    elif name == folder.questions.name or name == MARKS:
        state[name] = (folder.store.put_if(name, data, version), digest)
    else:  # a report on the last build
        state[name] = (folder.store.put(name, data), digest)
    write_state(folder, state)


def _share_derived(folder: MirrorFolder, live: Manifest) -> None:
    """Upload what was derived from the segments here and is not in the store; records after what they describe."""
    for entry in live.segments:
        place = folder.gallery(entry.name).parent
        sha256 = entry.files[GALLERY].sha256
        files = [path for path in place.rglob("*") if path.is_file() and path.name != GALLERY]
        there = {info.key for info in folder.store.listed(segment_key(sha256, "").rstrip("/"))} if files else set()
        for path in sorted(files, key=lambda path: (path.suffix == ".json", path)):
            key = segment_key(sha256, path.relative_to(place).as_posix())
            if key not in there and not any(map(is_temporary, path.relative_to(place).parts)):
                folder.store.upload(key, path)
