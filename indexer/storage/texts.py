"""Texts of a segment: one block of bytes, and where in it each text begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Mask, Rows
from cir.conditions import COMPARISONS, CONTAINS, Condition, is_number, key_of, number_of
from cir.errors import CorruptIndexError

Arrays = Mapping[str, NDArray[Any]]
_BLOCK = 65_536
_MANY = 8  # values of `in` from which decoding every text once is cheaper than a search for each


class Texts(Sequence[str]):
    """N texts in one block of bytes.

    Attributes:
        offsets: (N + 1,) int64; text n is `data[offsets[n] : offsets[n + 1]]`.
        data: uint8, UTF-8. File names need not be valid UTF-8: Python's surrogate escapes carry them through.
        place: file and column, for messages.
    """

    def __init__(self, offsets: NDArray[np.int64], data: NDArray[np.uint8], place: str = "a column") -> None:
        """Use `encode` or `from_arrays`."""
        self.offsets = offsets
        self.data = data
        self.place = place

    @classmethod
    def encode(cls, texts: Sequence[str]) -> Texts:
        """Texts as they are stored."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    @classmethod
    def from_arrays(cls, arrays: Arrays, place: str = "a column") -> Texts:
        """Texts from the arrays of `arrays`, whose bounds alone are looked at. Raises ValueError or KeyError."""
        offsets, data = array_of(arrays, "offsets", np.int64), array_of(arrays, "data", np.uint8)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(data):
            raise ValueError("the offsets of a column do not fit its texts")
        return cls(offsets, data, place)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored."""
        return {"offsets": self.offsets, "data": self.data}

    def check(self) -> None:
        """Look at every offset. Raises CorruptIndexError."""
        if bool((self.offsets[1:] < self.offsets[:-1]).any()):
            raise damaged(self.place, "its offsets do not ascend")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        if not 0 <= start <= stop <= len(self.data):
            raise damaged(self.place, f"row {row:,} is not within its texts")
        return self.data[start:stop].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        self.check()
        whole, bounds = self.data.tobytes(), self.offsets.tolist()
        if not len(self._beyond_ascii):
            text = whole.decode("ascii")
            return (text[start:stop] for start, stop in pairwise(bounds))
        return (whole[start:stop].decode("utf-8", "surrogateescape") for start, stop in pairwise(bounds))

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """(N,) the number that each text is, NaN for another text. Kept: reading them takes a while."""
        return np.fromiter(map(number_of, self), np.float64, len(self))

    @property
    def has_numbers(self) -> bool:
        """Whether any of the texts is a number."""
        return not bool(np.isnan(self.numbers).all())

    def matching(self, condition: Condition) -> Mask:
        """(N,) bool: which texts meet a condition. Raises CorruptIndexError."""
        if condition.compares:
            return compared(condition, self.numbers)
        contains, others = condition.operator == CONTAINS, self._beyond_ascii
        many = not contains and (len(condition.keys) > _MANY or "0" in condition.keys)  # 0 is also -0 and -0.00
        if many or 2 * len(others) > len(self):
            return np.fromiter(condition.matches(self), np.bool_, len(self))
        met = np.zeros(len(self), np.bool_)
        try:
            if contains:
                met[self._rows_with(str(condition.value).casefold())] = True
            else:
                for key in condition.keys:
                    met[self._rows_equal_to(key)] = True
        except IndexError:
            raise damaged(self.place, "its offsets lead past its texts") from None
        met ^= condition.negative
        met[others] = condition.matches(self[row] for row in others.tolist())
        return met

    @cached_property
    def _beyond_ascii(self) -> Rows:
        """Rows with a byte that is not ASCII, ascending; their letters have to be decoded to be compared."""
        found = [np.empty(0, np.int64)]
        for first in range(0, len(self), _BLOCK):
            bounds = self.offsets[first : first + _BLOCK + 1]
            start, stop = int(bounds[0]), int(bounds[-1])
            places = start + np.flatnonzero(self.data[start:stop] >= 128)
            if len(places):
                before = np.searchsorted(places, bounds)
                found.append(first + np.flatnonzero(before[1:] != before[:-1]))
        return np.concatenate(found)

    def _rows_equal_to(self, key: str) -> Rows:
        """ASCII rows of the key; in blocks whose temporary arrays fit a core's cache."""
        if not key.isascii():
            return np.empty(0, np.int64)
        blocks = [self._block_equal_to(key, first) for first in range(0, len(self), _BLOCK)]
        return np.concatenate([np.empty(0, np.int64), *blocks])

    def _block_equal_to(self, key: str, first: int) -> Rows:
        lower, upper, size, number = key.encode(), key.upper().encode(), len(key), is_number(key)
        bounds = self.offsets[first : first + _BLOCK + 1]
        starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
        if len(starts) and int(starts.min()) < 0:
            raise IndexError
        rows = np.flatnonzero(lengths >= size if number else lengths == size)
        for place in reversed(range(size)):  # names of products begin alike, and end otherwise
            letters = self.data[starts[rows] + place]
            rows = rows[(letters == lower[place]) | (letters == upper[place])]
        if number:  # perhaps 50.00 for 50, or 0.50 for 0.5
            longer = rows[lengths[rows] > size]
            longer = longer[np.isin(self.data[starts[longer] + size], list(b".0"))]
            equal = [row for row in longer.tolist() if key_of(self[first + row]) == key]
            rows = np.concatenate([rows[lengths[rows] == size], np.array(equal, np.int64)])
        return first + rows

    def _rows_with(self, part: str) -> Rows:
        """ASCII rows that contain a text in lower case: all texts are searched as one."""
        if not part.isascii():
            return np.empty(0, np.int64)
        blocks = [self._places_of(part, first) for first in range(0, len(self.data), _BLOCK)]
        places = np.concatenate([*blocks, np.array([len(self.data)])])  # one after all texts, so that each has a next
        first_places = places[np.searchsorted(places, self.offsets[:-1])]
        return np.flatnonzero(first_places + len(part) <= self.offsets[1:])  # not across the end of a text

    def _places_of(self, part: str, first: int) -> Rows:
        """Where the text begins in a block of bytes."""
        lower, upper, size = part.encode(), part.upper().encode(), len(part)
        block = self.data[first : first + _BLOCK + size - 1]
        places = np.arange(0)
        for place in range(size):
            letters = block[places + place] if place else block[: max(0, len(block) - size + 1)]
            same = (letters == lower[place]) | (letters == upper[place])
            places = places[same] if place else np.flatnonzero(same)
        return first + places


def compared(condition: Condition, numbers: NDArray[np.float64]) -> Mask:
    """(N,) bool: which numbers meet a comparison; NaN meets none."""
    with np.errstate(invalid="ignore"):
        met: Mask = COMPARISONS[condition.operator](numbers, condition.number)
    return met


def array_of(arrays: Arrays, name: str, kind: type[np.generic]) -> NDArray[Any]:
    """An array of one dimension. Raises KeyError, or ValueError for another kind."""
    array = arrays[name]
    if array.ndim != 1 or not np.issubdtype(array.dtype, kind):
        raise ValueError(f"{name} of a column is {array.ndim}-dimensional {array.dtype}")
    return array


def damaged(place: str, reason: str) -> CorruptIndexError:
    """The error for a column whose values cannot be."""
    return CorruptIndexError(f"{place} is damaged: {reason}; restore the file from a copy")
