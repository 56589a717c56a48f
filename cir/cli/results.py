"""A search result as JSON and as a table."""

from __future__ import annotations

from typing import Any

from cir.conditions import Condition
from cir.types import SearchResult


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
        "where": [str(Condition(*condition)) for condition in query.where],
        "k": query.k,
        "model": result.model,
        "searched": result.searched,
        "unsearched": result.unsearched,
        "seconds": round(result.seconds, 4),
        "confident": result.confident,
        "hits": hits,
    }


def table(result: SearchResult) -> str:
    """Rank, score, id and metadata, aligned."""
    width = max((len(hit.id) for hit in result.hits), default=0)
    lines = []
    for hit in result.hits:
        metadata = ", ".join(value for value in hit.metadata.values() if value)
        lines.append(f"{hit.rank:>4}  {hit.score:.4f}  {hit.id:<{width}}  {metadata}".rstrip())
    if result.unsearched:
        lines.append(
            f"{result.unsearched:,} images were not searched: no validated mapping to their space; see `cir info`"
        )
    if result.confident is False:
        lines.append("not confident: right answers of this model usually score higher than the best hit here")
    return "\n".join(lines)
