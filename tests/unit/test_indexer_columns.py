"""Columns of a segment: three forms of the same texts, and the conditions that they meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir.conditions import Condition, parse
from cir.errors import CorruptIndexError, UsageError
from cir.indexer.storage import columns, texts
from cir.indexer.storage.columns import Codes, Column, Numbers, Texts, check_comparable

NUMBERS = st.sampled_from(["", "0", "-0", "-0.0", "5", "5.0", "50", "50.00", "49.9", "0.1", "12.5", "-3", "1" * 25])
PLAIN = st.integers(-999, 999).map(str) | st.decimals(-99, 99, places=2).map(str)
WORDS = st.sampled_from(["", "red", "RED", "Reddish", "red shirt", "007", "1e3", "inf", "nan", "5 ", "caf\udce9", "ß"])
ASCII = st.text("aA5.0- ", max_size=4)
FOLDED = st.text("sSiIkKß\u1e9eİı\u212aſé", max_size=3)  # letters that fold to others, to ASCII among them
KINDS = (WORDS, ASCII, NUMBERS, PLAIN, NUMBERS | WORDS, st.text(max_size=4), FOLDED, ASCII | FOLDED)
LISTS = [st.lists(values, max_size=20) for values in KINDS]
CONDITIONS = st.one_of(
    st.builds(Condition, st.just("a"), NUMBERS | WORDS | ASCII | PLAIN | FOLDED, st.sampled_from(["=", "!="])),
    st.builds(Condition, st.just("a"), (NUMBERS | WORDS | ASCII | PLAIN | FOLDED).filter(bool), st.just("~")),
    st.builds(Condition, st.just("a"), (NUMBERS | PLAIN).filter(bool), st.sampled_from(["<", "<=", ">", ">="])),
    st.builds(
        Condition,
        st.just("a"),
        st.lists(NUMBERS | WORDS | ASCII | FOLDED, min_size=1, max_size=10).map(tuple),
        st.sampled_from(["in", "not in"]),
    ),
)


def forms(values: list[str]) -> list[Column]:
    """Texts in every form that can hold them, as a reader opens them."""
    made = [Texts.encode(values), Codes.encode(values), Numbers.encode(values), columns.encode(values)]
    return [columns.from_arrays(form.arrays) for form in made if form is not None]


def encodable(values: list[str]) -> list[str]:
    """Texts as they come from file names: lone surrogates only where a byte was not UTF-8."""
    return [text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for text in values]


@given(st.one_of(LISTS))
def test_texts_come_back(values: list[str]) -> None:
    values = encodable(values)
    for stored in forms(values):
        stored.check()
        assert list(stored) == values
        assert len(stored) == len(values)
        assert [stored[row] for row in range(len(values))] == values
        assert stored[1:-1] == values[1:-1]
        for row in (len(values), -len(values) - 1):
            with pytest.raises(IndexError):
                stored[row]
        assert not values or stored[-1] == values[-1]


@given(st.one_of(LISTS), CONDITIONS)
def test_every_form_meets_what_its_texts_meet(values: list[str], condition: Condition) -> None:
    values = encodable(values)
    for stored in forms(values):
        assert stored.matching(condition).tolist() == condition.matches(values), type(stored)
        assert stored.matching(condition).dtype == np.bool_


@given(st.lists(ASCII | ASCII | FOLDED, min_size=5, max_size=20), CONDITIONS)
def test_texts_are_compared_in_blocks(values: list[str], condition: Condition) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_BLOCK", 3)
        assert Texts.encode(values).matching(condition).tolist() == condition.matches(values)


def test_the_smaller_form_is_taken() -> None:
    assert isinstance(columns.encode(["Summer", "Winter"] * 50), Codes)
    assert isinstance(columns.encode([f"{number} long and unique" for number in range(100)]), Texts)
    assert isinstance(columns.encode([str(2000 + number % 20) for number in range(1000)]), Codes)
    assert isinstance(columns.encode([f"{number / 7:.3f}" for number in range(1000)]), Numbers)
    distinct = [str(number % 5000) for number in range(40_000)]
    assert sum(array.nbytes for array in Codes.encode(distinct).arrays.values()) < 8 * 40_000
    assert isinstance(columns.encode(distinct), Numbers)  # larger, but compared at once


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        (["50.00", "", "-0.50"], 2),
        (["50", "-0", "12345678901234567890" + "0" * 300], None),
        (["9007199254740993"], None),  # no float64
        (["50", "49.9", "0.1"], -1),
        (["50.0", "49.90"], None),
        (["1" + "0" * 22], 0),
        (["1" + "0" * 22, "0.5"], None),  # with an exponent when short
        (["0.0000001", "0.5"], None),
        (["0." + "0" * 30 + "1"], None),
        (["1" + "0" * 400], None),
        (["", ""], None),
        ([], None),
        (["5", "five"], None),
        (["5", "inf"], None),
        (["5", "nan"], None),
        (["5", "1_0"], None),
        (["5", " 5"], None),
        (["5", "٥"], None),
        (["5", "5\n"], None),
    ],
)
def test_only_what_comes_back_exactly_is_a_number(values: list[str], decimals: int | None) -> None:
    numbers = Numbers.encode(values)
    assert (None if numbers is None else numbers.decimals) == decimals


def test_a_condition_is_asked_once_for_each_distinct_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    matches = Condition.matches
    monkeypatch.setattr(Condition, "matches", lambda self, values: matches(self, asked.extend(values) or asked))
    assert Codes.encode(["é", "è", "é", "é"]).matching(parse("a=É")[0]).tolist() == [True, False, True, True]
    assert asked == ["é", "è"]


@pytest.mark.parametrize("typed", ["a=SHIRT 7", "a!=shirt 7", "a in shirt 7, é", "a~T 7", "a~0", "a~é", "a=É"])
def test_only_texts_beyond_ascii_are_decoded(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    values = [*(f"shirt {number}" for number in range(100)), "é", "shirt 107 é"]
    condition = parse(typed)[0]
    expected, asked = condition.matches(values), []
    matches = Condition.matches
    monkeypatch.setattr(
        Condition, "matches", lambda self, values: matches(self, [asked.append(text) or text for text in values])
    )
    assert Texts.encode(values).matching(condition).tolist() == expected
    assert asked == ["é", "shirt 107 é"]


def test_a_comparison_of_texts_is_refused() -> None:
    dear = [Texts.encode(["cheap", "", "dear"]), Codes.encode(["new", "cheap", "cheap", "old"])]
    with pytest.raises(UsageError, match=r"'price' holds texts such as 'cheap', 'dear', 'new', not numbers; < "):
        check_comparable(parse("price<50")[0], dear)
    with pytest.raises(UsageError, match=r"holds texts such as 'cheap', 'dear', not numbers; < "):
        check_comparable(parse("price<50")[0], [Texts.encode([""] * 2000), dear[0]])
    check_comparable(parse("price=50")[0], dear)
    check_comparable(parse("price<50")[0], [*dear, columns.encode(["cheap", "7"])])
    check_comparable(parse("price<50")[0], [*dear, columns.encode(["7.5"] * 3)])


def test_opening_looks_at_no_values() -> None:
    """Damage within is found where it is read, and by `check`."""
    codes = {**Codes.encode(["a", "b", "a"]).arrays, "codes": np.array([0, 2, 1], np.uint8)}
    offsets = {"data": np.frombuffer(b"abcd", np.uint8), "offsets": np.array([0, 2, 1, 4])}
    beyond = {"data": np.frombuffer(b"abcd", np.uint8), "offsets": np.array([0, 9, 4])}
    below = {"data": np.frombuffer(b"abcd", np.uint8), "offsets": np.array([0, -2, 4])}
    infinite = {"numbers": np.array([1, np.inf]), "decimals": np.array([0], np.int8)}
    for arrays in (codes, offsets, beyond, below, infinite):
        column = columns.from_arrays(arrays, "gallery.h5: column 'a'")
        reads: list[Any] = [list, lambda column: column[:], lambda column: column.check(), lambda column: column[1]]
        for read in reads:
            with pytest.raises(CorruptIndexError, match=r"gallery.h5: column 'a' is damaged: .*; restore the file"):
                read(column)
    assert columns.from_arrays(codes)[0] == "a"
    assert columns.from_arrays(offsets)[0] == "ab"


@given(st.lists(st.integers(-9, 9) | st.integers(-(2**63), 2**63 - 1), max_size=6), CONDITIONS, st.integers(-9, 9))
def test_conditions_on_damaged_offsets(middle: list[int], condition: Condition, row: int) -> None:
    data = np.frombuffer(b"red shirt 50.00", np.uint8)
    column = columns.from_arrays({"offsets": np.array([0, *middle, len(data)], np.int64), "data": data})
    reads: list[Any] = [lambda: column.matching(condition), lambda: column[row], lambda: list(column)]
    for read in reads:
        try:
            read()
        except CorruptIndexError:
            assert (np.diff(column.arrays["offsets"].astype(object)) < 0).any()
        except IndexError:
            assert not -len(column) <= row < len(column)


def test_codes_that_are_not_explained() -> None:
    column = columns.from_arrays({**Codes.encode(["a", "b"]).arrays, "codes": np.array([0, 2], np.uint8)})
    with pytest.raises(CorruptIndexError, match="its dictionary does not explain"):
        column.matching(parse("a=b")[0])


def test_what_is_no_column_is_refused() -> None:
    good: dict[str, Any] = dict(Codes.encode(["a", "b"]).arrays)
    numbers = {"numbers": np.array([1.0, np.nan]), "decimals": np.array([0], np.int8)}
    for arrays in (
        {**good, "codes": np.array([0.0, 1.0])},
        {**good, "codes": np.array([0, 1], np.uint64)},
        {**good, "offsets": np.array([], np.int64)},
        {**good, "offsets": np.array([[0, 1, 2]])},
        {**good, "offsets": np.array([0, 1, 3])},
        {**good, "data": np.array([1, 2, 3], np.uint8)},
        {**numbers, "numbers": np.array([1, 2])},
        {**numbers, "decimals": np.array([0, 0], np.int8)},
        {**numbers, "decimals": np.array([99], np.int8)},
        {**numbers, "decimals": np.array([-2], np.int8)},
    ):
        with pytest.raises(ValueError, match="column"):
            columns.from_arrays(arrays)
    for name in ("numbers", "decimals"):
        with pytest.raises(KeyError):
            columns.from_arrays({key: array for key, array in numbers.items() if key != name})
