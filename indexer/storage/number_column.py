"""Numbers of a segment, whose texts come back as they were given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Mask
from cir.conditions import CONTAINS, Condition, is_number, key_of
from cir.indexer.storage.texts import Arrays, array_of, compared, damaged

SHORTEST = -1
_MOST_DECIMALS = 30


class Numbers(Sequence[str]):
    """N texts, each of which is a number or empty.

    Attributes:
        values: (N,) float64, NaN for an empty text.
        decimals: of every number's text; `SHORTEST` for as few as the number needs.
        place: file and column, for messages.
    """

    def __init__(self, values: NDArray[np.float64], decimals: int, place: str = "a column") -> None:
        """Use `encode` or `from_arrays`."""
        self.values = values
        self.decimals = decimals
        self.place = place

    @classmethod
    def encode(cls, texts: Sequence[str]) -> Numbers | None:
        """Texts as they are stored; None unless some are numbers, and all come back exactly."""
        present = [text for text in texts if text]
        if not present or not all(map(is_number, present)):
            return None
        decimals = {len(text.partition(".")[2]) for text in present}
        few = decimals.pop() if len(decimals) == 1 else SHORTEST
        values = np.array([float(text) if text else math.nan for text in texts])
        column = cls(values, few if few <= _MOST_DECIMALS else SHORTEST)
        exact = bool(np.isfinite(values).sum() == len(present)) and list(column) == list(texts)
        return column if exact else None

    @classmethod
    def from_arrays(cls, arrays: Arrays, place: str = "a column") -> Numbers:
        """Numbers from the arrays of `arrays`. Raises ValueError or KeyError for anything else."""
        values, decimals = array_of(arrays, "numbers", np.float64), array_of(arrays, "decimals", np.int8)
        if len(decimals) != 1 or not SHORTEST <= decimals[0] <= _MOST_DECIMALS:
            raise ValueError(f"the decimals of a column are not one number from {SHORTEST} to {_MOST_DECIMALS}")
        return cls(values, int(decimals[0]), place)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored."""
        return {"numbers": self.values, "decimals": np.array([self.decimals], np.int8)}

    def check(self) -> None:
        """Look at every number. Raises CorruptIndexError."""
        if bool(np.isinf(self.values).any()):
            raise damaged(self.place, "a number is infinite")

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(map(self.text_of, self.values[index].tolist()))
        return self.text_of(float(self.values[index]))

    def __iter__(self) -> Iterator[str]:
        return map(self.text_of, self.values.tolist())

    has_numbers = True  # a column without any is not stored in this form

    def matching(self, condition: Condition) -> Mask:
        """(N,) bool: which texts meet a condition."""
        if condition.compares:
            return compared(condition, self.values)
        if condition.operator == CONTAINS:
            return np.fromiter(condition.matches(self), np.bool_, len(self))
        # A number that no text of this column stands for, such as 0.10000000000000001, equals none of them.
        wanted = [float(key) for key in condition.keys if is_number(key) and self._has_text_of(key)]
        met: Mask = np.isin(self.values, wanted)
        if "" in condition.keys:
            met |= np.isnan(self.values)
        return ~met if condition.negative else met

    def _has_text_of(self, key: str) -> bool:
        value = float(key)
        return math.isfinite(value) and key_of(self.text_of(value)) == key

    def text_of(self, value: float) -> str:
        """The text of a value of the column. Raises CorruptIndexError."""
        if math.isnan(value):
            return ""
        if math.isinf(value):
            raise damaged(self.place, "a number is infinite")
        return repr(value).removesuffix(".0") if self.decimals == SHORTEST else f"{value:.{self.decimals}f}"
