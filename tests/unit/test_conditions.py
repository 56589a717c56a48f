"""Metadata conditions: how they are written, what they match, and how they are shown."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir.conditions import COMPARISONS, IN, NOT_IN, OPERATORS, Condition, as_conditions, is_number, key_of, parse
from cir.errors import UsageError

VALUES = ("Summer", "SUMMER", "winter", "")
PRICES = ("5", "50", "50.00", "-0.0", "", "cheap", "007", "1e3", "٥")
WORDS = st.sampled_from(
    ['"', " ", "and", " and ", " or ", "or", " in ", ",", "(", ")", "=", "<", "!", "~", "red", "5", "\n"]
)
TEXTS = st.lists(WORDS, max_size=6).map("".join) | st.text(max_size=5)


@pytest.mark.parametrize(
    ("text", "condition", "matches"),
    [
        ("season=summer", Condition("season", "summer"), [True, True, False, False]),
        ("season==summer", Condition("season", "summer"), [True, True, False, False]),
        ("season!=summer", Condition("season", "summer", "!="), [False, False, True, True]),
        (" season ! = Summer ", Condition("season", "Summer", "!="), [False, False, True, True]),
        ("season=", Condition("season", ""), [False, False, False, True]),
        ("season!=", Condition("season", "", "!="), [True, True, True, False]),
        ("season=a!=b", Condition("season", "a!=b"), [False] * 4),
        ('season!="=b"', Condition("season", "=b", "!="), [True] * 4),
        ("season in winter,SUMMER", Condition("season", ("winter", "SUMMER"), "in"), [True, True, True, False]),
        ('season IN (winter, "")', Condition("season", ("winter", ""), "in"), [False, False, True, True]),
        ("season not  in summer", Condition("season", ("summer",), "not in"), [False, False, True, True]),
        ("season~MM", Condition("season", "MM", "~"), [True, True, False, False]),
    ],
)
def test_written_and_matched(text: str, condition: Condition, matches: list[bool]) -> None:
    assert parse(text) == (condition,)
    assert condition.matches(VALUES) == matches
    assert parse(str(condition)) == (condition,)


@pytest.mark.parametrize(
    "text",
    [
        "colour=red or colour=blue",
        "colour=red OR size != 5",
        "colour in red, blue or price<5",
        "colour in (red, blue) or price<5",
        'colour="red" or colour="blue"',
        'colour=red or "the size"~5',
        "price<5 or price>9",
        "size=5 and colour=red or colour=blue",
    ],
)
def test_there_is_no_or(text: str) -> None:
    with pytest.raises(UsageError, match=r"there is no `or` between conditions; .* write `in`"):
        parse(text)


@pytest.mark.parametrize("value", ["salt or pepper", "or", "red or", "to be or not to be", '"a or b=c"'])
def test_an_or_within_a_value(value: str) -> None:
    (condition,) = parse(f"title={value}")
    assert condition == Condition("title", value.strip('"'))
    assert parse(str(condition)) == (condition,)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("price=50", {"50", "50.00"}),
        ("price=0", {"-0.0"}),
        ("price=7", set()),
        ("price=007", {"007"}),
        ("price=1000", set()),
        ("price<50", {"5", "-0.0"}),
        ("price<=50.0", {"5", "50", "50.00", "-0.0"}),
        ("price > 5", {"50", "50.00"}),
        ("price>=-1", {"5", "50", "50.00", "-0.0"}),
        ("price in 5.0, cheap", {"5", "cheap"}),
        ("price!=50", {"5", "-0.0", "", "cheap", "007", "1e3", "٥"}),
    ],
)
def test_numbers(text: str, met: set[str]) -> None:
    (condition,) = parse(text)
    assert set(np.array(PRICES)[condition.matches(PRICES)].tolist()) == met


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("a=1 and b<2", [("a", "1", "="), ("b", "2", "<")]),
        ("a in x, y AND b=", [("a", ("x", "y"), "in"), ("b", "", "=")]),
        ("a= and b=salt", [("a", "", "="), ("b", "salt", "=")]),
        ('a in (x, "y, and (z)") and b=2', [("a", ("x", "y, and (z)"), "in"), ("b", "2", "=")]),
        ('a="salt and ""pepper"""and b=1', None),
        ('a="salt and ""pepper""" and b=1', [("a", 'salt and "pepper"', "="), ("b", "1", "=")]),
        ("a=sand and b=and", [("a", "sand", "="), ("b", "and", "=")]),
        ('"made in" = china', [("made in", "china", "=")]),
        ("size=14\" and a=levi's", [("size", '14"', "="), ("a", "levi's", "=")]),
    ],
)
def test_several_in_one_text(text: str, conditions: list[tuple[str, Any, str]] | None) -> None:
    if conditions is None:
        with pytest.raises(UsageError, match="follows a closed quote"):
            parse(text)
    else:
        assert list(parse(text)) == [Condition(*values) for values in conditions]


def conditions(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Condition]:
    """Any condition with texts as its values."""
    numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,2})(\.[0-9]{1,2})?", fullmatch=True)
    several = st.lists(texts | numbers, min_size=1, max_size=10).map(tuple)
    columns = st.text(min_size=1, max_size=4) | TEXTS.filter(bool)

    def value(operator: str) -> st.SearchStrategy[Any]:
        if operator in (IN, NOT_IN):
            return several
        return numbers if operator in COMPARISONS else texts.filter(bool) | numbers

    return st.sampled_from(OPERATORS).flatmap(lambda sign: st.builds(Condition, columns, value(sign), st.just(sign)))


@given(st.lists(conditions(TEXTS), min_size=1, max_size=3))
def test_what_is_shown_is_read_again(given_conditions: list[Condition]) -> None:
    assert list(parse(" and ".join(map(str, given_conditions)))) == given_conditions


@given(st.lists(WORDS, max_size=12).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    found: tuple[Condition, ...] = ()
    with suppress(UsageError):
        found = parse(text)
    assert not found or parse(" and ".join(map(str, found))) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a condition; write COLUMN=VALUE; the operators are =, !=, <, <=, >, >=, in, not in, ~"),
        ("season", "write COLUMN=VALUE"),
        ("=summer", "write COLUMN=VALUE"),
        ("!=summer", "write COLUMN=VALUE"),
        (" ! = summer", "write COLUMN=VALUE"),
        ("season!summer", "write COLUMN=VALUE"),
        ("a=1 and", "'' is not a condition"),
        ("title=salt and pepper", "'pepper' is not a condition; .*a value that holds ` and ` is written in quotes"),
        ("price=<50", "no value begins with <, except in quotes"),
        ("price<cheap", "condition on 'price': 'cheap' is not a number; < compares numbers such as 50 or 49.90"),
        ("price<", "'' is not a number"),
        ("title~", "no value after ~"),
        ("colour in", "a value is missing"),
        ("colour in a,,b", "a value is missing"),
        ("colour in (a", "write a bracket around all values"),
        ("colour in (a) b", "write a bracket around all values"),
        ('title="a', "a quote is not closed"),
        ('title="a" b', "'b' follows a closed quote"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_long_texts_are_read_at_once() -> None:
    assert len(parse("a in " + ",".join(map(str, range(50_000))))[0].value) == 50_000
    assert len(parse(" and ".join(["a=1"] * 20_000))) == 20_000
    for text in ("a" + " " * 500_000 + "b", "! " * 200_000, '"' * 200_001, "a in (" + " " * 500_000):
        with pytest.raises(UsageError):
            parse(text)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({"price": {">=": 20, "<": 49.9}}, "price>=20 and price<49.9"),
        ({"colour": ["red", "blue"], "year": 2011}, "colour in red,blue and year=2011"),
        ({"year": {"not in": (2011, np.int16(2012))}}, "year not in 2011,2012"),
        ({"year": {"in": 2011}}, "year in 2011"),
        ([{"title": {"~": "a and b"}}, "x=1", ("y", 1e-7), ["z", {"b", "a"}, "in"]], None),
        (("price", np.float32(49.9)), None),
        ([("price", np.float32(49.9))], "price=49.9"),
        ([("price", 1e21, ">")], "price>1000000000000000000000"),
        ([("price", 10**5000, ">")], f"price>1{'0' * 5000}"),
    ],
)
def test_other_forms(where: Any, text: str | None) -> None:
    if text:
        assert as_conditions(where) == parse(text)
    elif isinstance(where, tuple):
        with pytest.raises(UsageError, match="is not a condition"):
            as_conditions(where)
    else:
        assert as_conditions(where) == parse('title~"a and b" and x=1 and y=0.0000001 and z in a,b')


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"a": {}}, "is empty"),
        ({"a": []}, "no value after in"),
        ({"a": {"=": ["b"]}}, "several values are for `in` and `not in`"),
        ({"a": {"<": "b"}}, "'b' is not a number"),
        ({"a": {"like": "b"}}, "unknown operator 'like'; there are =, !="),
        ({"a": {5: "b"}}, "column and operator are strings"),
        ({"a": [None]}, "the value is None"),
        ({"a": {"<": {"<": 5}}}, "the value is a dict"),
        ({"a": math.inf}, "the value is a float, inf"),
        ({"a": math.nan}, "the value is a float, nan"),
        ({"a": Fraction(1, 3)}, re.escape("the value is a Fraction, Fraction(1, 3)")),
        ({"": "b"}, "a condition without a column"),
    ],
)
def test_forms_that_mean_nothing(where: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_conditions(where)


@pytest.mark.parametrize(("value", "operator"), [("red", "in"), (("red",), "=")])
def test_values_fit_the_operator(value: Any, operator: str) -> None:
    with pytest.raises(UsageError, match="several values are for"):
        Condition("a", value, operator)


@given(st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True), st.integers(0, 3))
def test_equal_numbers_have_one_key(text: str, zeros: int) -> None:
    if is_number(text):
        assert key_of(text) == key_of(text + "0" * zeros if "." in text else f"{text}.{'0' * (zeros + 1)}")
        assert float(key_of(text)) == float(text)
