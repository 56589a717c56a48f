"""Two-stage search over live segments: candidates by one field, then ranking by the field that decides.

Ties are broken by id, so that neither the order of building nor the number of segments shows in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.given import fraction, instance, whole_number
from cir.indexer.reading.live_segment import LiveSegment
from cir.indexer.reading.rows import GalleryRows
from cir.query_vectors import QueryVectors
from cir.types import DEFAULT_RECALL, Encoded

_QUERIES_AT_ONCE = 256
_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class RankingOptions:
    """How to rank.

    Attributes:
        k: number of hits per query; more than there are images means all.
        allowed: mask of the rows that may be hits (`Gallery.select`); None for all.
        exact: score every image by what decides its rank. Otherwise large segments are searched approximately, and
            tokens rank only the best `candidates` by vector.
        candidates: number of candidates per space, at least k. Default max(10 k, 200).
        recall: the share of the best rows that an approximate search must find, as was measured when the approximate
            index was built; where it cannot, every row is scanned. Above 0, at most 1.

    Raises:
        UsageError: k or candidates below 1 or no whole number, a mask that is no array, a recall out of range.
    """

    k: int
    allowed: Mask | None = None
    exact: bool = False
    candidates: int | None = None
    recall: float = DEFAULT_RECALL

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole_number(self.k, "k"))
        if self.candidates is not None:
            object.__setattr__(self, "candidates", whole_number(self.candidates, "candidates"))
        if self.allowed is not None:
            instance(self.allowed, np.ndarray, "allowed", "give a mask of `Gallery.select`")
        object.__setattr__(self, "recall", fraction(self.recall, "recall"))


class Ranking:
    """Search over segments.

    Args:
        segments: all of a gallery, by number; those that are not searchable are skipped.
        rows: their rows.

    Attributes:
        query_spaces: ids of the spaces in which a query needs a vector.
    """

    def __init__(self, segments: Sequence[LiveSegment], rows: GalleryRows) -> None:
        self._segments = segments
        self._rows = rows
        self._searched = [number for number, segment in enumerate(segments) if segment.searchable]
        self.query_spaces = tuple(dict.fromkeys(segments[number].query_space for number in self._searched))

    def search(
        self, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Floats]]:
        """The best k rows and their scores for each query, best first, ties by ascending id.

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
        for number, places in self._rows.by_segment(rows):
            segment = self._segments[number]
            if segment.searchable:
                inside = rows[places] - self._rows.starts[number]
                for place, query in enumerate(queries.by_space[segment.query_space]):
                    scores[place, places] = segment.scores(segment.rerank_field, inside, query)
        return scores

    def scores_of(self, queries: QueryVectors, row: int, encoded: Encoded) -> Floats:
        """(B, n) float32 scores that n other pictures would get in place of a row; -inf if it is not searched."""
        number, _ = self._rows.locate(row)
        segment = self._segments[number]
        count = len(encoded.tokens if encoded.vectors is None else encoded.vectors)  # type: ignore[arg-type]  # has one
        if not segment.searchable:
            return np.full((len(queries), count), -np.inf, np.float32)
        vectors = queries.by_space[segment.query_space]
        return np.reshape([segment.scores_of(encoded, query) for query in vectors], (len(queries), count))

    def _search_batch(
        self, queries: QueryVectors, options: RankingOptions, excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Floats]]:
        found = [self._candidates(queries, space, options, excluded) for space in self.query_spaces]
        hits = []
        for number in range(len(queries)):
            query = {space: vectors[number] for space, vectors in queries.by_space.items()}
            rows = np.concatenate([_NO_ROWS, *(in_space[number] for in_space in found)])
            hits.append(self._ranked(query, rows, options.k, final=True))
        return hits

    def _candidates(
        self, queries: QueryVectors, space: str, options: RankingOptions, excluded: Sequence[Rows]
    ) -> list[Rows]:
        """For each query rows of one space, unordered, that include its best k.

        If candidates and ranking use different fields, these are the best max(10 k, 200) for reranking.
        """
        numbers = [number for number in self._searched if self._segments[number].query_space == space]
        segments = [self._segments[number] for number in numbers]
        final = options.exact or all(segment.candidate_field == segment.rerank_field for segment in segments)
        enough = max(10 * options.k, 200) if options.candidates is None else options.candidates
        wanted = options.k if final else max(options.k, enough)
        # Excluded images are fetched and dropped; that many more keep the rest complete.
        fetched = wanted + max(map(len, excluded), default=0)
        vectors = np.ascontiguousarray(queries.by_space[space], np.float32)
        found = []
        for number, segment in zip(numbers, segments, strict=True):
            start, stop = self._rows.starts[number : number + 2]
            allowed = None if options.allowed is None else options.allowed[start:stop]
            field = segment.rerank_field if final else segment.candidate_field
            inside = segment.candidates(vectors, fetched, allowed, field, None if options.exact else options.recall)
            found.append([rows + start for rows in inside] if start else inside)
        best = []
        for number, barred in enumerate(excluded):
            rows = np.concatenate([_NO_ROWS, *(in_segment[number] for in_segment in found)])
            if len(barred):
                rows = rows[~np.isin(rows, barred)]
            if not final and len(rows) > wanted:
                query = {space: queries.by_space[space][number]}
                rows = self._ranked(query, rows, wanted, final=False)[0]
            best.append(rows)
        return best

    def _ranked(self, query: dict[str, Floats], rows: Rows, count: int, *, final: bool) -> tuple[Rows, Floats]:
        """The best `count` of some rows and their scores, ties by id; `query` is space -> (D,) float32."""
        rows = np.sort(rows)  # ascending reads are kinder to a cold disk
        scores = np.empty(len(rows), np.float32)
        for number, places in self._rows.by_segment(rows):
            segment = self._segments[number]
            field = segment.rerank_field if final else segment.candidate_field
            inside = rows[places] - self._rows.starts[number]
            scores[places] = segment.scores(field, inside, query[segment.query_space])
        order = np.argsort(-scores, kind="stable")  # rows of one segment ascend by id
        if len(self._segments) > 1:
            order = self._by_id(rows, scores, order, count)
        order = order[:count]
        return rows[order], scores[order]

    def _by_id(self, rows: Rows, scores: Floats, order: Rows, count: int) -> Rows:
        """An order by score, stable by row, with ties among the best `count` ordered by id."""
        ranked = scores[order]
        if count < len(order):  # all that tie with the last
            order = order[: np.searchsorted(-ranked, -ranked[count - 1], side="right")]
            ranked = ranked[: len(order)]
        firsts = np.flatnonzero(np.diff(ranked, prepend=np.nan))  # of each group of equal scores
        if len(firsts) == len(order):
            return order
        ids = self._rows.id_of
        groups = (
            sorted(group.tolist(), key=lambda place: ids(int(rows[place]))) if len(group) > 1 else group
            for group in np.split(order, firsts[1:])
        )
        return np.array([place for group in groups for place in group], np.int64)
