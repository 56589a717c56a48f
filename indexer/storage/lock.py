"""One writer at a time; readers need no lock.

The lock is the kernel's (`flock`), so it ends with its owner and is never stale; the text of the file only names the
owner.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from cir.errors import IndexLockedError
from cir.files import disk_errors
from cir.indexer.storage.folder import IndexFolder, checked

_held: set[int] = set()  # handles of this process


class WriterLock:
    """A lock that this process holds.

    Args:
        path: the lock file.
        handle: its open handle.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    def check(self) -> None:
        """Raise IndexLockedError if the lock file was removed or replaced, so that another writer may have begun."""
        if not _is_at(self._handle, self._path):
            raise IndexLockedError(
                f"{self._path} was removed while this process was writing, so another one may write too; "
                "nothing was published; run the same command again"
            )


@contextmanager
def writer_lock(folder: IndexFolder) -> Iterator[WriterLock]:
    """Hold the index for writing.

    Raises:
        IndexLockedError: another writer has it; the message names its process, host and start.
        DataError: the folder cannot be written to.
    """
    path = folder.lock
    with disk_errors(path):
        handle = _take(path, str(folder))
    _held.add(handle)
    try:
        with disk_errors(path):
            owner = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield WriterLock(path, handle)
    finally:
        if handle in _held:  # not so in a process that was forked meanwhile
            _held.discard(handle)
            os.close(handle)


def writer_of(folder: IndexFolder) -> str | None:
    """Who is writing to the index now: "process 12 on HOST since ..."; None if nobody is, or that cannot be told."""
    try:
        handle = os.open(checked(folder, folder.lock), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _owner(handle)
    except OSError:
        return None
    finally:
        os.close(handle)


def _take(path: Path, index: str) -> int:
    _register_fork_hook()
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A failed first build removes its folder, lock included: a file without a name locks nobody out.
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            message = f"{index} is being written by {_owner(handle)}; wait until it is done, or stop it"
            os.close(handle)
            raise IndexLockedError(message) from None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 1000, 0))
        pid, host, since = (str(owner[key])[:80] for key in ("pid", "host", "since"))
        return f"process {pid} on {host} since {since}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # caught between taking the lock and signing it
        return "another process"


_hooked = False


def _register_fork_hook() -> None:
    """A forked process shares the lock, and would keep it when its parent is killed: it lets go of it at once."""
    global _hooked
    if not _hooked and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_let_go)
        _hooked = True


def _let_go() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()
