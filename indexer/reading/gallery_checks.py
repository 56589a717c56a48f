"""What a gallery refuses to search with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cir.errors import SpaceMismatchError, UsageError
from cir.given import instance
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors

if TYPE_CHECKING:
    from cir.indexer.reading.gallery import Gallery


def check_queries(gallery: Gallery, queries: QueryVectors) -> None:
    """Refuse queries in other spaces (SpaceMismatchError), of another shape, or with NaN (UsageError)."""
    instance(queries, QueryVectors, "queries", "give what `Searcher.encode` returned")
    given, needed = set(queries.by_space), set(gallery.query_spaces)
    if given != needed:
        raise SpaceMismatchError(
            f"the query is in space {', '.join(sorted(given)) or 'none'}, but {gallery.folder} is served by model "
            f"{gallery.card.name} and searched in {', '.join(gallery.query_spaces)}; query with that model, or "
            "rebuild: cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
        )
    pairs = [*queries.by_space.items(), *(queries.texts or {}).items()]
    for space, vectors in pairs:
        dims = gallery.manifest.spaces[space].dims
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape != (len(queries), dims):
            raise UsageError(f"queries have shape {np.shape(vectors)}; {gallery.folder} needs (B, {dims})")
        if not np.isfinite(vectors).all():
            raise UsageError("a query has values that are not finite; check the model and its input")


def check_options(gallery: Gallery, options: RankingOptions) -> None:
    """Refuse a mask of other rows. Raises UsageError."""
    allowed = instance(options, RankingOptions, "options", "write RankingOptions(k)").allowed
    if allowed is not None and (allowed.shape != (len(gallery.rows),) or allowed.dtype != np.bool_):
        raise UsageError(
            f"the mask has shape {allowed.shape}, type {allowed.dtype}; it needs ({len(gallery.rows)},) bool"
        )
