"""`marks.jsonl`: what people have judged, one line for each query and image.

    {"caption": "in red", "image": "b.jpg", "image_sha256": "...", "right": true, "reference": "a.jpg", ...,
     "sha256": "..."}

Marking neither needs the writer's lock nor waits for it: the file itself is locked (`flock`) while lines are appended
in one write, and readers lock nothing. Each line carries its own digest. A last line without its end is that of a
process that was killed before it had kept the mark: readers leave it out, and the next mark takes its place.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from cir.errors import CorruptIndexError
from cir.files import disk_errors, parse_json, remove_tree, sha256_bytes, sync, write_bytes
from cir.indexer.storage.folder import MARKS, IndexFolder, checked, read_file, way_out
from cir.indexer.storage.publishing import sharing_lines
from cir.typed_json import Matching, from_json

_SHOWN = 5  # damaged lines that a message names


@dataclass(frozen=True)
class Mark:
    """Whether one image answers one query, as a person has judged it.

    Attributes:
        caption: of the query.
        image: id of the image.
        image_sha256: SHA-256 (64 hex digits) of its file, by which it is recognised when it was renamed.
        right: whether it answers the query.
        reference, reference_sha256: likewise of the query's reference; empty for a query by text alone.
        models: digests of the models among whose hits it was shown.
        created: UTC, ISO 8601.
        withdrawn: whether it only takes back an earlier mark; written only where it is true.
    """

    caption: str
    image: str
    image_sha256: Annotated[str, Matching("[0-9a-f]{64}")]
    right: bool
    reference: str = ""
    reference_sha256: Annotated[str, Matching("([0-9a-f]{64})?")] = ""
    models: tuple[str, ...] = ()
    created: str = ""
    withdrawn: bool = False


def append_marks(folder: IndexFolder, marks: Sequence[Mark]) -> None:
    """Keep marks: all of them or none, and durably. May wait for another process that is marking, not for a writer.

    Raises:
        DataError: the disk is full, or the index cannot be written to.
        StoreError: the object store that the index is in cannot be reached, or refuses.
        CorruptIndexError: `marks.jsonl` is a link out of the index.
    """
    path = checked(folder, folder.root / MARKS)
    data = "".join(map(_line, marks)).encode()
    with sharing_lines(folder, MARKS), disk_errors(path), _locked(path) as handle:
        end = _end_of_lines(handle)
        os.ftruncate(handle, end)
        try:
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(path)
        except BaseException:
            os.ftruncate(handle, end)
            raise
        if not end:
            sync(path.parent)


def merge_marks(folder: IndexFolder, sources: Sequence[IndexFolder]) -> int:
    """Write the marks of several indexes into a new one, which nobody else has opened yet; returns how many.

    Raises:
        CorruptIndexError: a damaged line in one of them.
        DataError: the disk refuses.
    """
    marks = sorted((mark for source in sources for mark in read_marks(source)), key=lambda mark: mark.created)
    if marks:
        _write(folder, marks)
    return len(marks)


def read_marks(folder: IndexFolder) -> list[Mark]:
    """The marks of an index, oldest first; none if it has none. Raises CorruptIndexError for a damaged line."""
    marks, damaged = _read(folder)
    if damaged:
        raise CorruptIndexError(_problem(folder, damaged))
    return marks


def check_marks(folder: IndexFolder) -> list[str]:
    """What is wrong with the marks, one line at most. Raises CorruptIndexError if the file cannot be read."""
    _, damaged = _read(folder)
    return [_problem(folder, damaged)] if damaged else []


def keep_whole_marks(folder: IndexFolder) -> None:
    """Leave damaged lines out of the file, for a repair. Raises DataError."""
    path = folder.root / MARKS
    if path.is_symlink() or not path.is_file():
        remove_tree(path)
        return
    with disk_errors(path), _locked(path):
        _write(folder, _read(folder)[0])


def _write(folder: IndexFolder, marks: Sequence[Mark]) -> None:
    write_bytes(folder.root / MARKS, "".join(map(_line, marks)).encode())


def _problem(folder: IndexFolder, damaged: Sequence[int]) -> str:
    numbers = ", ".join(map(str, damaged[:_SHOWN]))
    more = f" and {len(damaged) - _SHOWN:,} more" if len(damaged) > _SHOWN else ""
    lines = f"line {numbers} is" if len(damaged) == 1 else f"lines {numbers}{more} are"
    return f"{folder.root / MARKS}: {lines} damaged; {way_out(folder)}"


def _read(folder: IndexFolder) -> tuple[list[Mark], list[int]]:
    """The marks of all whole lines, and the numbers of the others; the last line counts if it has its end."""
    if not os.path.lexists(folder.root / MARKS):
        return [], []
    marks: list[Mark] = []
    damaged: list[int] = []
    for number, line in enumerate(read_file(folder, folder.root / MARKS).split(b"\n")[:-1], start=1):
        mark = _parsed(line)
        if mark:
            marks.append(mark)
        else:
            damaged.append(number)
    return marks, damaged


def _line(mark: Mark) -> str:
    values = asdict(mark)
    if not mark.withdrawn:
        del values["withdrawn"]
    return json.dumps({**values, "sha256": _digest(values)}) + "\n"


def _parsed(line: bytes) -> Mark | None:
    """The mark of a line, or None if the line is damaged."""
    try:
        values = parse_json(line)
        if not isinstance(values, dict) or values.pop("sha256", None) != _digest(values):
            return None
        return from_json(Mark, values)
    except ValueError:
        return None


def _digest(values: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(values, sort_keys=True).encode())[:16]


def _end_of_lines(handle: int) -> int:
    """The bytes of all lines that have their end."""
    size = os.fstat(handle).st_size
    if not size or os.pread(handle, 1, size - 1) == b"\n":
        return size
    return os.pread(handle, size, 0).rfind(b"\n") + 1


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open for appending, while no other process appends to it or replaces it."""
    handle = _take(path)
    try:
        yield handle
    finally:
        os.close(handle)


def _take(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        handle = os.open(path, flags, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # a repair has replaced the file while we waited
