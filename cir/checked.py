"""Which files were found to agree with their digests, so that opening an index need not read all of it again.

A file is known by its identity: device, inode, size, and the times of its last change. The kernel sets the latter
(`ctime`) at every write, and nobody can set it back, so a changed or copied file is read again. What changes without
the kernel, on the disk itself, is not noticed here: `cir verify` always reads everything.

The record is `cir/checked.jsonl` in the user's state folder, beside that of `cir.known`: an index from somebody else
cannot vouch for itself. Lines are only appended, in one write. Where it cannot be written nothing is
remembered, and files are read every time.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from cir.errors import DataError
from cir.files import read_regular, sha256_file, write_bytes
from cir.known import known_file

LINES = 4000  # at most; then the older half is forgotten
_LARGEST = 4_000_000  # bytes
_SETTLED = 50_000_000  # ns; a file that changed less long ago may change again without a new time of change


def checked_file() -> Path:
    """Where the record of this user is. Raises RuntimeError without a home folder."""
    return known_file().with_name("checked.jsonl")


def agrees(path: Path, sha256: str) -> bool:
    """Whether a file has this digest. It is read, unless it was before and has not changed since; then remembered.

    Raises:
        OSError: it cannot be read.
    """
    if is_checked(path, sha256):
        return True
    before = os.stat(path)
    if sha256_file(path) != sha256:
        return False
    if _line(before, sha256) == _line(os.stat(path), sha256):
        remember_checked(path, sha256)
    return True


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, as hex; remembered from when it was read last, if it has not changed since.

    Raises:
        OSError: it cannot be read.
    """
    before = os.stat(path)
    start = _line(before, "").removesuffix(b'"}')
    for line in reversed(_lines()):
        if line.startswith(start):
            return line[len(start) : -2].decode()
    digest = sha256_file(path)
    if _line(before, digest) == _line(os.stat(path), digest):
        remember_checked(path, digest)
    return digest


def is_checked(file: Path | int, sha256: str) -> bool:
    """Whether a file was found to have this digest, and has not changed since. The file itself is not read.

    Args:
        file: a path, or the descriptor of an open file.
        sha256: the digest that an index records for it.

    Raises:
        OSError: the file is not there.
    """
    return _line(os.stat(file), sha256) in _lines()


def remember_checked(file: Path | int, sha256: str) -> None:
    """Record that a file has this digest, which the caller has just computed from its bytes, or while writing them.

    A writer calls it when the file has its final name: a rename is a change too, but not one of the folder above. What
    changed a moment ago is not recorded, for the clock of files may be too coarse to tell the next change from it;
    large files take longer to digest than that, and small ones are quickly read.

    Raises:
        OSError: the file is not there.
    """
    status = os.stat(file)
    if time.time_ns() - status.st_ctime_ns < _SETTLED:
        return
    line = _line(status, sha256)
    with suppress(OSError, RuntimeError, DataError):
        path = checked_file()
        lines = _lines()
        if line in lines:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(lines) >= LINES or not _readable(path):
            # Lines that another process appends meanwhile are lost: their files are read once more.
            write_bytes(path, b"".join(old + b"\n" for old in [*lines[-LINES // 2 :], line]))
            return
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line + b"\n")
        finally:
            os.close(handle)


def _readable(path: Path) -> bool:
    return not path.exists() or path.stat().st_size <= _LARGEST


def _line(status: os.stat_result, sha256: str) -> bytes:
    """The line of a file: the same text for the same file, so that lines are compared and never parsed."""
    identity = {
        "device": status.st_dev,
        "inode": status.st_ino,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "sha256": sha256,
    }
    return json.dumps(identity).encode()


def _lines() -> list[bytes]:
    try:
        return read_regular(checked_file(), _LARGEST).splitlines()
    except (OSError, RuntimeError):  # no home folder is a RuntimeError
        return []
