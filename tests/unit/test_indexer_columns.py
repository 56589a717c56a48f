"""Columns of a segment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir.indexer.storage import columns
from cir.indexer.storage.columns import Codes, Texts

TEXTS = st.lists(st.text(max_size=8) | st.sampled_from(["", "red", "caf\udce9"]), max_size=30)


def encodable(texts: list[str]) -> list[str]:
    """Texts as they come from file names: lone surrogates only where a byte was not UTF-8."""
    return [text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for text in texts]


@given(TEXTS)
def test_texts_come_back(texts: list[str]) -> None:
    texts = encodable(texts)
    for column in (Texts.encode(texts), Codes.encode(texts), columns.encode(texts)):
        stored = columns.from_arrays(column.arrays)
        assert list(stored) == texts
        assert len(stored) == len(texts)
        assert [stored[row] for row in range(len(texts))] == texts
        assert stored[1:-1] == texts[1:-1]
        assert stored.matching(lambda values: [value == "red" for value in values]).tolist() == [
            text == "red" for text in texts
        ]


def test_the_smaller_form_is_taken() -> None:
    assert isinstance(columns.encode(["Summer", "Winter"] * 50), Codes)
    assert isinstance(columns.encode([f"{number} long and unique" for number in range(100)]), Texts)


def test_a_condition_is_asked_once_for_each_distinct_text() -> None:
    asked: list[str] = []

    def test(values: object) -> list[bool]:
        asked.extend(values)  # type: ignore[call-overload]
        return [True, False]

    assert Codes.encode(["a", "b", "a", "a"]).matching(test).tolist() == [True, False, True, True]
    assert asked == ["a", "b"]


@pytest.mark.parametrize("row", [3, -4])
def test_rows_outside(row: int) -> None:
    with pytest.raises(IndexError):
        Texts.encode(["a", "b", "c"])[row]
    assert Texts.encode(["a", "b", "c"])[-1] == "c"


def test_damaged_columns_are_refused() -> None:
    good = Codes.encode(["a", "b"]).arrays
    for change in (
        {"codes": np.array([0, 2], np.uint8)},
        {"codes": np.array([0.0, 1.0])},
        {"offsets": np.array([0, 2, 1])},
        {"offsets": np.array([], np.int64)},
        {"offsets": np.array([[0, 1, 2]])},
        {"data": np.array([1, 2, 3], np.uint8)},
    ):
        with pytest.raises(ValueError, match="column"):
            columns.from_arrays({**good, **change})
