"""Queries of two vectors, a picture's and a caption's: an image scores by the product of its two similarities.

The product asks for both; a sum is content with much of one. Similarities to a text are smaller and lie closer together
than those to a picture, so each is first shifted by its low quantile over the gallery, below which it counts as nothing
(the "basic" of i-CIR, 2025, centres them). Candidates come from both vectors, and all are scored by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.indexer.reading.ranking import Hits, Ranking, RankingOptions, Scores, Search, best
from cir.indexer.reading.rows import GalleryRows
from cir.query_vectors import QueryVectors
from cir.types import Encoded

SAMPLE = 2000  # rows that the quantile is taken over
QUANTILE = 0.05
CANDIDATES = 20  # per hit and vector, and at least LEAST
LEAST = 1000


def ranked(
    ranking: Ranking, gallery: GalleryRows, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
) -> Hits:
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
        return ranking.answer([Search(QueryVectors(queries.by_space), options, excluded)])[0][0]
    found: Hits = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    for rows, product in ((np.flatnonzero(~two).tolist(), False), (np.flatnonzero(two).tolist(), True)):
        part, barred = queries[rows], [excluded[row] for row in rows]
        if product:
            hits = _products(ranking, gallery, part, options, barred)
        else:
            hits = ranking.answer([Search(part, options, barred)])[0][0]
        for row, hit in zip(rows, hits, strict=True):
            found[row] = hit
    return found


def scored(ranking: Ranking, gallery: GalleryRows, queries: QueryVectors, rows: Rows) -> Floats:
    """(B, n) float32 scores of some rows, as `ranked` gives them; -inf for rows that are not searched."""
    scores = ranking.answer(scores=[Scores(queries, rows)])[1][0]
    two = np.flatnonzero(queries.two).tolist()
    if two:
        products, sample = queries[two], _sample(gallery.live())
        wanted = [Scores(part, each) for each in (sample, rows) for part in _parts(products)]
        _, (*of_sample, first, second) = ranking.answer(scores=wanted)
        scores[two] = _multiplied(products, _floors(of_sample), (first, second))
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
    scores = ranking.scores_of(queries, row, encoded)
    two = np.flatnonzero(queries.two).tolist()
    if two:
        products, sample = queries[two], _sample(gallery.live())
        _, of_sample = ranking.answer(scores=[Scores(part, sample) for part in _parts(products)])
        values = [ranking.scores_of(part, row, encoded) for part in _parts(products)]
        scores[two] = _multiplied(products, _floors(of_sample), values)
    return scores


def _products(
    ranking: Ranking, gallery: GalleryRows, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
) -> Hits:
    live = gallery.live()
    parts, sample = _parts(queries), _sample(live)
    of_sample = [Scores(part, sample) for part in parts]
    if options.exact:
        every = np.flatnonzero(live if options.allowed is None else live & options.allowed)
        candidates = [np.setdiff1d(every, barred) for barred in excluded]
        _, low = ranking.answer(scores=of_sample)
    else:
        wanted = replace(options, k=max(LEAST, CANDIDATES * options.k))
        found, low = ranking.answer([Search(part, wanted, excluded) for part in parts], of_sample)
        candidates = [np.union1d(first, second) for (first, _), (second, _) in zip(*found, strict=True)]
    floors = _floors(low)
    hits: Hits = []
    # All queries at once, unless each scores every row: their scores would not fit in memory.
    step = 1 if options.exact else max(1, len(candidates))
    for start in range(0, len(candidates), step):
        numbers = range(start, min(start + step, len(candidates)))
        each = [Scores(part[[number]], candidates[number]) for number in numbers for part in parts]
        _, values = ranking.answer(scores=each)
        for place, number in enumerate(numbers):
            pair = values[2 * place : 2 * place + 2]
            scores = _multiplied(queries[[number]], floors[:, [number]], pair)[0]
            searched = np.isfinite(scores)
            rows, scores = candidates[number][searched], scores[searched]
            order = best(gallery, rows, scores, options.k)
            hits.append((rows[order], scores[order]))
    return hits


def _multiplied(queries: QueryVectors, floors: Floats, values: Sequence[Floats]) -> Floats:
    """(B, n) products of what n images score by either vector; `values` are those two, (B, n) each."""
    scores = np.ones((len(queries), 1), np.float32)
    for by_vector, floor, share in zip(values, floors, (queries.weight, 1 - queries.weight), strict=True):
        above = np.clip((by_vector - floor[:, None]) / (1 - floor[:, None]), 0, None)
        scores = np.where(np.isfinite(by_vector), scores * above**share, -np.inf).astype(np.float32)
    return scores


def _sample(live: Mask) -> Rows:
    """An even sample of the rows that count."""
    rows = np.flatnonzero(live)
    return rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)] if len(rows) else rows


def _floors(of_sample: Sequence[Floats]) -> Floats:
    """(2, B) the low quantile of the similarities of a sample of the gallery to either vector, (B, n) each."""
    floors = np.zeros((2, len(of_sample[0])), np.float32)
    for number, scores in enumerate(of_sample):
        searched = scores[:, np.isfinite(scores).all(axis=0)]
        if searched.shape[1]:
            floors[number] = np.quantile(searched, QUANTILE, axis=1)
    return np.minimum(floors, np.float32(0.999))


def _parts(queries: QueryVectors) -> tuple[QueryVectors, QueryVectors]:
    return QueryVectors(queries.by_space), QueryVectors(queries.texts or {})
