"""A picture on standard input, as a reference."""

from __future__ import annotations

import sys

from cir.errors import DataError, UsageError

STDIN = "-"
LARGEST = 1_000_000_000  # bytes of a picture on stdin


def read_stdin() -> bytes:
    """The picture on standard input. Raises DataError when there is none, UsageError at a terminal."""
    if sys.stdin is None:
        raise DataError("standard input is closed; -i - reads a picture from it")
    if sys.stdin.isatty():
        raise UsageError("-i - reads a picture from standard input: cir query INDEX -i - < picture.jpg")
    try:
        data = sys.stdin.buffer.read(LARGEST + 1)
    except OSError as error:
        raise DataError(f"standard input cannot be read: {error.strerror}") from None
    if not data:
        raise DataError("nothing on standard input; -i - reads a picture from it")
    if len(data) > LARGEST:
        raise DataError(f"more than {LARGEST / 1e6:,.0f} MB on standard input; -i - reads one picture from it")
    return data
