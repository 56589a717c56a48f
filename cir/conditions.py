"""Metadata conditions: what `--where`, `Query.where` and the "where" of JSON queries mean.

`parse` reads them as people type them, `as_conditions` in all forms in which they are given, and `Condition.matches`
says what they mean; columns of an index (`cir.indexer.storage.columns`) come to the same answer faster.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from cir.errors import UsageError
from cir.given import items, kind, shown

EQUAL, NOT_EQUAL, IN, NOT_IN, CONTAINS = "=", "!=", "in", "not in", "~"
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
OPERATORS = (EQUAL, NOT_EQUAL, *COMPARISONS, IN, NOT_IN, CONTAINS)

# What `as_conditions` reads: a text, a condition, {column: value}, or any number of texts, conditions and tuples.
Conditions = Any

_HELP = f"write COLUMN=VALUE; the operators are {', '.join(OPERATORS)}"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_OPERATOR = re.compile(r"!\s*=|<=|>=|==?|<|>|~|(?<=[\s\"])(?:not\s+)?in(?=[\s(\"]|\Z)", re.IGNORECASE)
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_AND = re.compile(r"(?<=\s)and(?=\s|\Z)", re.IGNORECASE)
# What people who expect an `or` write: it follows a value, and a column and an operator follow it.
_OR = re.compile(r'(?<=\s)or\s+(?:"(?:[^"]|"")*"|[^\s"=<>!~][^"=<>!~]*)\s*(?:!\s*=|[=<>~])', re.IGNORECASE)
_RESERVED = re.compile(rf"{_AND.pattern}|{_OR.pattern}", re.IGNORECASE)
_LISTED = re.compile(rf"[,()]|{_RESERVED.pattern}", re.IGNORECASE)
# Where a condition ends, a value of a list, and a value of a list in brackets.
_END = re.compile(rf"{_AND.pattern}|\Z", re.IGNORECASE)
_VALUE_END = re.compile(rf",|{_AND.pattern}|\Z", re.IGNORECASE)
_BRACKET_END = re.compile(r"[,)]|\Z")


def is_number(text: str) -> bool:
    """Whether a text is a plain decimal number, such as 50, -0.5 or 49.90; "007" and "1e3" are texts."""
    return _NUMBER.fullmatch(text) is not None


def number_of(text: str) -> float:
    """The number that a text is, NaN for another text."""
    return float(text) if is_number(text) else math.nan


def key_of(text: str) -> str:
    """What equal texts share: numbers their value (50 and 50.00), other texts their letters, whatever their case."""
    if not is_number(text):
        return text.casefold()
    shortest = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if shortest == "-0" else shortest


@dataclass(frozen=True)
class Condition:
    """What the value of a metadata column must be.

    Attributes:
        column: name of the column.
        value: a text, of which "" stands for no value; for `in` and `not in` a tuple of texts.
        operator: one of `OPERATORS`. `=`, `!=`, `in` and `not in` ignore case, and take plain decimal numbers by their
            value; an image without a value differs from every value but "". `<`, `<=`, `>` and `>=` compare numbers,
            as float64; a value that is not a number never meets them. `~` means that the value contains a text,
            ignoring case.

    Raises:
        UsageError: an unknown operator, or a value that does not fit it.
    """

    column: str
    value: str | tuple[str, ...]
    operator: str = EQUAL

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise UsageError(f"unknown operator {shown(self.operator)}; there are {', '.join(OPERATORS)}")
        if not self.column:
            raise UsageError(f"a condition without a column; {_HELP}")
        if (self.operator in (IN, NOT_IN)) != isinstance(self.value, tuple):
            raise UsageError(
                f"condition on {shown(self.column)}: several values are for `in` and `not in`, one is for the others"
            )
        if not self.value and self.operator in (IN, NOT_IN, CONTAINS):
            raise UsageError(f"condition on {shown(self.column)}: no value after {self.operator}; write one")
        if self.compares and not is_number(str(self.value)):
            raise UsageError(
                f"condition on {shown(self.column)}: {shown(self.value)} is not a number; "
                f"{self.operator} compares numbers such as 50 or 49.90"
            )

    @property
    def compares(self) -> bool:
        """Whether it compares numbers."""
        return self.operator in COMPARISONS

    @property
    def negative(self) -> bool:
        """Whether it is `!=` or `not in`."""
        return self.operator in (NOT_EQUAL, NOT_IN)

    @property
    def number(self) -> float:
        """What a comparison compares with."""
        return float(str(self.value))

    @cached_property
    def keys(self) -> frozenset[str]:
        """`key_of` the values that `=` and `in` want, and `!=` and `not in` do not."""
        return frozenset(map(key_of, (self.value,) if isinstance(self.value, str) else self.value))

    def matches(self, values: Iterable[str]) -> list[bool]:
        """For each stored value whether it meets the condition; "" stands for no value."""
        if self.compares:
            compare, number = COMPARISONS[self.operator], self.number
            return [compare(number_of(value), number) for value in values]
        if self.operator == CONTAINS:
            part = str(self.value).casefold()
            return [part in value.casefold() for value in values]
        return [(key_of(value) in self.keys) is not self.negative for value in values]

    def __str__(self) -> str:
        if isinstance(self.value, tuple):
            value = ", ".join(_quoted(each, _LISTED) if each else '""' for each in self.value)
        else:
            value = _quoted(self.value, _RESERVED)
        return f"{_quoted(self.column, _OPERATOR)} {self.operator} {value}".rstrip()


def parse(text: str) -> tuple[Condition, ...]:
    """Conditions as they are typed: `colour=red`, `price<50 and colour in red, blue`, `title~cotton`.

    ` and ` separates conditions, a comma the values of `in`; there is no `or`. A value
    that holds one of them, a column that holds an operator, and whatever begins with a quote is written in double
    quotes: `title="salt and pepper"`; a quote within is written twice.

    Raises:
        UsageError: something else.
    """
    conditions: list[Condition] = []
    place = -len("and")
    while place < len(text):
        condition, place = _one(text, max(0, place + len("and")))
        conditions.append(condition)
    return tuple(conditions)


def as_conditions(where: Conditions) -> tuple[Condition, ...]:
    """Conditions, all of which an image must meet, from any form in which they are given.

    Args:
        where: None for no condition; a text as for `parse`; a `Condition`; a mapping of column -> value, of column ->
            list of values for `in`, or of column -> {operator: value}; or any number of these, of pairs (column, value)
            and of triples (column, value, operator). Values are strings or numbers, and stand for themselves: nothing
            in them is a quote, an operator or an `and`.

    Raises:
        UsageError: something else, such as a value that is None.
    """
    given = items(where, "where", (str, Condition, Mapping))
    return tuple(condition for each in given for condition in _conditions(each))


def _conditions(given: Any) -> Iterable[Condition]:
    if isinstance(given, str):
        return parse(str.__str__(given))
    if isinstance(given, Condition):
        return (given,)
    if isinstance(given, Mapping):
        return [condition for column, value in given.items() for condition in _of_column(column, value)]
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise UsageError(f"{shown(given)} is not a condition; write (column, value), or {{column: value}} for `where`")
    if len(given) == 2:
        return _of_column(*given)
    if not isinstance(given[2], str):
        raise UsageError(
            f"condition on {shown(given[0])}: the operator is {kind(given[2])}, {shown(given[2])}; write a string"
        )
    return _of_column(given[0], {given[2]: given[1]})


def _of_column(column: Any, value: Any) -> Iterable[Condition]:
    """The conditions on one column, from a value, several, or {operator: value}."""
    several = isinstance(value, list | tuple | AbstractSet)
    by_operator = value if isinstance(value, Mapping) else {IN if several else EQUAL: value}
    if not isinstance(column, str) or not all(isinstance(name, str) for name in by_operator):
        raise UsageError(f"condition on {shown(column)}: {shown(value)}; column and operator are strings")
    if not by_operator:
        raise UsageError(f'condition on {shown(column)}: {{}} is empty; write an operator and a value, {{"<": 50}}')
    for name, wanted in by_operator.items():
        if isinstance(wanted, list | tuple | AbstractSet):
            texts: str | tuple[str, ...] = tuple(_text(each, column) for each in items(wanted, "values"))
        else:
            texts = (_text(wanted, column),) if name in (IN, NOT_IN) else _text(wanted, column)
        yield Condition(str.__str__(column), texts, str.__str__(name))


def _text(value: Any, column: str) -> str:
    """A value as an index stores it: a text; numbers without an exponent."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = Decimal(int(value)) if isinstance(value, numbers.Integral) else Decimal(str(value))
            if number.is_finite():
                return format(number, "f")
        except InvalidOperation:  # such as a fraction
            pass
    raise UsageError(
        f"condition on {shown(column)}: the value is {kind(value)}, {shown(value)}; "
        'write it as the index stores it, a string or a number; "" is for images without a value'
    )


def _one(text: str, place: int) -> tuple[Condition, int]:
    """The condition that begins at a place, and where it ends: at an `and`, or at the end of the text."""
    column, _, end = _token(text, place, _OPERATOR)
    found = _OPERATOR.match(text, end)
    if not found or not column:
        hint = "; a value that holds ` and ` is written in quotes" if place else ""
        raise UsageError(f"{shown(text[place:].strip())} is not a condition; {_HELP}{hint}")
    name = " ".join(found[0].split()).lower().replace("==", EQUAL).replace("! ", "!")
    if name in (IN, NOT_IN):
        values, place = _several(text, found.end())
        return Condition(column, values, name), place
    value, quoted, place = _token(text, found.end(), _END)
    if value[:1] in ("=", "<", ">", "~") and not quoted:
        raise UsageError(f'{shown(text)}: no value begins with {value[0]}, except in quotes: "{value[0]}..."')
    return Condition(column, value, name), place


def _several(text: str, place: int) -> tuple[tuple[str, ...], int]:
    """The values that begin at a place, with or without brackets around them; and where the condition ends."""
    place = _after_blanks(text, place)
    brackets = text[place : place + 1] == "("
    place += brackets
    values: list[str] = []
    while not values or text[place : place + 1] == ",":
        value, quoted, place = _token(text, place + bool(values), _BRACKET_END if brackets else _VALUE_END)
        if not value and not quoted:
            raise UsageError(f'{shown(text)}: a value is missing; write a, b, and "" for images without a value')
        values.append(value)
    if brackets:
        rest, _, end = _token(text, place + 1, _END)
        if text[place : place + 1] != ")" or rest:
            raise UsageError(f"{shown(text)}: write a bracket around all values of `in`, or none")
        place = end
    return tuple(values), place


def _token(text: str, place: int, end: re.Pattern[str]) -> tuple[str, bool, int]:
    """What stands between a place and the next end, whether in quotes, and where that end begins."""
    place = _after_blanks(text, place)
    if text[place : place + 1] != '"':
        found = end.search(text, place)
        stop = found.start() if found else len(text)
        _refuse_or(text, place, stop)
        return text[place:stop].rstrip(), False, stop
    quoted = _QUOTED.match(text, place)
    if not quoted:
        raise UsageError(f"{shown(text)}: a quote is not closed; a value that begins with a quote is written in quotes")
    stop = _after_blanks(text, quoted.end())
    if not end.match(text, stop):
        _refuse_or(text, stop, len(text))
        raise UsageError(f"{shown(text)}: {shown(text[stop:])} follows a closed quote; a quote within is written twice")
    return quoted[1].replace('""', '"'), True, stop


def _refuse_or(text: str, place: int, stop: int) -> None:
    """Raises UsageError if an `or` between conditions stands in a part of the text."""
    if _OR.search(f" {text[place:stop]}"):
        raise UsageError(
            f"{shown(text)}: there is no `or` between conditions; for several values of a column write `in`, as in "
            "colour in red, blue; a value that holds such an `or` is written in quotes"
        )


def _after_blanks(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place


def _quoted(text: str, reserved: re.Pattern[str]) -> str:
    """A text as `parse` reads it: in quotes where it would be read otherwise."""
    plain = text == text.strip() and text[:1] not in tuple('"=<>~(') and not reserved.search(f" {text} ")
    doubled = text.replace('"', '""')
    return text if plain else f'"{doubled}"'
