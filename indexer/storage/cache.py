"""The local cache of indexes that are in an object store: where it is, how large it grows, and what must stay.

    CACHE/indexes/NAME/         what this machine has of one index, as an index folder (`mirror`); NAME is a digest of
                                the server's address and the URL
    CACHE/indexes/NAME.lock     held while NAME is brought up to date
    CACHE/indexes/NAME.json     the URL, and the versions of the files that no manifest names

CACHE is `cir` in `$XDG_CACHE_HOME`, by default `~/.cache`. Segments that no open index uses are removed when all
together exceed CIR_CACHE_GB (default 50), those that were used longest ago first. Everything else is small.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakKeyDictionary, finalize

from cir.errors import UsageError
from cir.files import disk_errors, make_folder, remove_tree, size_of
from cir.indexer.storage.folder import IndexFolder, numbered
from cir.indexer.storage.lock import writer_of

LIMIT = "CIR_CACHE_GB"
_holders: WeakKeyDictionary[object, Pin] = WeakKeyDictionary()


class Pin:
    """Keeps the folder of a segment in the cache, whichever process looks, until it is not referred to any more.

    Args:
        folder: of the segment.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finalize(self, os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_SH)
        with suppress(OSError):
            os.utime(folder)  # when it was used last

    def keep_for(self, holder: object) -> None:
        """Stay as long as an object does, such as the open segment."""
        _holders[holder] = self


def cache_folder() -> Path:
    """Where the indexes are. Raises RuntimeError without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cir" / "indexes"


@contextmanager
def updating(root: Path) -> Iterator[None]:
    """Held while a folder of the cache is brought up to date; waits for others that do so. Raises DataError."""
    path = root.with_name(f"{root.name}.lock")
    make_folder(root.parent)
    with disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            raise
    try:
        yield
    finally:
        os.close(handle)


def limit() -> int:
    """Bytes that segments may take. Raises UsageError if CIR_CACHE_GB is no number."""
    text = os.environ.get(LIMIT, "50")
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e9:
        raise UsageError(f"{LIMIT} is {text!r}; give gigabytes, such as 50")
    return int(size * 1e9)


def make_room(base: Path, most: int) -> None:
    """Remove the segments that were used longest ago until the others fit; one that an open index uses stays.

    Args:
        base: the folder of the indexes.
        most: bytes that segments may take.
    """
    sizes: dict[Path, tuple[float, int]] = {}
    for root in base.glob("*/"):
        if writer_of(IndexFolder(root)):  # its newest segments may be nowhere else
            continue
        for path in numbered(root / "segments"):
            with suppress(FileNotFoundError):
                sizes[path] = path.stat().st_mtime, size_of(path)
    total = sum(size for _, size in sizes.values())
    for path, (_, size) in sorted(sizes.items(), key=lambda item: item[1]):
        if total <= most:
            return
        if size and _emptied(path):
            total -= size


def _emptied(folder: Path) -> bool:
    """Remove what is in the folder of a segment, unless it is in use. The empty folder keeps the segment's name."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            remove_tree(path)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
