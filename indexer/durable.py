"""Files that are whole or not there: written beside, synced, then renamed.

A rename is atomic but not durable; the file is synced before it and the folder after it, so that neither a
killed process nor a power loss leaves a name that points at half a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cir.errors import DataError

_TEMPORARY = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_bytes(data: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably. Raises DataError when that is impossible."""
    with writes_to(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync(folder.parent)


def move(source: Path, target: Path) -> None:
    """Rename a synced file or folder into place, replacing a file of that name, durably."""
    os.replace(source, target)
    sync(target.parent)


@contextmanager
def replacing(path: Path, need: int = 0) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path, which then takes the name `path`.

    Args:
        path: the file to create or replace; its folder exists.
        need: bytes about to be written. They are reserved for a moment first, because HDF5 does not survive a disk
            that fills under it: it crashes the process when the file is closed.

    Raises:
        DataError: the disk is full or the folder cannot be written to; `path` is as it was.
    """
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        with writes_to(path, need):
            _reserve(temporary, need)
            yield temporary
            sync(temporary)
            move(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reserve(path: Path, need: int) -> None:
    """Raise OSError unless so many bytes can be had at this place; leaves nothing behind."""
    if need and hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, need)
        path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a small file atomically and durably. Raises DataError when it cannot be written."""
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


@contextmanager
def writes_to(path: Path, need: int = 0) -> Iterator[None]:
    """Turn the operating system's refusals into a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            room = f"free at least {need / 1e6:.0f} MB" if need >= 1e6 else "free some space"
            raise DataError(
                f"disk full while writing {path}: {room} or choose another place; run the same command to resume"
            ) from error
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; check the folder and its permissions"
        ) from error


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `replacing` writes under; a killed writer leaves such a file."""
    return name.startswith(_TEMPORARY)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder and below it; only the holder of the lock may."""
    for path in list(folder.rglob(f"{_TEMPORARY}*")):
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder if it is there; what cannot be removed stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
