"""Metadata conditions: how they are written, and which values meet them."""

from __future__ import annotations

import pytest

from cir.conditions import Condition
from cir.errors import UsageError


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("colour=red", Condition("colour", "red")),
        (" base colour = Navy Blue ", Condition("base colour", "Navy Blue")),
        ("size=a=b", Condition("size", "a=b")),
        ("colour=", Condition("colour", "")),
    ],
)
def test_conditions_are_parsed(text: str, condition: Condition) -> None:
    assert Condition.parse(text) == condition


@pytest.mark.parametrize("text", ["colour", "=red", " =red", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write COLUMN=VALUE"):
        Condition.parse(text)


def test_case_does_not_matter() -> None:
    assert Condition("colour", "RED").matches(["red", "Red", "reddish", ""]) == [True, True, False, False]
    assert Condition("colour", "").matches(["red", ""]) == [False, True]
    assert str(Condition("colour", "red")) == "colour = red"
