"""Two-stage search over live segments: candidates by one field, then ranking by the field that decides.

Ties are broken by id, so that neither the order of building nor the number of segments shows in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.given import fraction, instance, whole_number
from cir.indexer.reading.live_segment import LiveSegment
from cir.indexer.reading.rows import GalleryRows
from cir.query_vectors import QueryVectors
from cir.types import DEFAULT_RECALL, Encoded

QUERIES_AT_ONCE = 256
_NO_ROWS = np.empty(0, np.int64)
_NO_SCORES = np.empty(0, np.float32)

Hits = list[tuple[Rows, Floats]]  # for each query its rows and their scores, best first


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


@dataclass(frozen=True)
class Search:
    """A search for the best rows: B unit-norm queries, how to rank, and B arrays of rows that may not be hits."""

    queries: QueryVectors
    options: RankingOptions
    excluded: Sequence[Rows]


@dataclass(frozen=True)
class Scores:
    """The scores of n rows for each of B unit-norm queries."""

    queries: QueryVectors
    rows: Rows


@dataclass(frozen=True)
class Stage:
    """How candidates are found in one space.

    Attributes:
        space: its id.
        final: whether candidates are found by what decides their rank.
        wanted: how many of the best candidates are ranked.
        fetched: how many are fetched from each segment, since some may be excluded.
    """

    space: str
    final: bool
    wanted: int
    fetched: int


@dataclass(frozen=True)
class Candidates:
    """Rows that one query found in one space, and what decides among them and those of other parts of a gallery.

    Attributes:
        rows: (n,).
        firsts: (n,) float32, by which the best `Stage.wanted` are candidates.
        finals: (n,) float32, by which candidates are ranked.
    """

    rows: Rows
    firsts: Floats
    finals: Floats


class Ranking:
    """Search over segments.

    Args:
        segments: all of a gallery, by number; those that are not searchable are skipped.
        rows: their rows.

    Attributes:
        query_spaces: ids of the spaces in which a query needs a vector.
        missing: numbers of the segments that a search has left out, since nobody answered for them in time.
    """

    missing: AbstractSet[int] = frozenset()

    def __init__(self, segments: Sequence[LiveSegment], rows: GalleryRows) -> None:
        self._segments = segments
        self._rows = rows
        self._searched = [number for number, segment in enumerate(segments) if segment.searchable]
        self.query_spaces = tuple(dict.fromkeys(segments[number].query_space for number in self._searched))

    def begun(self) -> Ranking:
        """What one search uses from its beginning to its end; `missing` is then about that search."""
        return self

    def answer(self, searches: Sequence[Search] = (), scores: Sequence[Scores] = ()) -> tuple[list[Hits], list[Floats]]:
        """The best rows of some searches, ties by ascending id; and some (B, n) float32 scores.

        Scores are those that a search would give; -inf for rows that are not searched.
        """
        return [self._search(search) for search in searches], [self._scores(wanted) for wanted in scores]

    def scores_of(self, queries: QueryVectors, row: int, encoded: Encoded) -> Floats:
        """(B, n) float32 scores that n other pictures would get in place of a row; -inf if it is not searched."""
        number, _ = self._rows.locate(row)
        segment = self._segments[number]
        count = len(encoded.tokens if encoded.vectors is None else encoded.vectors)  # type: ignore[arg-type]  # has one
        if not segment.searchable:
            return np.full((len(queries), count), -np.inf, np.float32)
        vectors = queries.by_space[segment.query_space]
        return np.reshape([segment.scores_of(encoded, query) for query in vectors], (len(queries), count))

    def stages(self, options: RankingOptions, excluded: Sequence[Rows]) -> list[Stage]:
        """How candidates of queries that are searched together are found, in each space of `query_spaces`.

        If candidates and ranking use different fields, the best max(10 k, 200) are reranked.
        """
        most = max(map(len, excluded), default=0)  # they are fetched and dropped; that many more keep the rest complete
        enough = max(10 * options.k, 200) if options.candidates is None else options.candidates
        stages = []
        for space in self.query_spaces:
            segments = [self._segments[number] for number in self._of(space)]
            final = options.exact or all(segment.candidate_field == segment.rerank_field for segment in segments)
            wanted = options.k if final else max(options.k, enough)
            stages.append(Stage(space, final, wanted, wanted + most))
        return stages

    def candidates(self, search: Search, stages: Sequence[Stage]) -> list[list[Candidates]]:
        """For each query and stage what these segments, as a part of a gallery, have to offer: at most `wanted` rows.

        Args:
            search: of at most `QUERIES_AT_ONCE` queries.
            stages: of the whole gallery.
        """
        found = [self._found(search, stage) for stage in stages]
        offered = []
        for number in range(len(search.queries)):
            query = {space: vectors[number] for space, vectors in search.queries.by_space.items()}
            offers = []
            for stage, rows in zip(stages, found, strict=True):
                offered_rows, firsts = self._ranked(query, rows[number], stage.wanted, final=stage.final)
                finals = firsts if stage.final else self._scored(query, offered_rows, final=True)
                offers.append(Candidates(offered_rows, firsts, finals))
            offered.append(offers)
        return offered

    def _search(self, search: Search) -> Hits:
        hits: Hits = []
        for start in range(0, len(search.queries), QUERIES_AT_ONCE):
            batch = slice(start, start + QUERIES_AT_ONCE)
            hits += self._search_batch(Search(search.queries[batch], search.options, search.excluded[batch]))
        return hits

    def _scores(self, wanted: Scores) -> Floats:
        queries, rows = wanted.queries, wanted.rows
        scores = np.full((len(queries), len(rows)), -np.inf, np.float32)
        for number, places in self._rows.by_segment(rows):
            segment = self._segments[number]
            if segment.searchable:
                inside = rows[places] - self._rows.starts[number]
                for place, query in enumerate(queries.by_space[segment.query_space]):
                    scores[place, places] = segment.scores(segment.rerank_field, inside, query)
        return scores

    def _search_batch(self, search: Search) -> Hits:
        stages = self.stages(search.options, search.excluded)
        found = [self._found(search, stage) for stage in stages]
        hits = []
        for number in range(len(search.queries)):
            query = {space: vectors[number] for space, vectors in search.queries.by_space.items()}
            for stage, in_space in zip(stages, found, strict=True):
                if not stage.final and len(in_space[number]) > stage.wanted:
                    in_space[number] = self._ranked(query, in_space[number], stage.wanted, final=False)[0]
            rows = np.concatenate([_NO_ROWS, *(in_space[number] for in_space in found)])
            hits.append(self._ranked(query, rows, search.options.k, final=True))
        return hits

    def _of(self, space: str) -> list[int]:
        """Numbers of the segments that are searched in a space."""
        return [number for number in self._searched if self._segments[number].query_space == space]

    def _found(self, search: Search, stage: Stage) -> list[Rows]:
        """For each query rows of one space, unordered, that include the best `wanted`."""
        options = search.options
        vectors = np.ascontiguousarray(search.queries.by_space[stage.space], np.float32)
        found = []
        for number in self._of(stage.space):
            segment = self._segments[number]
            start, stop = self._rows.starts[number : number + 2]
            allowed = None if options.allowed is None else options.allowed[start:stop]
            field = segment.rerank_field if stage.final else segment.candidate_field
            recall = None if options.exact else options.recall
            inside = segment.candidates(vectors, stage.fetched, allowed, field, recall)
            found.append([rows + start for rows in inside] if start else inside)
        together = []
        for number, barred in enumerate(search.excluded):
            rows = np.concatenate([_NO_ROWS, *(in_segment[number] for in_segment in found)])
            together.append(rows[~np.isin(rows, barred)] if len(barred) else rows)
        return together

    def _ranked(self, query: dict[str, Floats], rows: Rows, count: int, *, final: bool) -> tuple[Rows, Floats]:
        """The best `count` of some rows and their scores, ties by id; `query` is space -> (D,) float32."""
        rows = np.sort(rows)  # ascending reads are kinder to a cold disk
        scores = self._scored(query, rows, final=final)
        order = np.argsort(-scores, kind="stable")  # rows of one segment ascend by id
        if len(self._segments) > 1:
            order = _by_id(self._rows, rows, scores, order, count)
        order = order[:count]
        return rows[order], scores[order]

    def _scored(self, query: dict[str, Floats], rows: Rows, *, final: bool) -> Floats:
        """(n,) float32 scores of some rows, by what candidates are found by or by what ranks them."""
        scores = np.empty(len(rows), np.float32)
        for number, places in self._rows.by_segment(rows):
            segment = self._segments[number]
            field = segment.rerank_field if final else segment.candidate_field
            inside = rows[places] - self._rows.starts[number]
            scores[places] = segment.scores(field, inside, query[segment.query_space])
        return scores


def merged(
    rows: GalleryRows, stages: Sequence[Stage], parts: Sequence[Sequence[Candidates]], k: int
) -> tuple[Rows, Floats]:
    """The best k rows and their scores for one query, best first: what one search over all parts would give.

    Args:
        rows: of the whole gallery.
        stages: how candidates were found.
        parts: for each part of the gallery what it offers in each stage.
        k: number of hits.
    """
    kept = []
    for number, stage in enumerate(stages):
        offers = [offered[number] for offered in parts]
        found, firsts, finals = (
            np.concatenate([empty, *(getattr(offer, name) for offer in offers)])
            for name, empty in (("rows", _NO_ROWS), ("firsts", _NO_SCORES), ("finals", _NO_SCORES))
        )
        if not stage.final and len(found) > stage.wanted:
            order = best(rows, found, firsts, stage.wanted)
            found, finals = found[order], finals[order]
        kept.append((found, finals))
    found = np.concatenate([_NO_ROWS, *(in_space for in_space, _ in kept)])
    scores = np.concatenate([_NO_SCORES, *(in_space for _, in_space in kept)])
    order = best(rows, found, scores, k)
    return found[order], scores[order]


def best(gallery: GalleryRows, rows: Rows, scores: Floats, count: int) -> Rows:
    """Places of the best `count` of some rows, ties by id."""
    return _by_id(gallery, rows, scores, np.argsort(-scores, kind="stable"), count)[:count]


def _by_id(gallery: GalleryRows, rows: Rows, scores: Floats, order: Rows, count: int) -> Rows:
    """An order by score, stable by row, with ties among the best `count` ordered by id."""
    ranked = scores[order]
    if count < len(order):  # all that tie with the last
        order = order[: np.searchsorted(-ranked, -ranked[count - 1], side="right")]
        ranked = ranked[: len(order)]
    firsts = np.flatnonzero(np.diff(ranked, prepend=np.nan))  # of each group of equal scores
    if len(firsts) == len(order):
        return order
    ids = gallery.id_of
    groups = (
        sorted(group.tolist(), key=lambda place: ids(int(rows[place]))) if len(group) > 1 else group
        for group in np.split(order, firsts[1:])
    )
    return np.array([place for group in groups for place in group], np.int64)
