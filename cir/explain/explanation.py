"""What an explanation holds: heat maps, and scores with parts of the query left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cir.arrays import Floats
    from cir.types import Query


@dataclass(frozen=True)
class HeatMap:
    """Where a score reacts, over one picture.

    The picture, upright and whole, is divided into h x w cells of equal size: the cell (r, c) reaches from r / h to
    (r + 1) / h of its height, from the top, and from c / w to (c + 1) / w of its width, from the left. So values can be
    laid over the picture at any size.

    Attributes:
        values: (h, w) float32 in [0, 1]: 1 in the cell to which the score reacts most, 0 in those to which it does not.
            All are 0 where it reacts to none.
        strongest: what a value of 1 stands for, as a difference of scores: by "occlusion", how far the score moves when
            that cell is covered; by "gradients", that cell's part of the difference between the picture and none.
        method: "gradients" or "occlusion".
        score: of the picture as it was encoded for the map. It is the explanation's, but for rounding, unless a note
            says why not.
    """

    values: Floats
    strongest: float
    method: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "values": [[round(float(value), 4) for value in row] for row in self.values],
            "strongest": round(self.strongest, 6),
            "method": self.method,
            "score": round(self.score, 6),
        }


@dataclass(frozen=True)
class Measured:
    """What the hit scores for a query.

    Attributes:
        score: as in a search with that query.
        above: share of the gallery, in [0, 1], that scores lower; the references are left out, as in a search. Measured
            on an even sample of at most 2,000 images.
    """

    score: float
    above: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"score": round(self.score, 6), "above": round(self.above, 4)}


@dataclass(frozen=True)
class Part:
    """A part of a query: what the hit scores without it, and with nothing else.

    Differences of several parts need not add up to the score: each compares two queries, and parts work together.

    Attributes:
        kind: "references", all of them; "reference" or "negative", one of several; or "text".
        number: which reference or negative, from 0; 0 for the others.
        without: for the query without this part; None where nothing would be left.
        alone: for a query of this part alone; None for a negative.
        difference: the hit's score minus that without the part; None where nothing would be left.
    """

    kind: str
    number: int
    without: Measured | None
    alone: Measured | None
    difference: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "kind": self.kind,
            "number": self.number,
            "without": None if self.without is None else self.without.to_json(),
            "alone": None if self.alone is None else self.alone.to_json(),
            "difference": None if self.difference is None else round(self.difference, 6),
        }


@dataclass(frozen=True)
class Explanation:
    """Why an image is a hit of a query: what its score reacts to, and what the parts of the query do.

    Attributes:
        query: the query.
        id: the hit, an id of the gallery.
        measured: its score, which is that of the search, and how much of the gallery it is above.
        model: name of the model that serves the index.
        made_by: name of the model that made the hit's vector; another one where the index had its model replaced.
        references: a map for each reference, in order; None where there is none, as a note says.
        hit: the map over the hit, for the whole query; None where there is none.
        words: the map over the hit for the text alone; None for a query without references, or without a text.
        parts: of the query; empty if it has only one.
        notes: one line for each thing that is missing or not as it seems.
        seconds: time spent, shared among hits that were explained together.
    """

    query: Query
    id: str
    measured: Measured
    model: str
    made_by: str
    references: tuple[HeatMap | None, ...]
    hit: HeatMap | None
    words: HeatMap | None
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def method(self) -> str | None:
        """How the maps were made, "gradients", "occlusion" or both; None without maps."""
        methods = {each.method for each in (*self.references, self.hit, self.words) if each is not None}
        return " and ".join(sorted(methods)) or None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; references are named, pictures and bytes are not repeated."""
        names = [each if isinstance(each, str) else None for each in self.query.references]
        return {
            "id": self.id,
            **self.measured.to_json(),
            "references": names,
            "text": self.query.text,
            "negatives": list(self.query.negatives),
            "model": self.model,
            "made_by": self.made_by,
            "method": self.method,
            "maps": {
                "references": [None if each is None else each.to_json() for each in self.references],
                "hit": None if self.hit is None else self.hit.to_json(),
                "words": None if self.words is None else self.words.to_json(),
            },
            "parts": [part.to_json() for part in self.parts],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 4),
        }


def scaled(moves: Floats, method: str, score: float) -> HeatMap:
    """(h, w) differences of scores as a map; those that speak against the score count as nothing."""
    strongest = max(0.0, float(moves.max()))
    values = np.clip(moves, 0, None) / strongest if strongest > 0 else np.zeros(moves.shape)
    return HeatMap(values.astype(np.float32), strongest, method, score)
