"""Searches that say which share of the gallery they cover: of a spread gallery a part may not have answered in time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors


@dataclass(frozen=True)
class Covered:
    """What a search found, and among what.

    Attributes:
        hits: as `Gallery.search` gives them.
        searched: number of images that were compared.
        unsearched: number of images that were left out since no mapping reaches their space.
        coverage: share of the images that a search of the whole gallery compares, from 0 to 1.
    """

    hits: list[list[tuple[str, float]]]
    searched: int
    unsearched: int
    coverage: float


def search_covered(
    gallery: Gallery,
    queries: QueryVectors,
    options: RankingOptions,
    exclude: Sequence[Collection[str]] | None = None,
) -> Covered:
    """As `Gallery.search`, with what it covers."""
    hits, missing = gallery._search(queries, options, exclude)
    searched, unsearched = gallery.searched(options.allowed)
    if not missing:
        return Covered(hits, searched, unsearched, 1.0)
    counts = gallery.rows.live_counts
    lost = sum(counts[number] for number in missing)
    among = counts
    if options.allowed is not None:
        among = [int(np.count_nonzero(options.allowed[start:stop])) for start, stop in pairwise(gallery.rows.starts)]
    left_out = sum(among[number] for number in missing)
    return Covered(hits, searched - left_out, unsearched, 1 - lost / max(1, gallery.searched()[0]))
