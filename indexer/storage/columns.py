"""Columns of a segment, stored so that a reader maps them: texts, repeated texts as codes, numbers as numbers.

Their size is known before anything is written, and opening them reads nothing that grows with N: a damaged value is
found when it is read, all of them by `check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Mask
from cir.conditions import Condition
from cir.errors import UsageError
from cir.given import shown
from cir.indexer.storage.number_column import Numbers
from cir.indexer.storage.texts import Arrays, Texts, array_of, damaged

__all__ = ["Codes", "Column", "Numbers", "Texts", "check_comparable", "encode", "from_arrays"]

_FEW = 4096  # distinct numbers that may be codes: a condition is decided for each distinct text


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
    def from_arrays(cls, arrays: Arrays, place: str = "a column") -> Codes:
        """Codes from the arrays of `arrays`, whose bounds alone are looked at. Raises ValueError or KeyError."""
        codes = array_of(arrays, "codes", np.unsignedinteger)
        if codes.dtype.itemsize > 4:
            raise ValueError(f"codes of a column are {codes.dtype}")
        return cls(codes, Texts.from_arrays(arrays, place))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored."""
        return {"codes": self.codes, **self.dictionary.arrays}

    def check(self) -> None:
        """Look at every code and distinct text. Raises CorruptIndexError."""
        self.dictionary.check()
        if len(self.codes) and int(self.codes.max()) >= len(self.dictionary):
            raise self._unexplained()

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(map(self._text, self.codes[index].tolist()))
        return self._text(int(self.codes[index]))

    def __iter__(self) -> Iterator[str]:
        self.check()
        words = list(self.dictionary)
        return (words[code] for code in self.codes.tolist())

    @property
    def has_numbers(self) -> bool:
        """Whether any of the texts is a number."""
        return self.dictionary.has_numbers

    def matching(self, condition: Condition) -> Mask:
        """(N,) bool: which texts meet a condition, decided once for each distinct text. Raises CorruptIndexError."""
        met = self.dictionary.matching(condition)
        try:
            matching: Mask = met[self.codes]
        except IndexError:
            raise self._unexplained() from None
        return matching

    def _text(self, code: int) -> str:
        if code >= len(self.dictionary):
            raise self._unexplained()
        return self.dictionary[code]

    def _unexplained(self) -> Exception:
        return damaged(self.dictionary.place, "it has codes that its dictionary does not explain")


Column = Texts | Codes | Numbers


def encode(texts: Sequence[str]) -> Column:
    """Texts in the smallest form, numbers as numbers where they are many."""
    codes, numbers = Codes.encode(texts), Numbers.encode(texts)
    if numbers is not None and len(codes.dictionary) > _FEW:
        return numbers
    forms: list[Column] = [codes, Texts.encode(texts), *([numbers] if numbers is not None else [])]
    return min(forms, key=lambda form: sum(array.nbytes for array in form.arrays.values()))


def from_arrays(arrays: Arrays, place: str = "a column") -> Column:
    """The column that arrays hold; `place` names it in messages. Raises ValueError or KeyError for anything else."""
    if "numbers" in arrays:
        return Numbers.from_arrays(arrays, place)
    return Codes.from_arrays(arrays, place) if "codes" in arrays else Texts.from_arrays(arrays, place)


def check_comparable(condition: Condition, columns: Sequence[Column]) -> None:
    """Refuse a comparison of numbers where a column, in all of its segments, holds none. Raises UsageError."""
    if condition.compares and not any(column.has_numbers for column in columns):
        texts = (text for column in columns for text in (column.dictionary if isinstance(column, Codes) else column))
        few = list(islice(dict.fromkeys(islice(filter(None, texts), 1000)), 3))
        raise UsageError(
            f"{shown(condition.column)} holds texts such as {', '.join(map(shown, few))}, not numbers; "
            f"{condition.operator} compares numbers, = and ~ texts"
        )
