"""Names and messages for a terminal: a file may be called anything, also what a terminal takes for a command."""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, what turns the direction of writing around, and bytes of a file
# name that are no text (lone surrogates).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with everything escaped that would break a line or drive a terminal: "a\\nb" -> "a\\\\nb"."""
    return _UNPRINTABLE.sub(_escape, text)


def one_line(message: str) -> str:
    """A message on one line, without control characters."""
    return printable(" ".join(message.split()))


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as Python's file functions give it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
