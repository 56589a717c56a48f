"""New segments, of new rows and of rows that other segments hold.

A segment is a file that a search opens and scans, so many small ones would make an index slow. A new segment therefore
takes in smaller ones of the same layout (`to_absorb`). Vectors and tokens are copied as they are, in blocks, and
nothing is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Rows, Stored
from cir.errors import CorruptIndexError
from cir.files import make_folder, sha256_file
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import adopt_segment
from cir.indexer.storage.manifest import FileEntry, SegmentEntry
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, Segment, by_column, write_segment
from cir.indexer.writing.plan import NewRow
from cir.indexer.writing.stored_rows import StoredSegment

SMALL = 4 << 20  # bytes; copying that much takes less time than reading and encoding a handful of photos
_RATIO = 4
SEGMENT = "segment"  # the folder under work/ in which a segment is put together
_BLOCK_BYTES = 8 << 20  # of vectors and tokens that are held in memory
FindVectors = Callable[[bytes], tuple[Segment, int]]


class Source(Protocol):
    """Rows of a new segment."""

    @property
    def ids(self) -> Sequence[str]:
        """Their n ids."""

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(n, 32) SHA-256 of each image file."""

    @property
    def roots(self) -> Sequence[str]:
        """Where each image was."""

    @property
    def columns(self) -> Collection[str]:
        """Names of the metadata columns."""

    def values(self, column: str) -> Sequence[str]:
        """The n values of a column, "" for none."""

    def vectors(self, rows: Rows) -> Stored:
        """(m, D) vectors of some of the rows, as they are stored."""

    def tokens(self, rows: Rows) -> Stored:
        """(m, T, D) tokens of some of the rows, as they are stored."""


class NewRows:
    """Rows that are written for the first time or with other metadata; their vectors lie in parts or older segments."""

    def __init__(self, rows: Sequence[NewRow], find: FindVectors) -> None:
        """Rows, and digest of a content -> the open segment and row that hold its vectors."""
        self._rows = rows
        self._find = find
        self.ids = [row.id for row in rows]
        self.digests = np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(-1, 32)
        self.roots = [row.root for row in rows]

    @cached_property
    def _columns(self) -> Mapping[str, list[str]]:
        return by_column([row.metadata for row in self._rows])

    @property
    def columns(self) -> Collection[str]:
        """As `Source`."""
        return self._columns.keys()

    def values(self, column: str) -> Sequence[str]:
        """As `Source`."""
        return self._columns[column]

    def vectors(self, rows: Rows) -> Stored:
        """As `Source`."""
        return np.stack([_present(segment.vectors)[row] for segment, row in self._places(rows)])

    def tokens(self, rows: Rows) -> Stored:
        """As `Source`."""
        return np.stack([_present(segment.tokens)[row] for segment, row in self._places(rows)])

    def _places(self, rows: Rows) -> Iterator[tuple[Segment, int]]:
        return (self._find(self._rows[row].digest) for row in rows.tolist())


class SegmentRows:
    """Some rows of a segment."""

    def __init__(self, segment: Segment, rows: Rows) -> None:
        """An open segment, and n of its rows, ascending."""
        self._segment = segment
        self._rows = rows
        self._all = len(rows) == len(segment)
        self.ids = self._taken(segment.ids)
        self.digests = segment.digests[rows]

    @property
    def roots(self) -> Sequence[str]:
        """As `Source`."""
        return self._taken(self._segment.roots)

    @property
    def columns(self) -> Collection[str]:
        """As `Source`."""
        return self._segment.metadata.keys()

    def values(self, column: str) -> Sequence[str]:
        """As `Source`."""
        return self._taken(self._segment.metadata[column])

    def vectors(self, rows: Rows) -> Stored:
        """As `Source`."""
        return _present(self._segment.vectors)[self._rows[rows]]

    def tokens(self, rows: Rows) -> Stored:
        """As `Source`."""
        return _present(self._segment.tokens)[self._rows[rows]]

    def _taken(self, column: Sequence[str]) -> list[str]:
        texts = list(column)
        return texts if self._all else [texts[row] for row in self._rows.tolist()]


def to_absorb(segments: Iterable[StoredSegment], layout: Layout, size: int, small: int = SMALL) -> list[StoredSegment]:
    """The segments that a new one takes in, the smallest first.

    Sizes fall into tiers: below `small`, below 4 times that, below 16 times, and so on. A segment is taken in if its
    tier is not above that of all that was taken before it. So there is at most one segment per tier, and a row is
    copied at most three times in each tier but the first.

    Args:
        segments: those of the index.
        layout: of the new segment; only segments of the same one are taken.
        size: bytes of the new rows.
        small: bytes; segments below that are taken in any case.
    """
    taken: list[StoredSegment] = []
    for segment in sorted((each for each in segments if each.layout.fits(layout)), key=lambda each: each.size):
        if _tier(segment.size, small) > _tier(size, small):
            break
        taken.append(segment)
        size += segment.size
    return taken


def _tier(size: int, small: int) -> int:
    tier, limit = 0, small
    while size >= limit:
        tier, limit = tier + 1, _RATIO * limit
    return tier


def is_intact(segment: StoredSegment) -> bool:
    """Whether the file of a segment is as it was published: copying damaged vectors would give them a new digest."""
    return sha256_file(segment.segment.path) == segment.entry.files[GALLERY].sha256


def check_intact(segment: StoredSegment) -> None:
    """Raise CorruptIndexError unless the file of a segment is as it was published."""
    if not is_intact(segment):
        raise CorruptIndexError(
            f"{segment.segment.path} contradicts its digest; restore it from a copy, or run `cir repair`"
        )


def write_merged(folder: IndexFolder, layout: Layout, sources: Sequence[Source]) -> SegmentEntry:
    """Write the rows of some sources into a new segment, by ascending id; no manifest names it yet.

    Args:
        folder: the index.
        layout: of the segment, and of the vectors of every source.
        sources: with at least one row, and no id twice.

    Raises:
        DataError: the disk is full or refuses.
    """
    work = folder.work / SEGMENT
    make_folder(work)
    merged = _Merged(sources)
    table = RowTable(
        ids=merged.texts([source.ids for source in sources]),
        digests=np.concatenate([source.digests for source in sources])[merged.order],
        roots=merged.texts([source.roots for source in sources]),
        metadata=merged,
    )
    write_segment(work / GALLERY, layout, table, merged.blocks(layout))
    file = FileEntry.of(work / GALLERY)
    return SegmentEntry(
        name=adopt_segment(folder, work),
        rows=len(merged.order),
        model=layout.model,
        space=layout.space,
        dims=layout.dims,
        tokens=layout.tokens,
        vectors=layout.vectors,
        files={GALLERY: file},
    )


class _Merged(Mapping[str, Sequence[str]]):
    """The rows of several sources by ascending id; as a mapping, their metadata columns, one in memory at a time.

    Attributes:
        order: (N,) the rows by ascending id, counted through all sources.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._starts = np.cumsum([0, *(len(source.ids) for source in sources)])
        ids = list(chain.from_iterable(source.ids for source in sources))
        # Each source ascends, and Python's sort merges what is sorted already.
        self.order: Rows = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
        self._order = self.order.tolist()

    def texts(self, parts: Iterable[Sequence[str]]) -> list[str]:
        """Texts of all rows by ascending id, from those of each source."""
        texts = list(chain.from_iterable(parts))
        return [texts[row] for row in self._order]

    def __iter__(self) -> Iterator[str]:
        return iter({column for source in self._sources for column in source.columns})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, column: str) -> Sequence[str]:
        return self.texts(
            source.values(column) if column in source.columns else [""] * len(source.ids) for source in self._sources
        )

    def blocks(self, layout: Layout) -> Iterator[EncodedBlock]:
        """Vectors and tokens of all rows by ascending id."""
        step = max(1, _BLOCK_BYTES // layout.row_bytes)
        for start in range(0, len(self.order), step):
            rows = self.order[start : start + step]
            yield EncodedBlock(
                vectors=self._gathered(rows, "vectors", (layout.dims,), layout) if layout.vectors else None,
                tokens=self._gathered(rows, "tokens", (layout.tokens, layout.dims), layout) if layout.tokens else None,
            )

    def _gathered(self, rows: Rows, what: str, shape: tuple[int, ...], layout: Layout) -> Stored:
        values: Stored = np.empty((len(rows), *shape), layout.precision)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            here = numbers == number
            source, inside = self._sources[number], rows[here] - self._starts[number]
            values[here] = source.vectors(inside) if what == "vectors" else source.tokens(inside)
        return values


def _present(values: Stored | None) -> Stored:
    assert values is not None  # the layouts are the same
    return values
