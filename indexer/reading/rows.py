"""The rows of a gallery by number: those of its first segment, then those of the second, and so on.

Deleted rows keep their numbers and are never live, so opening a gallery makes no list of its rows. Within a segment
rows ascend by id, which makes finding an id a binary search.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, compress

import numpy as np

from cir.arrays import Mask, Rows
from cir.indexer.storage.columns import Column
from cir.indexer.storage.segment import Segment


class GalleryRows:
    """The rows of all segments of a gallery.

    Args:
        segments: in order.
        live: for each segment which rows count; None for all.

    Attributes:
        starts: number of the first row of each segment, and after the last one the number of rows.
    """

    def __init__(self, segments: Sequence[Segment], live: Sequence[Mask | None]) -> None:
        self._segments = segments
        self._live = live
        self.starts = [0, *accumulate(map(len, segments))]

    def __len__(self) -> int:
        """Number of rows, deleted ones included: the length of a mask."""
        return self.starts[-1]

    @cached_property
    def live_counts(self) -> list[int]:
        """Number of live rows in each segment."""
        counted = zip(self._segments, self._live, strict=True)
        return [len(segment) if live is None else int(np.count_nonzero(live)) for segment, live in counted]

    @cached_property
    def ids(self) -> list[str]:
        """Ids of all live rows, ascending."""
        return sorted(self.live_ids())

    def live_ids(self) -> Iterator[str]:
        """Ids of all live rows, segment by segment."""
        return chain.from_iterable(map(self.ids_of, range(len(self._segments))))

    def ids_of(self, number: int) -> Iterable[str]:
        """Ids of the live rows of a segment, ascending."""
        ids, live = self._segments[number].ids, self._live[number]
        return ids if live is None else compress(ids, live.tolist())

    def ids_where(self, mask: Mask) -> list[str]:
        """Ids of the rows of a mask, ascending."""
        return sorted(self.id_of(int(row)) for row in np.flatnonzero(mask))

    def id_of(self, row: int) -> str:
        """The id of a row."""
        number, place = self.locate(row)
        return self._segments[number].ids[place]

    def locate(self, row: int) -> tuple[int, int]:
        """The number of the segment that holds a row, and the row there."""
        number = bisect_right(self.starts, row) - 1
        return number, row - self.starts[number]

    def find(self, image_id: str) -> int | None:
        """The live row of an id."""
        for segment, live, start in zip(self._segments, self._live, self.starts, strict=False):
            row = bisect_left(segment.ids, image_id)
            if row < len(segment) and segment.ids[row] == image_id and (live is None or live[row]):
                return start + row
        return None

    def is_live(self, row: int) -> bool:
        """Whether a row counts."""
        number, place = self.locate(row)
        live = self._live[number]
        return live is None or bool(live[place])

    def live(self) -> Mask:
        """A new mask: the live rows."""
        parts = zip(self._segments, self._live, strict=True)
        masks = [np.ones(len(segment), np.bool_) if live is None else live for segment, live in parts]
        return np.concatenate([np.empty(0, np.bool_), *masks])

    def mask_of(self, rows: Iterable[int]) -> Mask:
        """A new mask: some rows."""
        mask = np.zeros(len(self), np.bool_)
        mask[list(rows)] = True
        return mask

    def by_segment(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """The numbers of the segments that hold some of the rows, each with the places of those in `rows`."""
        if len(self._segments) == 1:
            if len(rows):
                yield 0, np.arange(len(rows))
            return
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            yield number, np.flatnonzero(numbers == number)


def column_of(rows: GalleryRows, name: str) -> list[tuple[Column, Mask]]:
    """A metadata column of each segment that has it, and which of its rows count. Raises CorruptIndexError."""
    return [
        (segment.metadata[name], np.ones(len(segment), np.bool_) if live is None else live)
        for segment, live in zip(rows._segments, rows._live, strict=True)
        if name in segment.metadata
    ]
