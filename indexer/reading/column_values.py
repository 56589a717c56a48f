"""What the metadata columns of a gallery hold: values with counts, ranges of numbers; what a filter offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cir.arrays import Mask
from cir.conditions import is_number, key_of
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.rows import column_of
from cir.indexer.storage.columns import Codes, Column, Numbers

MOST_DISTINCT = 10_000  # values of one column that are counted; of more it is a column of texts


@dataclass(frozen=True)
class ColumnValues:
    """What one column holds over the live images.

    Attributes:
        name: of the column.
        images: how many have a value.
        missing: how many have none.
        values: value -> images, the most frequent first; values that are equal to conditions are one, under their most
            frequent spelling. None where they are too many to count.
        minimum, maximum: of the values that are numbers; None without any.
    """

    name: str
    images: int
    missing: int
    values: dict[str, int] | None
    minimum: float | None = None
    maximum: float | None = None


def column_values(gallery: Gallery) -> list[ColumnValues]:
    """What each column of a gallery holds. Reads every value of the index, so ask once per generation.

    Raises:
        CorruptIndexError: a damaged column.
    """
    total = len(gallery)
    return [_values(name, column_of(gallery.rows, name), total) for name in gallery.columns]


def _values(name: str, parts: list[tuple[Column, Mask]], total: int) -> ColumnValues:
    counts: Counter[str] | None = Counter()
    images = 0
    bounds: list[float] = []
    for column, mask in parts:
        if isinstance(column, Numbers):
            numbers = column.values[mask]
            numbers = numbers[~np.isnan(numbers)]
            images += len(numbers)
            bounds += [float(numbers.min()), float(numbers.max())] if len(numbers) else []
        else:
            images += _present(column, mask)
        if counts is not None:
            counts = _counted(counts, column, mask)
    if counts is not None:
        bounds += [float(value) for value in counts if is_number(value)]
    values = None if counts is None else _merged(counts)
    return ColumnValues(name, images, total - images, values, min(bounds, default=None), max(bounds, default=None))


def _present(column: Column, mask: Mask) -> int:
    """How many live rows have a value."""
    if isinstance(column, Codes):
        empty = [code for code, text in enumerate(column.dictionary) if not text]
        return int(mask.sum()) - int(np.isin(column.codes[mask], empty).sum())
    return sum(bool(text) for text, live in zip(column, mask.tolist(), strict=True) if live)


def _counted(counts: Counter[str], column: Column, mask: Mask) -> Counter[str] | None:
    """Further counts; None where there are too many values."""
    if isinstance(column, Codes):
        column.check()
        amounts = np.bincount(column.codes[mask], minlength=len(column.dictionary))
        counted: Iterable[tuple[str, int]] = zip(column.dictionary, amounts.tolist(), strict=True)
    elif isinstance(column, Numbers):
        distinct, amounts = np.unique(column.values[mask], return_counts=True)
        if len(distinct) > MOST_DISTINCT:
            return None
        counted = zip(map(column.text_of, distinct.tolist()), amounts.tolist(), strict=True)
    else:
        texts = Counter(text for text, live in zip(column, mask.tolist(), strict=True) if live)
        counted = texts.items()
    for text, amount in counted:
        if text and amount:
            counts[text] += amount
    return counts if len(counts) <= MOST_DISTINCT else None


def _merged(counts: Counter[str]) -> dict[str, int]:
    """Counts of what conditions tell apart, by descending count."""
    spellings: dict[str, str] = {}
    merged: Counter[str] = Counter()
    for text, amount in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        merged[spellings.setdefault(key_of(text), text)] += amount
    return dict(sorted(merged.items(), key=lambda item: (-item[1], item[0])))
