"""Metadata conditions: what `--where`, `Query.where` and the "where" of JSON queries mean.

A further kind of condition is a further operator here: parsed from text by `parse`, applied by `matches`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cir.errors import UsageError


class Condition(NamedTuple):
    """The value of a metadata column equals a value, ignoring case.

    Attributes:
        column: name of the column.
        value: what an image must have there; "" matches images without a value.
    """

    column: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """A condition written as COLUMN=VALUE. Raises UsageError for anything else."""
        column, equals, value = text.partition("=")
        if not equals or not column.strip():
            raise UsageError(f"{text!r} is not a condition: write COLUMN=VALUE")
        return cls(column.strip(), value.strip())

    def matches(self, values: Iterable[str]) -> list[bool]:
        """For each stored value whether it meets the condition; "" stands for no value."""
        wanted = self.value.casefold()
        return [value.casefold() == wanted for value in values]

    def __str__(self) -> str:
        return f"{self.column} = {self.value}"
