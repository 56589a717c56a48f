"""An index in an object store, seen as a folder: `s3://bucket/prefix` in place of the path of an index.

    s3://bucket/prefix/
      CURRENT                            the line of an index folder; written only over the version that was read
      manifests/000007-SHA256.json       one generation
      segments/SHA256/gallery.h5         a segment, by its digest; what is derived from it lies beside it
      mappings/NAME.json, .safetensors
      questions.zip, marks.jsonl, skipped.jsonl

Files that a manifest names carry their digest in their key and are never written over, so two writers cannot spoil each
other's. `CURRENT` is the commit point: whoever writes it first wins, and the other is told so. What `work/`,
`retrieved.log` and `backfill.json` of an index folder hold stays on each machine.

This machine has a copy of what it uses (`cache`), which is an index folder like any other: all that reads and writes
indexes works on that. `fetching.index_folder` brings it up to date, and `Writer.publish` uploads (`publishing`).

For workers that have one segment each:

    folder = folder_at("s3://bucket/my.index")    # asks nothing of the server
    path = fetch_segment(folder, entry)           # one segment of a manifest into the cache; then `open_segment`
    files = upload_segment(folder, finished)      # a finished gallery.h5, published by nobody yet; `SegmentEntry.files`

Whoever publishes (`Writer.publish`) need not have the segments that workers have uploaded.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cir.checked import agrees
from cir.errors import StoreError, UsageError
from cir.files import make_folder, parse_json, remove_tree, sha256_bytes, sha256_file, write_atomically, write_json
from cir.indexer.storage.cache import Pin, cache_folder, updating
from cir.indexer.storage.folder import GALLERY, MARKS, IndexFolder
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry
from cir.objects import Store, open_store
from cir.places import UrlPath, is_url

CURRENT = "CURRENT"
_SILENT = 60.0  # seconds after a failure within which nothing derived is asked for
GRACE = 86_400  # seconds for which an object stays that no generation names

_OWN = re.compile(
    r"CURRENT|questions\.zip|marks\.jsonl|skipped\.jsonl|manifests/\d+-[0-9a-f]{64}\.json|segments/[0-9a-f]{64}/.+"
    r"|mappings/[\w.-]+\.(json|safetensors)|work/segments/[0-9a-f]{64}\.json|probe-[0-9a-f]{32}",
    re.ASCII,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MirrorFolder(IndexFolder):
    """What this machine has of an index in a store; its `root` is in the cache.

    Attributes:
        store: where the index is.
        pins: keep the segments of the generation that was fetched last, by name.
        versions: those of objects when they were read last, by key; None for one that was not there.
        watch: what was last done when, or for the first time.
        behind: why the newest generation could not be fetched when it was last looked for, in one line; empty if it
            could. A list, because the folder itself does not change.
    """

    store: Store
    pins: dict[str, Pin] = field(default_factory=dict, compare=False, repr=False)
    versions: dict[str, str | None] = field(default_factory=dict, compare=False, repr=False)
    watch: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    behind: list[str] = field(default_factory=list, compare=False, repr=False)

    def __str__(self) -> str:
        return self.store.url


def folder_at(place: str | os.PathLike[str]) -> IndexFolder:
    """The folder of an index, or what this machine has of one in a store, as it is; nothing is asked of the store.

    Args:
        place: a path, or `s3://bucket/prefix`. The folder of an index in the cache stands for its URL.

    Raises:
        UsageError: a URL that is not of S3.
        MissingDependencyError: `obstore` is not installed.
        DataError: the cache cannot be written to.
    """
    if not is_url(place):
        url = _cached_url(Path(place))
        if url is None:
            return IndexFolder(Path(place))
        place = url
    store = open_store(place)
    name = sha256_bytes(f"{store.endpoint} {store.url}".encode())[:16]
    folder = MirrorFolder(cache_folder() / name, store)
    make_folder(folder.root)
    if not _state_file(folder.root).is_file():
        write_state(folder, {})
    return folder


def on_disk(place: str | os.PathLike[str], what: str) -> IndexFolder:
    """The folder of an index for what works only on disk. Raises UsageError for one in a store, or its copy here."""
    folder = folder_at(place)
    if isinstance(folder, MirrorFolder):
        raise UsageError(f"{folder}: {what} needs an index on disk, not one in an object store")
    return folder


def place_of(folder: IndexFolder) -> Path:
    """Where an index is, for people and for the next command: its folder, or its URL."""
    return UrlPath(folder.store.url) if isinstance(folder, MirrorFolder) else folder.root


def fetch_segment(folder: IndexFolder, entry: SegmentEntry) -> Path:
    """The file of one segment on this machine. Of an index in a store it is fetched, if the cache does not have it.

    The segment stays in the cache while `folder` is referred to. What the store has is taken as it is if it contradicts
    its digest twice: `open_segment` then says what is wrong.

    Args:
        folder: from `folder_at` or `index_folder`.
        entry: what a manifest says about the segment.

    Raises:
        StoreError: the store cannot be reached, or refuses.
        DataError: the disk refuses.
    """
    if isinstance(folder, MirrorFolder):
        with updating(folder.root):
            fetch_one(folder, entry)
    return folder.gallery(entry.name)


def fetch_one(folder: MirrorFolder, entry: SegmentEntry) -> None:
    """`fetch_segment` for the holder of `cache.updating`."""
    path, expected = folder.gallery(entry.name), entry.files[GALLERY]
    make_folder(path.parent)
    folder.pins[entry.name] = Pin(path.parent)
    was_here = _is(path, expected)
    if not was_here:
        for old in path.parent.iterdir():  # of another segment of this name, or damaged
            remove_tree(old)
        if not download(folder.store, segment_key(expected.sha256), path, expected):
            log.warning("%s/%s is missing", folder, segment_key(expected.sha256))
    if was_here and time.monotonic() - folder.watch.get("silent", -GRACE) < _SILENT:
        return
    try:
        _fetch_derived(folder, entry)
    except StoreError as error:
        if not was_here:
            raise
        folder.watch["silent"] = time.monotonic()
        log.warning("%s; what is derived from segments is made here", error)


def keep_in_cache(folder: IndexFolder, segments: Mapping[str, object]) -> None:
    """Let open segments, by name, keep their files in the cache for as long as they are open."""
    for name, pin in list(folder.pins.items()) if isinstance(folder, MirrorFolder) else ():
        if name in segments:
            pin.keep_for(segments[name])


def upload_segment(folder: IndexFolder, file: Path, *, derived: Iterable[Path] = ()) -> FileEntry:
    """Put a finished segment where the index is, without publishing it; returns what a manifest says about it.

    In a store it is there by its digest, so that the same segment may be uploaded twice. One that no generation names
    after a day is removed by the next writer. For an index on disk, use `adopt_segment`.

    Args:
        folder: from `folder_at`; of an index in a store.
        file: a finished gallery.h5.
        derived: what was derived from it and lies beside it, or below its folder.

    Raises:
        StoreError: the store cannot be reached, or refuses; the index is as it was.
    """
    assert isinstance(folder, MirrorFolder), "an index on disk has `adopt_segment`"
    entry = FileEntry.of(file)
    put_file(folder.store, segment_key(entry.sha256), file, entry)
    for path in derived:
        folder.store.upload(segment_key(entry.sha256, path.relative_to(file.parent).as_posix()), path)
    return entry


def is_own(key: str) -> bool:
    """Whether an object of such a name is part of an index, and not somebody else's."""
    return _OWN.fullmatch(key) is not None


def segment_key(sha256: str, name: str = GALLERY) -> str:
    """The key of a segment's file, or of a file derived from it."""
    return f"segments/{sha256}/{name}"


def manifest_key(generation: int, sha256: str) -> str:
    """The key of a manifest."""
    return f"manifests/{generation:06d}-{sha256}.json"


def shared_names(folder: IndexFolder) -> tuple[str, ...]:
    """Names of the files that belong to no generation."""
    return (folder.questions.name, MARKS, folder.skipped.name)


def files_of(folder: MirrorFolder, manifest: Manifest) -> Iterator[tuple[str, Path, FileEntry]]:
    """Key, place on this machine and description of every file that a generation names."""
    for entry in manifest.segments:
        file = entry.files[GALLERY]
        yield segment_key(file.sha256), folder.gallery(entry.name), file
    for mapping in manifest.mappings.values():
        for name, file in mapping.files.items():
            yield f"mappings/{name}", folder.mappings / name, file


def put_file(store: Store, key: str, file: Path, entry: FileEntry) -> None:
    """Upload a file whose key names its content, unless it is there and will stay. Raises StoreError."""
    there = store.info(key)
    if there is None or there.bytes != entry.bytes or abs(time.time() - there.modified) > GRACE / 2:
        store.upload(key, file)
        there = store.info(key)
        if there is None or there.bytes != entry.bytes:
            raise StoreError(f"{store}/{key}: the store has another file than was sent; run the same command again")


def download(store: Store, key: str, path: Path, expected: FileEntry) -> bool:
    """Fetch a file into the cache, unless it is there; False if the store has none.

    What contradicts its digest is fetched twice, and then stays: whoever opens it says so.
    """
    if _is(path, expected):
        return True
    for attempt in (1, 2):
        if store.info(key) is None:
            return False
        with write_atomically(path, expected.bytes) as temporary:
            store.download(key, temporary)
            sound = sha256_file(temporary) == expected.sha256
        if sound:
            break
        log.warning("%s/%s contradicts its digest%s", store, key, "; once more" * (attempt == 1))
    return True


def read_state(folder: MirrorFolder) -> dict[str, tuple[str, str]]:
    """Of the files that no manifest names: name -> version in the store, and SHA-256 of what was fetched."""
    try:
        values = parse_json(_state_file(folder.root).read_bytes())["files"]
        return {str(name): (str(version), str(sha256)) for name, (version, sha256) in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # fetched again
        return {}


def write_state(folder: MirrorFolder, files: Mapping[str, tuple[str, str]]) -> None:
    """What `read_state` reads. Raises DataError."""
    if files != read_state(folder) or not _state_file(folder.root).exists():
        write_json(_state_file(folder.root), {"url": folder.store.url, "files": dict(files)})


def _state_file(root: Path) -> Path:
    return root.with_name(f"{root.name}.json")


def _cached_url(path: Path) -> str | None:
    """The URL of the index that a folder of the cache is the copy of."""
    try:
        if path.absolute().parent != cache_folder().absolute():
            return None
        return str(parse_json(_state_file(path.absolute()).read_bytes())["url"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _is(path: Path, expected: FileEntry) -> bool:
    """Whether a file of the cache is what a manifest says."""
    try:
        return path.stat().st_size == expected.bytes and agrees(path, expected.sha256)
    except OSError:
        return False


def _fetch_derived(folder: MirrorFolder, entry: SegmentEntry) -> None:
    """Fetch what was derived from a segment and is not here. Records (.json) come after what they describe."""
    prefix = segment_key(entry.files[GALLERY].sha256, "").rstrip("/")
    place = folder.gallery(entry.name).parent
    for info in sorted(folder.store.listed(prefix), key=lambda info: (info.key.endswith(".json"), info.key)):
        name = info.key.removeprefix(f"{prefix}/")
        path = place / name
        if name == GALLERY or path.exists() or ".." in name.split("/"):
            continue
        with write_atomically(path, info.bytes, durable=False) as temporary:
            folder.store.download(info.key, temporary)
