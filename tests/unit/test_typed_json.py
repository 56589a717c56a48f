"""Foreign JSON into dataclasses: what fits is read, what does not is one line that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pytest

from cir.typed_json import Matching, Within, digest, from_json, to_json


class Route(Enum):
    NATIVE = "native"


class Gain(NamedTuple):
    low: float
    high: float = 1.0


@dataclass(frozen=True)
class Part:
    name: Annotated[str, Matching("[a-z]+")]
    size: Annotated[int, Within(1, 9)] = 1

    def __post_init__(self) -> None:
        if self.name == "refused":
            raise ValueError("refused by the class")


@dataclass(frozen=True)
class Whole:
    parts: Mapping[str, Part]
    weight: float
    on: bool = False
    path: str | None = None
    pair: tuple[int, float] = (0, 0.0)
    names: tuple[str, ...] = ()
    texts: Sequence[str] = ()
    listed: Annotated[list[int], Within(0, 3)] = field(default_factory=list)
    route: Route = Route.NATIVE
    kind: Literal["a", "b"] = "a"
    gain: Gain | None = None
    mean: tuple[float, float] | None = None
    record: Any = None
    computed: ClassVar[tuple[str, ...]] = ("count",)

    @property
    def count(self) -> int:
        return len(self.parts)


FULL = Whole(
    {"x": Part("abc", 3)},
    0.5,
    on=True,
    path="p",
    pair=(1, 2.0),
    names=("n", "m"),
    texts=("t",),
    listed=[1],
    gain=Gain(0.25, 2.0),
    mean=(1.0, 2.0),
    record={"a": [1, None, "x"]},
)


@pytest.mark.parametrize("value", [FULL, Whole({}, 1.0)])
def test_what_is_written_is_read(value: Whole) -> None:
    plain = json.loads(json.dumps(to_json(value)))
    assert plain["count"] == len(value.parts)
    assert from_json(Whole, plain) == value


def test_missing_fields_take_their_defaults_and_whole_numbers_are_floats() -> None:
    read = from_json(Whole, {"parts": {"x": {"name": "abc"}}, "weight": 1, "pair": [3, 4]})
    assert read == Whole({"x": Part("abc")}, 1.0, pair=(3, 4.0))
    assert [type(read.weight), type(read.pair[1])] == [float, float]


PLAIN: dict[str, Any] = {"parts": {"x": {"name": "abc"}}, "weight": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "a list, not an object of named values"),
        ({}, "parts: missing"),
        ({**PLAIN, "parts": "x"}, "parts: a text, not an object of named values"),
        ({**PLAIN, "parts": {"ab12": {"name": "abc", "size": "3"}}}, "parts.ab12.size: a text, not a whole number"),
        ({**PLAIN, "parts": {"x": {"name": "abc", "size": True}}}, "parts.x.size: true or false, not a whole number"),
        ({**PLAIN, "parts": {"x": {"name": "abc", "size": 1.0}}}, "parts.x.size: a number with a decimal point, not"),
        ({**PLAIN, "parts": {"x": {"name": "abc", "size": -1}}}, "parts.x.size: is -1, not 1 to 9"),
        ({**PLAIN, "parts": {"x": {"name": "abc", "size": 10**4000}}}, "parts.x.size: a number beyond 64 bits"),
        ({**PLAIN, "parts": {"x": {"name": "A"}}}, "parts.x.name: is 'A', which is not of the form"),
        ({**PLAIN, "parts": {"x": {"name": "refused"}}}, "parts.x: refused by the class"),
        ({**PLAIN, "parts": {"x": {}}}, "parts.x.name: missing"),
        ({**PLAIN, "parts": {"a\nb": 1}}, r"parts.'a\\nb': a whole number, not an object"),
        ({**PLAIN, "more": 1}, "more: unknown"),
        ({**PLAIN, "weight": 10**4000}, "weight: a number beyond 64 bits"),
        ({**PLAIN, "weight": 1e999}, "weight: not a finite number"),
        ({**PLAIN, "weight": None}, "weight: null, not a number"),
        ({**PLAIN, "on": 1}, "on: a whole number, not true or false"),
        ({**PLAIN, "path": 1}, "path: a whole number, not a text"),
        ({**PLAIN, "pair": [1]}, "pair: 1 values, not 2"),
        ({**PLAIN, "names": "ab"}, "names: a text, not a list"),
        ({**PLAIN, "names": ["a", 2]}, "names.1: a whole number, not a text"),
        ({**PLAIN, "listed": [1, 2, 3, 4]}, "listed: has 4, not 0 to 3"),
        ({**PLAIN, "route": "other"}, "route: 'other' is not a valid Route"),
        ({**PLAIN, "route": []}, "route: "),
        ({**PLAIN, "kind": "c"}, "kind: is 'c', not 'a' or 'b'"),
        ({**PLAIN, "gain": {}}, "gain.low: missing"),
        ({**PLAIN, "mean": [1, "x"]}, "mean.1: a text, not a number"),
        ({**PLAIN, "count": 7}, "count: is 7, which contradicts the other fields"),
        ({**PLAIN, "record": {"a": [1, 1e999]}}, "record.a.1: not a finite number"),
        ({**PLAIN, "record": eval("[" * 90 + "]" * 90)}, "nested too deeply"),
        ({**PLAIN, "record": "x" * 10_000, "y" * 10_000: 1}, r"'yyyy.+\.\.\.: unknown"),
    ],
)
def test_what_does_not_fit_is_one_short_line(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_json(Whole, values)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_digest_does_not_depend_on_how_a_number_is_written() -> None:
    assert digest(Whole({}, 1)) == digest(Whole({}, 1.0))
    assert digest(Whole({}, 1.0)) != digest(Whole({}, 1.5))
    with pytest.raises(ValueError, match="weight: not a finite number"):
        digest(Whole({}, float("nan")))
