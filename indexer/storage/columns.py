"""Columns of a segment, stored so that a reader maps them: texts as offsets and bytes, repeated texts as codes.

Their size is known before anything is written, and opening them reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Mask

Arrays = Mapping[str, NDArray[Any]]
Test = Callable[[Sequence[str]], Sequence[bool]]  # values -> for each whether it is wanted


class Texts(Sequence[str]):
    """N texts in one block of bytes.

    Attributes:
        offsets: (N + 1,) int64; text n is `data[offsets[n] : offsets[n + 1]]`.
        data: uint8, UTF-8. File names need not be valid UTF-8: Python's surrogate escapes carry them through.
    """

    def __init__(self, offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        """Use `encode` or `from_arrays`."""
        self.offsets = offsets
        self.data = data

    @classmethod
    def encode(cls, texts: Sequence[str]) -> Texts:
        """Texts as they are stored."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Texts:
        """Texts from the arrays of `arrays`. Raises ValueError or KeyError for anything else."""
        offsets, data = _array(arrays, "offsets", np.int64), _array(arrays, "data", np.uint8)
        sound = len(offsets) and offsets[0] == 0 and offsets[-1] == len(data)
        if not sound or bool((offsets[1:] < offsets[:-1]).any()):
            raise ValueError("the offsets of a column do not fit its texts")
        return cls(offsets, data)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored."""
        return {"offsets": self.offsets, "data": self.data}

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
        return self._text(int(self.offsets[row]), int(self.offsets[row + 1]))

    def __iter__(self) -> Iterator[str]:
        bounds = self.offsets.tolist()
        return map(self._text, bounds[:-1], bounds[1:])

    def _text(self, start: int, stop: int) -> str:
        return bytes(self.data[start:stop]).decode("utf-8", "surrogateescape")

    def matching(self, test: Test) -> Mask:
        """(N,) bool: which texts a test wants."""
        return np.array(test(list(self)), np.bool_)


class Codes(Sequence[str]):
    """N texts of which many are equal: a number for each, and the texts that the numbers stand for.

    Attributes:
        codes: (N,) unsigned integers.
        dictionary: the distinct texts.
    """

    def __init__(self, codes: NDArray[Any], dictionary: Texts) -> None:
        """Use `encode` or `from_arrays`."""
        self.codes = codes
        self.dictionary = dictionary

    @classmethod
    def encode(cls, texts: Sequence[str]) -> Codes:
        """Texts as they are stored; the dictionary in the order of first use."""
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(text, len(numbers)) for text in texts]
        kind = np.min_scalar_type(max(0, len(numbers) - 1))
        return cls(np.array(codes, kind), Texts.encode(list(numbers)))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Codes:
        """Codes from the arrays of `arrays`. Raises ValueError or KeyError for anything else."""
        codes = _array(arrays, "codes", np.unsignedinteger)
        dictionary = Texts.from_arrays(arrays)
        if len(codes) and int(codes.max()) >= len(dictionary):
            raise ValueError("a column has codes that its dictionary does not explain")
        return cls(codes, dictionary)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored."""
        return {"codes": self.codes, **self.dictionary.arrays}

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.dictionary[code] for code in self.codes[index].tolist()]
        return self.dictionary[int(self.codes[index])]

    def __iter__(self) -> Iterator[str]:
        words = list(self.dictionary)
        return (words[code] for code in self.codes.tolist())

    def matching(self, test: Test) -> Mask:
        """(N,) bool: which texts a test wants; it is asked once for each distinct text."""
        wanted: Mask = np.array(test(list(self.dictionary)), np.bool_)
        matching: Mask = wanted[self.codes]
        return matching


Column = Texts | Codes


def encode(texts: Sequence[str]) -> Column:
    """Texts in the smaller of the two forms."""
    forms: tuple[Column, ...] = (Codes.encode(texts), Texts.encode(texts))
    return min(forms, key=lambda form: sum(array.nbytes for array in form.arrays.values()))


def from_arrays(arrays: Arrays) -> Column:
    """The column that arrays hold. Raises ValueError or KeyError for anything else."""
    return Codes.from_arrays(arrays) if "codes" in arrays else Texts.from_arrays(arrays)


def _array(arrays: Arrays, name: str, kind: type[np.generic]) -> NDArray[Any]:
    array = arrays[name]
    if array.ndim != 1 or not np.issubdtype(array.dtype, kind):
        raise ValueError(f"{name} of a column is {array.ndim}-dimensional {array.dtype}")
    return array
