"""Queries of two vectors, a picture's and a caption's: an image scores by the product of its two similarities.

The product asks for both; a sum is content with much of one. Similarities to a text are smaller and lie closer together
than those to a picture, so each is first shifted by its low quantile over the gallery, below which it counts as nothing
(the "basic" of i-CIR, 2025, centres them). Candidates come from both vectors, and all are scored by both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.indexer.reading.ranking import Ranking, RankingOptions
from cir.indexer.reading.rows import GalleryRows
from cir.query_vectors import QueryVectors
from cir.types import Encoded

SAMPLE = 2000  # rows that the quantile is taken over
QUANTILE = 0.05
CANDIDATES = 20  # per hit and vector, and at least LEAST
LEAST = 1000


def ranked(
    ranking: Ranking, gallery: GalleryRows, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
) -> list[tuple[Rows, Floats]]:
    """The best k rows and their scores for each query, of one vector or of two; best first.

    Args:
        ranking: of the gallery.
        gallery: its rows.
        queries: B unit-norm queries.
        options: how to rank; with `exact`, a product scores every row.
        excluded: B arrays of rows that may not be hits.
    """
    two = queries.two
    if not two.any():
        return ranking.search(QueryVectors(queries.by_space), options, excluded)
    found: list[tuple[Rows, Floats]] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    for rows, search in ((np.flatnonzero(~two).tolist(), ranking.search), (np.flatnonzero(two).tolist(), None)):
        part, barred = queries[rows], [excluded[row] for row in rows]
        hits = search(part, options, barred) if search else _products(ranking, gallery.live(), part, options, barred)
        for row, hit in zip(rows, hits, strict=True):
            found[row] = hit
    return found


def scored(ranking: Ranking, gallery: GalleryRows, queries: QueryVectors, rows: Rows) -> Floats:
    """(B, n) float32 scores of some rows, as `ranked` gives them; -inf for rows that are not searched."""
    scores = ranking.scores(queries, rows)
    two = np.flatnonzero(queries.two).tolist()
    if two:
        products = queries[two]
        scores[two] = _multiplied(
            products, _floors(ranking, gallery.live(), products), partial(_of_rows, ranking, rows)
        )
    return scores


def scored_instead(ranking: Ranking, gallery: GalleryRows, queries: QueryVectors, row: int, encoded: Encoded) -> Floats:
    """(B, n) float32 scores that n other pictures would get in place of a row, by `scored`.

    Args:
        ranking: of the gallery.
        gallery: its rows.
        queries: B unit-norm queries.
        row: whose place they take.
        encoded: the n pictures, by the model that made the row.
    """

    def of_pictures(part: QueryVectors) -> Floats:
        return ranking.scores_of(part, row, encoded)

    scores = of_pictures(queries)
    two = np.flatnonzero(queries.two).tolist()
    if two:
        products = queries[two]
        scores[two] = _multiplied(products, _floors(ranking, gallery.live(), products), of_pictures)
    return scores


def _products(
    ranking: Ranking, live: Mask, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
) -> list[tuple[Rows, Floats]]:
    if options.exact:
        every = np.flatnonzero(live if options.allowed is None else live & options.allowed)
        candidates = [np.setdiff1d(every, barred) for barred in excluded]
    else:
        wanted = replace(options, k=max(LEAST, CANDIDATES * options.k))
        found = [ranking.search(part, wanted, excluded) for part in _parts(queries)]
        candidates = [np.union1d(first, second) for (first, _), (second, _) in zip(*found, strict=True)]
    floors = _floors(ranking, live, queries)
    hits = []
    for number, rows in enumerate(candidates):
        scores = _multiplied(queries[[number]], floors[:, [number]], partial(_of_rows, ranking, rows))[0]
        searched = np.isfinite(scores)
        rows, scores = rows[searched], scores[searched]
        best = np.argsort(-scores, kind="stable")[: options.k]
        hits.append((rows[best], scores[best]))
    return hits


def _of_rows(ranking: Ranking, rows: Rows, part: QueryVectors) -> Floats:
    return ranking.scores(part, rows)


def _multiplied(queries: QueryVectors, floors: Floats, score: Callable[[QueryVectors], Floats]) -> Floats:
    """(B, n) products of what n images score by either vector; `score` gives (B, n) for queries of one."""
    scores = np.ones((len(queries), 1), np.float32)
    for part, floor, share in zip(_parts(queries), floors, (queries.weight, 1 - queries.weight), strict=True):
        values = score(part)
        above = np.clip((values - floor[:, None]) / (1 - floor[:, None]), 0, None)
        scores = np.where(np.isfinite(values), scores * above**share, -np.inf).astype(np.float32)
    return scores


def _floors(ranking: Ranking, live: Mask, queries: QueryVectors) -> Floats:
    """(2, B) the low quantile of the similarities of an even sample of the gallery to either vector."""
    rows = np.flatnonzero(live)
    rows = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)] if len(rows) else rows
    floors = np.zeros((2, len(queries)), np.float32)
    for number, part in enumerate(_parts(queries)):
        scores = ranking.scores(part, rows)
        searched = scores[:, np.isfinite(scores).all(axis=0)]
        if searched.shape[1]:
            floors[number] = np.quantile(searched, QUANTILE, axis=1)
    return np.minimum(floors, np.float32(0.999))


def _parts(queries: QueryVectors) -> tuple[QueryVectors, QueryVectors]:
    return QueryVectors(queries.by_space), QueryVectors(queries.texts or {})
