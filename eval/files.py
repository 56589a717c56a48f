"""Text files: read with line numbers, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cir.errors import DataError


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file that are not blank, each with "file:line" to name it in messages.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
        if line.strip():
            yield where, line


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file through a temporary one beside it: a reader finds the old file or the new one.

    Folders on the way are made.

    Raises:
        DataError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror
        raise DataError(f"{path}: cannot be written ({reason}); choose another place or make room") from error
    finally:
        # Gone already when all went well, and never there in a folder that cannot be written.
        with suppress(OSError):
            temporary.unlink()
