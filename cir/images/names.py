"""The one form of an image's name: what a scan gives, and what people write in tables, queries and commands."""

from __future__ import annotations

import unicodedata


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
