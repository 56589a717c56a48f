"""Metadata conditions: what `--where`, `Query.where` and the "where" of JSON queries mean.

A further kind of condition is a further operator here: parsed from text by `parse`, applied by `matches`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cir.errors import UsageError

EQUAL, NOT_EQUAL = "=", "!="


class Condition(NamedTuple):
    """The value of a metadata column equals a value, or differs from it, ignoring case.

    Attributes:
        column: name of the column.
        value: what an image must have there, or must not have; "" stands for no value.
        operator: "=" or "!="; an image without a value meets `!=` with any value but "".
    """

    column: str
    value: str
    operator: str = EQUAL

    @classmethod
    def parse(cls, text: str) -> Condition:
        """A condition written as COLUMN=VALUE or COLUMN!=VALUE. Raises UsageError for anything else."""
        column, equals, value = text.partition("=")
        column = column.strip()
        operator = NOT_EQUAL if column.endswith("!") else EQUAL
        column = column.removesuffix("!").strip()
        if not equals or not column:
            raise UsageError(f"{text!r} is not a condition: write COLUMN=VALUE or COLUMN!=VALUE")
        return cls(column, value.strip(), operator)

    def matches(self, values: Iterable[str]) -> list[bool]:
        """For each stored value whether it meets the condition; "" stands for no value.

        Raises:
            UsageError: an unknown operator.
        """
        if self.operator not in (EQUAL, NOT_EQUAL):
            raise UsageError(f"unknown operator {self.operator!r}; write Condition(column, value, {NOT_EQUAL!r})")
        wanted, wants_equal = self.value.casefold(), self.operator == EQUAL
        return [(value.casefold() == wanted) is wants_equal for value in values]

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.value}"
