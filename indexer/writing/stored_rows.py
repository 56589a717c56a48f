"""The live rows of a generation, looked up in its mapped segments: nothing is made for a row that nobody asks for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Mask, Rows
from cir.indexer.storage.columns import Codes, Column
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import open_segment
from cir.indexer.storage.manifest import Manifest, SegmentEntry
from cir.indexer.storage.segment import Layout, Segment

_READ_ALL = 16  # a segment is read from start to end where that takes at most so many rows for each id wanted


@dataclass(frozen=True, eq=False)
class StoredSegment:
    """A segment of a generation.

    Attributes:
        entry: what the manifest says about it.
        segment: its open file.
        live: (N,) bool, which of its rows count.
    """

    entry: SegmentEntry
    segment: Segment
    live: Mask

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return self.entry.name

    @property
    def layout(self) -> Layout:
        """Model and shape of its vectors."""
        return self.segment.layout

    @property
    def size(self) -> int:
        """Bytes that its live rows take of its file."""
        return int(self.entry.files[GALLERY].bytes * self.live.mean()) if len(self.live) else 0

    def __iter__(self) -> Iterator[StoredRow]:
        return map(self.row, np.flatnonzero(self.live).tolist())

    def row(self, row: int) -> StoredRow:
        """One of its rows."""
        return StoredRow(self.segment.ids[row], self, row)

    def named(self, ids: Collection[str]) -> Iterator[StoredRow]:
        """The live rows of some ids."""
        stored = self.segment.ids
        if len(ids) * _READ_ALL > len(stored):
            rows = ((image_id, row) for row, image_id in enumerate(stored) if image_id in ids)
        else:  # ids ascend
            rows = ((image_id, bisect_left(stored, image_id)) for image_id in ids)
        for image_id, row in rows:
            if row < len(stored) and self.live[row] and stored[row] == image_id:
                yield StoredRow(image_id, self, row)

    def holding(self, digest: bytes) -> int | None:
        """The first live row of this content."""
        sought, low = self._shortened(np.frombuffer(digest, np.uint8)[None]), self._low_bits
        for key in self._by_content[np.searchsorted(self._by_content, sought[0]) :]:
            if key & ~low != sought[0]:
                break
            row = int(key & low)
            if self.live[row] and self.segment.digests[row].tobytes() == digest:
                return row
        return None

    @cached_property
    def _by_content(self) -> NDArray[np.uint64]:
        """The first bits of each digest with the number of its row behind them, ascending: one sort, no permutation."""
        rows = np.arange(len(self.segment), dtype=np.uint64)
        return np.sort(self._shortened(self.segment.digests) | rows)

    def _shortened(self, digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """(n, 32) -> (n,): the first 64 bits, but for the lowest, which have room for the number of any row."""
        first: NDArray[np.uint64] = np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
        return first & ~self._low_bits

    @property
    def _low_bits(self) -> np.uint64:
        return np.uint64((1 << len(self.segment).bit_length()) - 1)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A live row of an index: its id, and its place in a segment."""

    id: str
    segment: StoredSegment
    row: int

    @property
    def digest(self) -> bytes:
        """SHA-256 of the image file."""
        return bytes(self.segment.segment.digests[self.row])

    @property
    def root(self) -> str:
        """Where the image was."""
        return self.segment.segment.roots[self.row]

    @property
    def metadata(self) -> dict[str, str]:
        """Column -> value, without empty values."""
        return self.segment.segment.metadata_of(self.row)


class StoredRows:
    """The live rows of a generation, by id, content or root.

    `digest in rows` tells whether a live row has this content.

    Attributes:
        segments: in the order of the manifest.
    """

    def __init__(self, folder: IndexFolder, manifest: Manifest | None) -> None:
        """Open the segments of a generation; without a manifest there are no rows. Raises CorruptIndexError."""
        entries = manifest.segments if manifest else ()
        self.segments = tuple(
            StoredSegment(entry, open_segment(folder, entry), manifest.live_rows(entry))
            for entry in entries
            if manifest
        )

    def __len__(self) -> int:
        return sum(int(segment.live.sum()) for segment in self.segments)

    def __iter__(self) -> Iterator[StoredRow]:
        return (row for segment in self.segments for row in segment)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and self.holding(digest) is not None

    def find(self, ids: Collection[str]) -> dict[str, StoredRow]:
        """Those of some ids that are stored, in the order of ids."""
        wanted = frozenset(ids)
        rows = (row for segment in self.segments for row in segment.named(wanted))
        return {row.id: row for row in sorted(rows, key=lambda row: row.id)}

    def holding(self, digest: bytes) -> StoredRow | None:
        """A live row of this content: of the newest segment that has one."""
        for segment in reversed(self.segments):
            row = segment.holding(digest)
            if row is not None:
                return segment.row(row)
        return None

    @property
    def roots(self) -> frozenset[str]:
        """Where the images were."""
        return frozenset(root for segment in self.segments for root in segment.segment.root_names)

    def under(self, roots: Collection[str]) -> Iterator[StoredRow]:
        """The rows whose image was in one of some roots."""
        for segment in self.segments:
            here = _among(segment.segment.roots, roots) & segment.live
            yield from map(segment.row, np.flatnonzero(here).tolist())


def _among(column: Column, texts: Collection[str]) -> Mask:
    """(N,) bool: which values of a column are among some texts; repeated ones are compared once."""
    if isinstance(column, Codes):
        wanted: Mask = np.array([text in texts for text in column.dictionary], np.bool_)[column.codes]
        return wanted
    return np.array([text in texts for text in column], np.bool_)


def live_rows(segment: StoredSegment, dropped: Collection[int] = ()) -> Rows:
    """(n,) the live rows of a segment, ascending, but for some."""
    live = segment.live.copy()
    live[list(dropped)] = False
    return np.flatnonzero(live)
