"""The one way to read and write files: a file is complete or absent, never half-written.

A rename is atomic but not durable: the file is synced before it and the folder after it, so that neither a killed
process nor a power loss leaves a name that points at half a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cir.errors import DataError

LONGEST_LINE = 16_000_000  # bytes; the longest line of a data set is a query with many targets
NESTING, DIGITS = 100, 4300  # of JSON from elsewhere; numbers of more digits Python itself cannot write
_TEMPORARY = ".tmp-"
_BLOCK = 4096  # bytes that the smallest file takes
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_bytes(data: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, open for reading. A pipe or device in its place is refused and never waited for.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a folder.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "a pipe, device or folder, not a regular file", str(path))
    return open(handle, "rb")


def read_regular(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file, opened by `open_regular`.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder, or holds more than `limit` bytes (EFBIG).
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # One byte more than the file has, so that no room is made for `limit` bytes unless it has grown meanwhile.
        data = file.read(size + 1) if size <= limit else b""
        if len(data) > size:
            data += file.read(limit + 1 - len(data))
        if size > limit or len(data) > limit:
            raise OSError(errno.EFBIG, f"larger than {limit / 1e6:,.0f} MB", str(path))
        return data


def read_bounded(path: str | Path, limit: int) -> bytes:
    """The bytes of a file that the user names; unlike `read_regular` also of a pipe, such as a shell makes of `<(...)`.

    Raises:
        OSError: it cannot be read, or holds more than `limit` bytes (EFBIG).
    """
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / 1e6:,.0f} MB", str(path))
    return data


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The non-blank lines of a UTF-8 file that the user names, each with "file:line" for messages.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 or longer than LONGEST_LINE.
    """
    number = 0
    try:
        with path.open("rb") as file:
            while piece := file.readline(LONGEST_LINE + 1):
                for raw in piece.splitlines():  # one, or several where only carriage returns end lines
                    number += 1
                    line = _decode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, f"{path}:{number}")
                    if line.strip():
                        yield f"{path}:{number}", line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _decode(line: bytes, where: str) -> str:
    if len(line) > LONGEST_LINE:
        raise DataError(f"{where}: a line of more than {LONGEST_LINE / 1e6:.0f} MB; is this a text file?")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text that a user or another program wrote.

    Stricter and safer than `json.loads`: what is accepted can be written again and walked through. NaN, Infinity and
    numbers beyond the range of a float are refused, whole numbers of more than DIGITS digits, and values nested more
    than NESTING deep.

    Raises:
        ValueError: it is not JSON, or not UTF-8; the message says where.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_short)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " * (error.lineno > 1)
        raise ValueError(f"{error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    inside = [value]
    for _ in range(NESTING):
        inside = [inner for outer in inside for inner in _children(outer) if isinstance(inner, dict | list)]
        if not inside:
            return value
    raise ValueError("nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"a number as large as {digits[:20]} is not a float")
    return number


def _short(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits, {DIGITS} at most")
    return int(digits)


@contextmanager
def write_atomically(path: Path, need: int = 0, *, durable: bool = True) -> Iterator[Path]:
    """Write a file or a folder atomically: yields a temporary path, which is then synced and renamed to `path`.

    Args:
        path: the file to create or replace, or the folder to create; its parent is made if missing.
        need: bytes about to be written, at most. They are reserved for a moment first, so that a disk without room for
            them is found before anything is written.
        durable: whether it must survive a power loss; a cache need not, and is written faster.

    Raises:
        DataError: the disk is full or the folder cannot be written to; `path` is unchanged.
    """
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}")
    make_folder(path.parent)
    try:
        with disk_errors(path, need):
            _reserve(temporary, need)
            yield temporary
            for file in (*sorted(temporary.rglob("*")), temporary) if durable else ():
                sync(file)
            if durable:
                move(temporary, path)
            else:
                os.replace(temporary, path)
    finally:
        remove_tree(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a small file atomically and durably. Raises DataError when it cannot be written."""
    with write_atomically(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 text file atomically and durably. Raises DataError when it cannot be written."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Replace a JSON file atomically and durably. Raises DataError when it cannot be written."""
    text = json.dumps(content, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably. Raises DataError when that is impossible."""
    if path.is_dir():
        return
    with disk_errors(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync(folder.parent)


def move(source: Path, target: Path) -> None:
    """Rename a synced file or folder into place, replacing a file of that name, durably."""
    os.replace(source, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reserve(path: Path, need: int) -> None:
    """Raise OSError unless the disk has room for that many bytes; leaves no file behind."""
    if need and hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, need)
        path.unlink()


@contextmanager
def disk_errors(path: Path, need: int = 0) -> Iterator[None]:
    """Turn an OSError raised while writing `path` into a DataError that says what to do."""
    try:
        yield
    except DataError:  # a missing photo is an OSError too, but is not about `path`
        raise
    except OSError as error:
        if error.errno in _FULL:
            least = max(need, _BLOCK)
            room = f"{least / 1e6:,.0f} MB" if least >= 1e6 else f"{-(-least // 1000)} kB"
            raise DataError(
                f"disk full while writing {path}: free at least {room} or choose another place; "
                "run the same command to resume"
            ) from error
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; check the folder and its permissions"
        ) from error


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a `write_atomically` in progress; a killed writer leaves such a file."""
    return name.startswith(_TEMPORARY)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed writers below a folder; only the holder of the writer's lock may."""
    for path in list(folder.rglob(f"{_TEMPORARY}*")):
        remove_tree(path)


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder. One that another process renames or removes meanwhile is not counted."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                total += path.stat().st_size
    return total


def remove_tree(path: Path) -> None:
    """Remove a file or a folder if it exists; what cannot be removed stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
