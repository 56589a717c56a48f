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
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cir.errors import IndexLockedError
from cir.files import disk_errors
from cir.indexer.storage.folder import IndexFolder


@contextmanager
def writer_lock(folder: IndexFolder) -> Iterator[None]:
    """Hold the index for writing.

    Raises:
        IndexLockedError: another writer has it; the message names its process, host and start.
        DataError: the folder cannot be written to.
    """
    path = folder.lock
    with disk_errors(path):
        handle = _take(path)
    try:
        with disk_errors(path):
            owner = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(handle)


def _take(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A failed first build removes its folder, lock included: a file without a name locks nobody out.
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError:
            message = f"{path.parent} is being written by {_owner(handle)}; wait until it is done, or stop it"
            os.close(handle)
            raise IndexLockedError(message) from None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # caught between taking the lock and signing it
        return "another process"
