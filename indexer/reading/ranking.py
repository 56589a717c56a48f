"""Two-stage search over live segments: candidates by one field, then ranking by the field that decides.

Rows of a gallery are numbered by ascending id, so "ties are broken by id" is "the lower row first", and neither the
order of building nor the number of segments shows in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.given import instance, whole_number
from cir.indexer.reading.live_segment import LiveSegment
from cir.query_vectors import QueryVectors

_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class RankingOptions:
    """How to rank.

    Attributes:
        k: number of hits per query; more than there are images means all.
        allowed: (N,) rows that may be hits; None for all.
        exact: score every image by what decides its rank. Otherwise large segments are searched approximately, and
            tokens rank only the best `candidates` by vector.
        candidates: number of candidates per space, at least k. Default max(10 k, 200).

    Raises:
        UsageError: k or candidates below 1 or no whole number, a mask that is no array.
    """

    k: int
    allowed: Mask | None = None
    exact: bool = False
    candidates: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole_number(self.k, "k"))
        if self.candidates is not None:
            object.__setattr__(self, "candidates", whole_number(self.candidates, "candidates"))
        if self.allowed is not None:
            instance(self.allowed, np.ndarray, "allowed", "give a mask of `Gallery.select`")


class Ranking:
    """Search over segments.

    Args:
        segments: all of a gallery, by number; those that are not searchable are skipped.
        segment_of_row: (N,) number of the segment of each gallery row.
        row_in_segment: (N,) row in that segment.

    Attributes:
        query_spaces: ids of the spaces in which a query needs a vector.
    """

    def __init__(self, segments: Sequence[LiveSegment], segment_of_row: Rows, row_in_segment: Rows) -> None:
        self._segments = segments
        self._segment_of_row, self._row_in_segment = segment_of_row, row_in_segment
        self._searched = [segment for segment in segments if segment.searchable]
        self.query_spaces = tuple(dict.fromkeys(segment.query_space for segment in self._searched))

    def search(
        self, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Floats]]:
        """The best k rows and their scores for each query, best first, ties by ascending row.

        Args:
            queries: B unit-norm queries, in every space of `query_spaces`.
            options: how to rank.
            excluded: B arrays of rows that may not be hits.
        """
        hits = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            batch = slice(start, start + _QUERIES_AT_ONCE)
            hits += self._search_batch(queries[batch], options, excluded[batch])
        return hits

    def scores(self, queries: QueryVectors, rows: Rows) -> Floats:
        """(B, n) float32 scores of some rows, as a search would give them; -inf for rows that are not searched."""
        scores = np.full((len(queries), len(rows)), -np.inf, np.float32)
        for segment, places in self._by_segment(rows):
            if segment.searchable:
                inside = self._row_in_segment[rows[places]]
                for number, query in enumerate(queries.by_space[segment.query_space]):
                    scores[number, places] = segment.scores(segment.rerank_field, inside, query)
        return scores

    def _search_batch(
        self, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Floats]]:
        found = [self._candidates(queries, space, options, excluded) for space in self.query_spaces]
        hits = []
        for number in range(len(queries)):
            query = {space: vectors[number] for space, vectors in queries.by_space.items()}
            rows = np.concatenate([np.empty(0, np.int64), *(in_space[number] for in_space in found)])
            hits.append(self._ranked(query, rows, options.k, final=True))
        return hits

    def _candidates(
        self, queries: QueryVectors, space: str, options: RankingOptions, excluded: Sequence[Rows]
    ) -> list[Rows]:
        """For each query the best rows of one space, unordered.

        k rows if candidates and ranking use the same field, otherwise max(10 k, 200) for reranking.
        """
        segments = [segment for segment in self._searched if segment.query_space == space]
        final = options.exact or all(segment.candidate_field == segment.rerank_field for segment in segments)
        enough = max(10 * options.k, 200) if options.candidates is None else options.candidates
        wanted = options.k if final else max(options.k, enough)
        # Excluded images are fetched and dropped; that many more keep the rest complete.
        fetched = wanted + max(map(len, excluded), default=0)
        found = []
        for segment in segments:
            field = segment.rerank_field if final else segment.candidate_field
            vectors = np.ascontiguousarray(queries.by_space[space], np.float32)
            found.append(segment.candidates(vectors, fetched, options.allowed, field, options.exact))
        best = []
        for number, barred in enumerate(excluded):
            rows = np.concatenate([np.empty(0, np.int64), *(in_segment[number] for in_segment in found)])
            rows = rows[~np.isin(rows, barred)]
            if len(rows) > wanted:
                query = {space: queries.by_space[space][number]}
                rows = self._ranked(query, rows, wanted, final=final)[0]
            best.append(rows)
        return best

    def _ranked(self, query: dict[str, Floats], rows: Rows, count: int, *, final: bool) -> tuple[Rows, Floats]:
        """The best `count` of some rows and their scores, ties by row; `query` is space -> (D,) float32."""
        scores = np.empty(len(rows), np.float32)
        for segment, places in self._by_segment(rows):
            inside = self._row_in_segment[rows[places]]
            order = np.argsort(inside)  # ascending reads are kinder to a cold disk
            field = segment.rerank_field if final else segment.candidate_field
            scores[places[order]] = segment.scores(field, inside[order], query[segment.query_space])
        order = np.lexsort((rows, -scores))[:count]
        return rows[order], scores[order]

    def _by_segment(self, rows: Rows) -> list[tuple[LiveSegment, Rows]]:
        """Each segment that holds some of the rows, with the places of those in `rows`."""
        numbers = self._segment_of_row[rows]
        return [(self._segments[number], np.flatnonzero(numbers == number)) for number in np.unique(numbers)]
