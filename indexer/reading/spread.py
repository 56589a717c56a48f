"""Search over segments that are open elsewhere: the same answers as `Ranking` gives over all of them in one process.

Each part of a gallery has some of its segments, and offers its best candidates with what decides among them
(`Candidates`). Whoever merges them knows ids and places of all rows and needs no vector. A part that does not answer in
time is left out of the search, which says so (`Ranking.missing`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.indexer.reading.live_segment import LiveSegment
from cir.indexer.reading.ranking import QUERIES_AT_ONCE, Candidates, Hits, Ranking, Scores, Search, Stage, merged
from cir.indexer.reading.rows import GalleryRows
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import DamagedSegment
from cir.indexer.storage.manifest import Manifest, SegmentEntry

Pointer = tuple[int, str]  # number and SHA-256 of a manifest


@dataclass(frozen=True)
class Questions:
    """What one part is asked in one call; rows are numbered over its own segments, in the order of the manifest."""

    searches: Sequence[tuple[Search, Sequence[Stage]]]
    scores: Sequence[Scores]

    def __getstate__(self) -> dict[str, Any]:
        """On the way to another process a mask has a bit for each row, and goes once for all who share it."""
        bits = {id(mask): np.packbits(mask) for mask in self._masks() if mask is not None}
        masks = [None if mask is None else (bits[id(mask)], len(mask)) for mask in self._masks()]
        searches = [(_masked(search, None), stages) for search, stages in self.searches]
        return {"searches": searches, "scores": self.scores, "masks": masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        masks: dict[int, Mask] = {}
        searches = []
        for (search, stages), packed in zip(state["searches"], state["masks"], strict=True):
            if packed is not None and id(packed[0]) not in masks:
                masks[id(packed[0])] = np.unpackbits(packed[0], count=packed[1]).view(np.bool_)
            searches.append((search if packed is None else _masked(search, masks[id(packed[0])]), stages))
        self.__dict__.update(searches=searches, scores=state["scores"])

    def _masks(self) -> list[Mask | None]:
        return [search.options.allowed for search, _ in self.searches]


@dataclass(frozen=True)
class Offers:
    """What one part answers, in the order of the questions.

    Attributes:
        candidates: for each search, query and stage.
        scores: (B, n) float32 each.
    """

    candidates: Sequence[Sequence[Sequence[Candidates]]]
    scores: Sequence[Floats]


def offers_of(ranking: Ranking, questions: Questions) -> Offers:
    """What a part of a gallery answers."""
    candidates = [ranking.candidates(search, stages) for search, stages in questions.searches]
    return Offers(candidates, ranking.answer(scores=questions.scores)[1])


class Spread(Protocol):
    """Who searches the segments of a gallery in place of the process that has opened it."""

    @property
    def deadline(self) -> float:
        """Seconds after which a search goes on without the parts that have not answered."""

    def open(
        self, folder: IndexFolder, pointer: Pointer, manifest: Manifest, seconds: float | None = None
    ) -> tuple[DamagedSegment, ...]:
        """Have every part open a generation, beside those that are open; returns the segments that are damaged.

        Args:
            folder: the index.
            pointer: of the generation.
            manifest: of the generation.
            seconds: how long to wait; None for as long as it takes.

        Raises:
            ServerError: a part has not done so in this time.
            CorruptIndexError: a part cannot read a mapping.
        """

    def parts(self, pointer: Pointer) -> Sequence[Sequence[str]]:
        """Names of the segments of each part of an open generation."""

    def ask(self, pointer: Pointer, questions: Mapping[int, Questions], until: float) -> dict[int, Offers]:
        """One call to each of some parts of an open generation, and the answers that came until `time.monotonic()`."""

    def keep(self, pointer: Pointer, user: object) -> None:
        """Keep a generation open as long as an object lives."""

    def tend(self) -> None:
        """Look after the parts, while there is nothing to ask: those that were lost open their segments again."""


@dataclass(frozen=True)
class _Part:
    """A part of a gallery.

    Attributes:
        segments: numbers of its segments in the gallery, ascending.
        starts: for each of them the first row in the gallery, and after them one that no row reaches.
        own: for each of them the first row in the part, and after them the number of rows.
    """

    segments: list[int]
    starts: Rows
    own: Rows

    def rows_of(self, own: Rows) -> Rows:
        """Rows of the gallery, from those of the part."""
        places = np.searchsorted(self.own, own, side="right") - 1
        rows: Rows = own - self.own[places] + self.starts[places]
        return rows

    def own_of(self, rows: Rows) -> tuple[Rows, Rows]:
        """Which of some rows of the gallery the part has, as places in `rows`, and their rows in the part."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        places = np.flatnonzero((numbers >= 0) & (numbers < len(self.segments)))
        numbers = numbers[places]
        inside = rows[places] - self.starts[numbers]
        held = inside < np.diff(self.own)[numbers]
        own: Rows = (inside + self.own[numbers])[held]
        return places[held], own


class SpreadRanking(Ranking):
    """`Ranking` over the segments of an open generation that others search.

    Args:
        segments: all of a gallery, by number, none of whose vectors is read.
        rows: their rows.
        spread: who searches them; has opened the generation.
        pointer: of the generation.
        entries: what the manifest says about the segments.
    """

    def __init__(
        self,
        segments: Sequence[LiveSegment],
        rows: GalleryRows,
        spread: Spread,
        pointer: Pointer,
        entries: Sequence[SegmentEntry],
    ) -> None:
        super().__init__(segments, rows)
        self._spread, self._pointer = spread, pointer
        spread.keep(pointer, rows)
        numbers = {entry.name: number for number, entry in enumerate(entries)}
        lengths = np.diff(rows.starts).tolist()
        self._parts: dict[int, _Part] = {}
        for part, names in enumerate(spread.parts(pointer)):
            held = sorted(numbers[name] for name in names if name in numbers)
            if any(segments[number].searchable for number in held):
                starts = [*(rows.starts[number] for number in held), np.iinfo(np.int64).max]
                own = [0, *accumulate(lengths[number] for number in held)]
                self._parts[part] = _Part(held, np.array(starts, np.int64), np.array(own, np.int64))
        self._until = 0.0

    def begun(self) -> Ranking:
        """One search, with the time that it may take and what it has left out."""
        other = copy(self)
        other.missing, other._until = set(), time.monotonic() + self._spread.deadline
        return other

    def answer(self, searches: Sequence[Search] = (), scores: Sequence[Scores] = ()) -> tuple[list[Hits], list[Floats]]:
        """As `Ranking.answer`, by one call to each part."""
        batches = [list(_batches(search)) for search in searches]
        planned = [(batch, self.stages(batch.options, batch.excluded)) for in_search in batches for batch in in_search]
        questions, places = {}, {}
        for number, part in self._parts.items():
            masks: dict[int, Mask] = {}
            if self.missing.isdisjoint(part.segments):
                here = [part.own_of(wanted.rows) for wanted in scores]
                own = [Scores(wanted.queries, rows) for wanted, (_, rows) in zip(scores, here, strict=True)]
                if planned or any(len(wanted.rows) for wanted in own):
                    questions[number] = Questions(
                        [(_within(part, each, masks), stages) for each, stages in planned], own
                    )
                    places[number] = [which for which, _ in here]
        offers = self._spread.ask(self._pointer, questions, self._until) if questions else {}
        silent = [self._parts[number] for number in questions if number not in offers]
        searched = set(self._searched)
        self.missing = {*self.missing, *(number for part in silent for number in part.segments if number in searched)}
        found = [np.full((len(wanted.queries), len(wanted.rows)), -np.inf, np.float32) for wanted in scores]
        for number, offered in offers.items():
            for values, where, part_scores in zip(found, places[number], offered.scores, strict=True):
                values[:, where] = part_scores
        hits = iter([self._merged(place, batch, stages, offers) for place, (batch, stages) in enumerate(planned)])
        return [[hit for _ in in_search for hit in next(hits)] for in_search in batches], found

    def _merged(self, place: int, search: Search, stages: Sequence[Stage], offers: Mapping[int, Offers]) -> Hits:
        """The hits of the batch at a place among the questions."""
        hits = []
        for query in range(len(search.queries)):
            offered = [
                [replace(each, rows=self._parts[number].rows_of(each.rows)) for each in offer.candidates[place][query]]
                for number, offer in sorted(offers.items())
            ]
            hits.append(merged(self._rows, stages, offered, search.options.k))
        return hits


def _batches(search: Search) -> Iterable[Search]:
    """Searches of as many queries as are searched together."""
    for start in range(0, len(search.queries), QUERIES_AT_ONCE):
        batch = slice(start, start + QUERIES_AT_ONCE)
        yield Search(search.queries[batch], search.options, search.excluded[batch])


def _within(part: _Part, search: Search, masks: dict[int, Mask]) -> Search:
    """A search as a part does it: over its own rows.

    Args:
        part: which rows.
        search: over all rows.
        masks: what masks became in the part, by their identity; added to.
    """
    allowed = search.options.allowed
    if allowed is not None and id(allowed) not in masks:
        bounds = zip(part.starts.tolist(), np.diff(part.own).tolist(), strict=False)
        masks[id(allowed)] = np.concatenate([allowed[start : start + length] for start, length in bounds])
    excluded = [part.own_of(rows)[1] for rows in search.excluded]
    return replace(_masked(search, None if allowed is None else masks[id(allowed)]), excluded=excluded)


def _masked(search: Search, allowed: Mask | None) -> Search:
    """The search with another mask."""
    return replace(search, options=replace(search.options, allowed=allowed))
