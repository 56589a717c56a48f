"""The one form of an image's name: what a scan gives, and what people write in tables, queries and commands."""

from __future__ import annotations

import unicodedata

# Control characters, surrogates, private and unassigned characters, and line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # are part of ordinary words and of emoji


def canonical_id(name: str) -> str:
    """A name in the form of ids: POSIX, in Unicode's composed form (NFC), without empty and "." parts.

    macOS stores names decomposed (NFD), people type them composed; both are one name.

    Raises:
        ValueError: an absolute name, one that leads out by "..", an empty one, or one with a NUL character.
    """
    if name.startswith("/") or "\0" in name:
        raise ValueError("absolute, or with a NUL character")
    parts = [part for part in unicodedata.normalize("NFC", name).split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ValueError("empty, or leads out of its folder")
    return "/".join(parts)


def shown(text: str) -> str:
    r"""A name for people, on one line: characters that cannot be seen, or that change how others are seen, as `\n`."""
    return "".join(
        letter
        if letter in _JOINERS or unicodedata.category(letter) not in _UNPRINTABLE
        else letter.encode("unicode_escape").decode()
        for letter in text
    )
