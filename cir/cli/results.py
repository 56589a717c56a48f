"""A search result as JSON, as a table and as paths."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from typing import Any

from cir.cli.process import one_line
from cir.images.names import shown
from cir.types import SearchResult

UNREAD_SHOWN = 100  # letters of what was not read; --json has all of it


def to_json(result: SearchResult) -> dict[str, Any]:
    """A result as plain JSON values."""
    hits = [
        {"rank": hit.rank, "id": hit.id, "score": round(hit.score, 6), "path": hit.path, "metadata": dict(hit.metadata)}
        for hit in result.hits
    ]
    query = result.query
    return {
        "id": query.id,
        "references": [str(reference) for reference in query.references],
        "text": query.text,
        "negatives": list(query.negatives),
        "where": [str(condition) for condition in query.where],
        "k": query.k,
        "model": result.model,
        "searched": result.searched,
        "unsearched": result.unsearched,
        "damaged": result.damaged,
        "seconds": round(result.seconds, 4),
        "confident": result.confident,
        "unread": list(result.unread),
        "hits": hits,
    }


def table(result: SearchResult) -> str:
    """Rank, score, id and metadata, aligned."""
    names = [shown(hit.id) for hit in result.hits]
    width = max(map(len, names), default=0)
    lines = []
    for hit, name in zip(result.hits, names, strict=True):
        metadata = shown(", ".join(value for value in hit.metadata.values() if value))
        lines.append(f"{hit.rank:>4}  {hit.score:.4f}  {name:<{width}}  {metadata}".rstrip())
    if result.unsearched:
        lines.append(
            f"{result.unsearched:,} images were not searched: no validated mapping to their space; see `cir info`"
        )
    if result.damaged:
        lines.append(f"{result.damaged:,} images were not searched: their part of the index is damaged; see `cir info`")
    if result.confident is False:
        lines.append("not confident: right answers of this model usually score higher than the best hit here")
    return "\n".join(lines)


def path_lines(result: SearchResult, *, null: bool) -> bytes:
    """The files of the hits, or the ids of those whose file is gone, as bytes.

    Args:
        result: of a search.
        null: end each with NUL and write it as it is; otherwise each is a line, and what would break it is escaped.
    """
    names = [hit.path or hit.id for hit in result.hits]
    if null:
        return b"".join(os.fsencode(name) + b"\0" for name in names)
    return b"".join(os.fsencode(_escaped(name)) + b"\n" for name in names)


def warnings(result: SearchResult, *, escaped: bool) -> Iterator[str]:
    """What a person should know beside the hits.

    Args:
        result: of a search.
        escaped: whether it was written by `path_lines` without NUL.
    """
    for end in result.unread:
        words = len(end.split())
        start = textwrap.shorten(one_line(end), UNREAD_SHOWN, placeholder=" ...")
        yield f"not read, because the text is longer than the model reads: its last {words:,} words, {start}"
    odd = sum(_escaped(hit.path or hit.id) != (hit.path or hit.id) for hit in result.hits)
    if escaped and odd:
        yield f"{odd:,} paths hold control characters, which are escaped here; -0 writes them as they are"


def _escaped(name: str) -> str:
    """A file name on one line; bytes that are no text stay as they are, for the program that reads them."""
    return "".join(c if "\udc80" <= c <= "\udcff" else shown(c) for c in name)
