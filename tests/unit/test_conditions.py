"""Metadata conditions: how they are written, what they match, and how they are shown."""

from __future__ import annotations

import pytest

from cir.conditions import Condition
from cir.errors import UsageError

VALUES = ("Summer", "SUMMER", "winter", "")


@pytest.mark.parametrize(
    ("text", "condition", "matches"),
    [
        ("season=summer", Condition("season", "summer"), [True, True, False, False]),
        ("season!=summer", Condition("season", "summer", "!="), [False, False, True, True]),
        (" season != Summer ", Condition("season", "Summer", "!="), [False, False, True, True]),
        ("season=", Condition("season", ""), [False, False, False, True]),
        ("season!=", Condition("season", "", "!="), [True, True, True, False]),
        ("season=a!=b", Condition("season", "a!=b"), [False] * 4),
        ("season!==b", Condition("season", "=b", "!="), [True] * 4),
    ],
)
def test_written_and_matched(text: str, condition: Condition, matches: list[bool]) -> None:
    assert Condition.parse(text) == condition
    assert condition.matches(VALUES) == matches
    assert Condition.parse(str(condition)) == condition


@pytest.mark.parametrize("text", ["", "season", "=summer", "!=summer", " ! = summer", "season!summer"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write COLUMN=VALUE or COLUMN!=VALUE"):
        Condition.parse(text)


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown operator 'summer'"):
        Condition("season", "!=", "summer").matches(VALUES)
