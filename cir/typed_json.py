"""Dataclasses from JSON or TOML that somebody else may have written, checked against their annotations.

The one way in for cards, manifests and configurations: nothing absurd gets past it, and every message names its field.

    @dataclass(frozen=True)
    class Size:
        width: Annotated[int, Within(1, 4096)]
        name: Annotated[str, Matching(r"[a-z]+")] = "x"

    from_json(Size, {"width": 3.5})     ValueError: width: a number with a fraction, not a whole number

Annotations may be bool, int, float, str, None, `Any` (plain JSON values), an enum, a `Literal`, a dataclass, a named
tuple, `X | None` and other unions, `tuple[X, Y]`, `tuple[X, ...]`, `Sequence[X]` and `list[X]`, `Mapping[str, X]` and
`dict[str, X]`, and each of them in an `Annotated` with `Within`, `Matching` or `Printable`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

DEPTH = 32  # of nested values; the deepest file of this package has ten
LARGEST = 2**63 - 1  # whole numbers beyond it fit no array and no file
UNLESS_DEFAULT = {"unless": "default"}  # metadata of a field that is written only if it is not at its default


@dataclass(frozen=True)
class Within:
    """Bounds of a number, both included; also of the length of a text, a list or a mapping."""

    low: float
    high: float

    def check(self, value: Any) -> None:
        """Raises ValueError for a value outside."""
        size = len(value) if isinstance(value, str | tuple | list | dict) else value
        if not self.low <= size <= self.high:
            what = "has" if size is not value else "is"
            raise ValueError(f"{what} {_short(size)}, not {self.low:,} to {self.high:,}")


@dataclass(frozen=True)
class Matching:
    """A pattern that a whole text matches."""

    pattern: str

    def check(self, value: Any) -> None:
        """Raises ValueError for another text."""
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"is {_short(value)}, which is not of the form {self.pattern}")


@dataclass(frozen=True)
class Printable:
    """A text for one line of a message: not empty, without line breaks, controls and broken characters."""

    longest: int

    def check(self, value: Any) -> None:
        """Raises ValueError for another text."""
        if not value or not value.isprintable():
            raise ValueError(f"is {_short(value)}, not a name in printable characters")
        Within(1, self.longest).check(value)


class _Misfit(ValueError):
    """A value that does not fit; `path` leads to it from the outside in."""

    def __init__(self, reason: str, *path: str) -> None:
        super().__init__(reason)
        self.reason, self.path = reason, path

    def __str__(self) -> str:
        place = ".".join(self.path)
        return f"{place}: {self.reason}" if place else self.reason

    def below(self, key: str) -> _Misfit:
        return _Misfit(self.reason, key, *self.path)


def from_json(cls: type[T], values: object) -> T:
    """An instance of a dataclass from parsed JSON.

    Types are taken strictly: true is no number, 1 is a float where one is wanted, 1.0 is no whole number. Unknown keys
    are refused, missing ones take their default. What the class itself refuses, with ValueError, is refused here too.
    A class may list the names of properties in `computed`: they are written for readers, and must agree when read.

    Raises:
        ValueError: the values do not fit; one line, which begins with the path of the field ("models.ab12.dims: ...").
    """
    made: T = _read(cls, values, 0)
    return made


def to_json(value: Any) -> Any:
    """Plain JSON values of a dataclass, for `from_json`.

    Properties in `computed` are included; a field with the metadata `UNLESS_DEFAULT` is left out at its default, so
    that it can be added to a class without changing the digests of what exists.
    """
    if is_dataclass(value):
        kept = [each for each in fields(value) if not each.metadata.get("unless") or _changed(value, each)]
        names = [*(field.name for field in kept), *getattr(value, "computed", ())]
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: to_json(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(part) for part in value]
    return value


def _changed(value: Any, field: Field[Any]) -> bool:
    return bool(getattr(value, field.name) != field.default)


def digest(value: Any) -> str:
    """SHA-256 of a dataclass: of its canonical JSON, in which 0 and 0.0 are the same where a float is wanted.

    Raises:
        ValueError: the value does not fit its own annotations.
    """
    plain = to_json(from_json(type(value), to_json(value)))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(kind: Any, value: Any, depth: int) -> Any:
    """The value as an instance of an annotation."""
    if depth > DEPTH:
        raise _Misfit("nested too deeply")
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        made = _read(arguments[0], value, depth)
        for rule in arguments[1:]:
            _checked(rule.check, made)
        return made
    if origin in (Union, types.UnionType):
        return _union(arguments, value, depth)
    if origin is Literal:
        if not any(value == known and type(value) is type(known) for known in arguments):
            raise _Misfit(f"is {_short(value)}, not {' or '.join(map(_short, arguments))}")
        return value
    if is_dataclass(kind) or hasattr(kind, "_field_defaults"):
        return _object(kind, value, depth)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _checked(kind, value)
    if origin is tuple:
        return _tuple(arguments, value, depth)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments[0], arguments[1], value, depth)
    if origin is not None and issubclass(origin, Sequence):
        return _tuple((arguments[0], ...), value, depth) if origin is not list else _list(arguments[0], value, depth)
    return _plain(kind, value, depth)


def _plain(kind: Any, value: Any, depth: int) -> Any:
    if kind is Any:
        if isinstance(value, list | tuple):
            return _list(Any, value, depth)
        return _mapping(str, Any, value, depth) if isinstance(value, dict) else _scalar(value)
    if kind is float and type(value) is int:
        value = float(_scalar(value))
    if kind is None or kind is types.NoneType:
        kind = types.NoneType
    if type(value) is not kind:
        raise _Misfit(f"{_kind(value)}, not {_NAMES[kind]}")
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise _Misfit("a number beyond 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Misfit("not a finite number")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise _Misfit(f"{_kind(value)}, which JSON has not")
    return value


def _union(kinds: Sequence[Any], value: Any, depth: int) -> Any:
    failures = []
    for kind in kinds:
        try:
            return _read(kind, value, depth)
        except _Misfit as error:
            if kind is not types.NoneType:
                failures.append(error)
    raise max(failures, key=lambda error: len(error.path))  # the kind that it resembles most


def _object(cls: Any, values: Any, depth: int) -> Any:
    values = _expect(dict, values)
    wanted, computed = _fields(cls), getattr(cls, "computed", ())
    for key in values:
        if key not in wanted and key not in computed:
            raise _Misfit("unknown; is it of another version?", _key(key))
    given = {}
    for name, (kind, needed) in wanted.items():
        if name in values:
            given[name] = _within(name, kind, values[name], depth)
        elif needed:
            raise _Misfit("missing", name)
    made = _checked(lambda: cls(**given))
    for name in computed:
        if name in values and values[name] != getattr(made, name):
            raise _Misfit(f"is {_short(values[name])}, which contradicts the other fields", name)
    return made


@cache
def _fields(cls: Any) -> Mapping[str, tuple[Any, bool]]:
    """Field -> its annotation, and whether it must be given."""
    hints = get_type_hints(cls, include_extras=True)
    if not is_dataclass(cls):
        return {name: (hints[name], name not in cls._field_defaults) for name in cls._fields}
    return {
        field.name: (hints[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(cls)
        if field.init
    }


def _mapping(key_kind: Any, kind: Any, values: Any, depth: int) -> dict[str, Any]:
    made = {}
    for key, value in _expect(dict, values).items():
        made[_within(_key(key), key_kind, key, depth)] = _within(_key(key), kind, value, depth)
    return made


def _tuple(kinds: Sequence[Any], values: Any, depth: int) -> tuple[Any, ...]:
    values = _expect(list, values)
    if len(kinds) == 2 and kinds[1] is ...:
        return tuple(_list(kinds[0], values, depth))
    if len(values) != len(kinds):
        raise _Misfit(f"{len(values)} values, not {len(kinds)}")
    return tuple(_within(str(i), kind, part, depth) for i, (kind, part) in enumerate(zip(kinds, values, strict=True)))


def _list(kind: Any, values: Any, depth: int) -> list[Any]:
    return [_within(str(number), kind, part, depth) for number, part in enumerate(_expect(list, values))]


def _within(key: str, kind: Any, value: Any, depth: int) -> Any:
    try:
        return _read(kind, value, depth + 1)
    except _Misfit as error:
        raise error.below(key) from None


def _expect(kind: type, value: Any) -> Any:
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, kind):
        raise _Misfit(f"{_kind(value)}, not {_NAMES[kind]}")
    return value


def _checked(check: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except ValueError as error:
        raise _Misfit(str(error)) from None


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "null",
    list: "a list",
    dict: "an object of named values",
}


def _kind(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return "a number with a fraction" if value % 1 else "a number with a decimal point"
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def _key(key: object) -> str:
    """A key of the file for a message: short, and in one line."""
    text = key if isinstance(key, str) else repr(key)
    return text if text.isprintable() and len(text) <= 80 else _short(text)


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= LARGEST else "a number beyond 64 bits"
    return text if len(text) <= 80 else f"{text[:77]}..."
