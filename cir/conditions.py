"""Metadata conditions: what `--where`, `Query.where` and the "where" of JSON queries mean.

A further kind of condition is a further operator here: parsed from text by `parse`, applied by `matches`.
`as_conditions` reads all forms in which people write conditions.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cir.errors import UsageError
from cir.given import items, kind, shown

EQUAL, NOT_EQUAL = "=", "!="

# What `as_conditions` reads; a condition is also a tuple of strings.
Conditions = str | Mapping[str, str | int] | Iterable[str | tuple[str, ...]] | None


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


def as_conditions(where: Conditions) -> tuple[Condition, ...]:
    """Conditions, all of which an image must meet, from any form in which they are written.

    Args:
        where: None for no condition; a condition, or any number of them; or a mapping of column -> value. A condition
            is a `Condition`, a pair (column, value), a triple (column, value, operator) or a text as for `parse`.
            Values are strings or whole numbers.

    Raises:
        UsageError: something else, such as a value that is None or a list.
    """
    if isinstance(where, Mapping):
        return tuple(_condition((column, value)) for column, value in where.items())
    return tuple(_condition(each) for each in items(where, "where", (str, Condition)))


def _condition(given: Any) -> Condition:
    if isinstance(given, str):
        return Condition.parse(given)
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise UsageError(f"{shown(given)} is not a condition; write (column, value), or {{column: value}} for `where`")
    column, value, operator = given if len(given) == 3 else (*given, EQUAL)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = str(int(value))
    if not isinstance(value, str):
        raise UsageError(
            f"condition on {shown(column)}: the value is {kind(value)}, {shown(value)}; "
            'write it as the index stores it, a string; "" is for images without a value'
        )
    if not isinstance(column, str) or not isinstance(operator, str):
        raise UsageError(f"{shown(given)} is not a condition; column and operator are strings")
    return Condition(str.__str__(column), str.__str__(value), str.__str__(operator))
