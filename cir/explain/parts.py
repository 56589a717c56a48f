"""How much of a score comes from the picture and how much from the words: queries with one part left out, or alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cir.explain.explanation import Measured, Part

if TYPE_CHECKING:
    from cir.arrays import Floats
    from cir.indexer.reading.gallery import Gallery
    from cir.types import Query

SAMPLE = 2000  # images that a score is compared with


@dataclass(frozen=True)
class LeftOut:
    """A part of a query, and the queries that measure it.

    Attributes:
        kind, number: as in `Part`.
        without: the query without it; None where nothing would be left.
        alone: a query of it alone; None for a negative.
    """

    kind: str
    number: int
    without: Query | None
    alone: Query | None

    @property
    def queries(self) -> list[Query]:
        """Those that there are."""
        return [query for query in (self.without, self.alone) if query is not None]

    def measured(self, whole: Measured, values: Iterator[Measured]) -> Part:
        """The part, of what its `queries` gave, in their order."""
        without = next(values) if self.without is not None else None
        alone = next(values) if self.alone is not None else None
        difference = None if without is None else whole.score - without.score
        return Part(self.kind, self.number, without, alone, difference)


def left_out(query: Query) -> list[LeftOut]:
    """The parts of a query that has several; none of a query of one part."""
    pictures, words = query.references, query.text.strip()
    parts = []
    if pictures and (words or query.negatives):
        rest = replace(query, references=()) if words else None
        parts.append(LeftOut("references", 0, rest, replace(query, text="", negatives=())))
    if len(pictures) > 1:
        for number, picture in enumerate(pictures):
            others = pictures[:number] + pictures[number + 1 :]
            alone = replace(query, references=(picture,), text="", negatives=())
            parts.append(LeftOut("reference", number, replace(query, references=others), alone))
    if words and (pictures or query.negatives):
        rest = replace(query, text="") if pictures else None
        parts.append(LeftOut("text", 0, rest, replace(query, references=(), negatives=())))
    if pictures or words:
        for number in range(len(query.negatives)):
            others = query.negatives[:number] + query.negatives[number + 1 :]
            parts.append(LeftOut("negative", number, replace(query, negatives=others), None))
    return parts


def sample_of(gallery: Gallery, excluded: Collection[str]) -> list[str]:
    """Ids of an even sample of the gallery; those excluded are left out."""
    rows = np.flatnonzero(gallery.rows.live())
    if len(rows) > SAMPLE:
        rows = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
    return [image_id for image_id in map(gallery.rows.id_of, rows.tolist()) if image_id not in excluded]


def compared(scores: Sequence[float] | Floats, ids: Sequence[str], others: Floats, image_id: str) -> list[Measured]:
    """What an image scores for B queries, and how much of a sample of n images it is above.

    Args:
        scores: B scores of the image.
        ids: of the sample.
        others: (B, n) scores of the sample; -inf for images that are not searched.
        image_id: the image; it is not compared with itself.
    """
    counted = np.array([each != image_id for each in ids], np.bool_)
    measured = []
    for score, row in zip(scores, others, strict=True):
        values = row[counted & np.isfinite(row)]
        above = float(np.mean(values < score)) if len(values) else 1.0
        measured.append(Measured(float(score), above))
    return measured
