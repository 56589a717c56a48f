"""Bringing this machine's copy of an index in an object store up to date; see `mirror`.

index_folder(place)     the folder of an index; of one in a store with the live generation, as it is now
catch_up(folder)        looks for a newer generation, in the background
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

from cir.errors import CirError, CorruptIndexError
from cir.files import make_folder, remove_tree, sha256_bytes, sha256_file, write_bytes
from cir.indexer.storage.cache import limit, make_room, updating
from cir.indexer.storage.folder import LARGEST_JSON, IndexFolder
from cir.indexer.storage.generations import parse_manifest, parse_pointer, read_manifest
from cir.indexer.storage.lock import writer_of
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import (
    CURRENT,
    MirrorFolder,
    download,
    fetch_one,
    folder_at,
    manifest_key,
    read_state,
    shared_names,
    write_state,
)

_LARGEST_SHARED = 1 << 31  # bytes of judged queries and their photos
_EVERY = 2.0  # seconds between two looks for a newer generation

log = logging.getLogger(__name__)


def index_folder(place: str | os.PathLike[str], *, segments: bool = True, earlier: bool = False) -> IndexFolder:
    """The folder of an index. Of one in a store, what the live generation needs is fetched first, if it is not here.

    Args:
        place: a path, or `s3://bucket/prefix`. The folder of an index in the cache stands for its URL.
        segments: whether to fetch segments; else they are fetched by `fetch_segment`.
        earlier: also fetch the segments and mappings of all earlier generations that are kept.

    Raises:
        UsageError: a URL that is not of S3. MissingDependencyError: `obstore` is not installed.
        StoreError: the store cannot be reached, or refuses.
        CorruptIndexError: its `CURRENT` or live manifest is damaged or missing.
        DataError: the cache cannot be written to.
    """
    folder = folder_at(place)
    if isinstance(folder, MirrorFolder):
        with updating(folder.root):
            pull(folder, segments=segments, earlier=earlier)
    return folder


def live_manifest(place: str | os.PathLike[str]) -> Manifest | None:
    """The live generation of an index, whose segments need not be here; None where there is no index.

    Raises:
        IndexFormatError: as `read_manifest`; otherwise as `index_folder`.
    """
    folder = index_folder(place, segments=False)
    return read_manifest(folder) if folder.current.is_file() else None


def catch_up(folder: IndexFolder) -> None:
    """Look for a newer generation in the store, in a thread of its own and at most every two seconds.

    Who reads the folder's `CURRENT` sees it once all of it is here. While the store cannot be reached the generation
    that is here goes on to answer, and a warning says so.
    """
    if not isinstance(folder, MirrorFolder):
        return
    watch = folder.watch
    if time.monotonic() - watch.get("looked", -_EVERY) < _EVERY or not _looking.acquire(blocking=False):
        return
    watch["looked"] = time.monotonic()

    def look() -> None:
        try:
            with updating(folder.root):
                pull(folder)
            folder.behind[:] = []
        except CirError as error:
            if not folder.behind:
                log.warning("%s; answers go on from what is here", error)
            folder.behind[:] = [str(error)]
        finally:
            watch["looked"] = time.monotonic()
            _looking.release()

    threading.Thread(target=look, name="cir-catch-up", daemon=True).start()


def behind(folder: IndexFolder) -> str:
    """Why `catch_up` could not fetch the newest generation when it last looked, in one line; empty if it could."""
    return "".join(folder.behind) if isinstance(folder, MirrorFolder) else ""


_looking = threading.Lock()  # one thread for all indexes of a process


def pull(folder: MirrorFolder, *, segments: bool = True, earlier: bool = False, writing: bool = False) -> None:
    """Fetch the live generation, for the holder of `cache.updating`; see `index_folder`.

    `CURRENT` of the mirror is written when all of it is there.

    Args:
        folder: the index.
        segments, earlier: as for `index_folder`.
        writing: whether the caller is the one writer of this machine.
    """
    store = folder.store
    others = not writing and writer_of(folder) is not None  # of this machine; what it has not published is here alone
    while True:
        got = store.get(CURRENT, 1000)
        folder.versions[CURRENT] = got[1] if got else None
        if got is None:
            if not others:
                _forget(folder)
                if not writing:
                    remove_tree(folder.lock)
            return
        try:
            manifests = _fetch_manifests(folder, got[0])
            break
        except CorruptIndexError:
            if store.get(CURRENT, 1000) == got:
                raise
    wanted = manifests if earlier else manifests[:1]
    for manifest in manifests:
        for entry in manifest.segments:  # so that a new segment gets another name
            make_folder(folder.gallery(entry.name).parent)
    for manifest in wanted:
        _fetch_files(folder, manifest, segments)
    if segments:
        named = {entry.name for manifest in wanted for entry in manifest.segments}
        for name in folder.pins.keys() - named:
            del folder.pins[name]
    if not others:
        _fetch_shared(folder)
    if not folder.current.is_file() or folder.current.read_bytes() != got[0]:
        write_bytes(folder.current, got[0])
    if segments:
        make_room(folder.root.parent, limit())


def fetch_generation(folder: IndexFolder, manifest: Manifest) -> None:
    """Fetch what an earlier generation needs. Raises StoreError or DataError."""
    if isinstance(folder, MirrorFolder):
        with updating(folder.root):
            _fetch_files(folder, manifest, True)


def _fetch_files(folder: MirrorFolder, manifest: Manifest, segments: bool) -> None:
    for mapping in manifest.mappings.values():
        for name, file in mapping.files.items():
            download(folder.store, f"mappings/{name}", folder.mappings / name, file)
    for entry in manifest.segments if segments else ():
        fetch_one(folder, entry)


def _fetch_manifests(folder: MirrorFolder, line: bytes) -> list[Manifest]:
    """The live generation, and the earlier ones that are sound, newest first."""
    pointer = parse_pointer(line)
    if pointer is None:
        raise CorruptIndexError(
            f"{folder}/{CURRENT} cannot be read: it does not name a manifest and its digest; restore an older version "
            "of it"
        )
    live = _fetch_manifest(folder, *pointer)
    manifests = [live]
    for entry in live.earlier:
        with suppress(CorruptIndexError):  # whoever needs it finds it missing
            manifests.append(_fetch_manifest(folder, entry.generation, entry.sha256))
    return manifests


def _fetch_manifest(folder: MirrorFolder, generation: int, sha256: str) -> Manifest:
    path, key = folder.manifest(generation), manifest_key(generation, sha256)
    with suppress(OSError):
        data = path.read_bytes()
        if sha256_bytes(data) == sha256:
            return parse_manifest(data, path)
    got = folder.store.get(key, LARGEST_JSON)
    if got is None:
        raise CorruptIndexError(f"{folder}/{key} is missing, which {CURRENT} leads to; restore it from a copy")
    if sha256_bytes(got[0]) != sha256:
        raise CorruptIndexError(f"{folder}/{key} contradicts its digest; restore it from a copy")
    write_bytes(path, got[0])
    return parse_manifest(got[0], path)


def _forget(folder: MirrorFolder) -> None:
    """There is no index in the store (any more): keep only what a build is to be resumed from."""
    for path in (folder.current, folder.manifests, folder.segments, folder.mappings):
        remove_tree(path)
    for name in shared_names(folder):
        remove_tree(folder.root / name)
    write_state(folder, {})


def _fetch_shared(folder: MirrorFolder) -> None:
    state = read_state(folder)
    for name in shared_names(folder):
        path, known = folder.root / name, state.get(name)
        info = folder.store.info(name)
        if info is None:
            remove_tree(path)
            state.pop(name, None)
        elif known is None or known[0] != info.version or not path.is_file() or sha256_file(path) != known[1]:
            got = folder.store.get(name, _LARGEST_SHARED)
            if got is not None:
                write_bytes(path, got[0])
                state[name] = (got[1], sha256_bytes(got[0]))
    write_state(folder, state)
