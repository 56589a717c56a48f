"""What people pass from Python, in the one form that everything behind it works with.

Public functions and types call these at their boundary. One value stands for a sequence of one, None for none; a string
is never read as its letters. What cannot be meant is refused in one line that names the argument.
"""

from __future__ import annotations

import numbers
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cir.errors import UsageError

T = TypeVar("T")
Names = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None  # what `names` reads

MOST_KEPT = 10_000  # earlier generations that an index can be told to keep

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: object) -> str:
    """A value for a message: short, and on one line that every terminal can print."""
    text = " ".join(_short.repr(value).split())
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    """A name for a message, without quotes: as it is, or escaped and cut where it would not fit on a line."""
    return name if name.isprintable() and len(name) <= 300 else shown(name)[1:-1]


def kind(value: object) -> str:
    """The type of a value for a message, with its article."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def items(value: Any, name: str, one: type | tuple[type, ...] = str) -> list[Any]:
    """The elements of a sequence, a set (in a fixed order) or a generator; none of None, one of a value of type `one`.

    Args:
        value: what was given.
        name: of the argument, for messages.
        one: types of which a single value stands for a sequence of one; strings are, whichever they are.

    Raises:
        UsageError: a mapping, or no collection at all.
    """
    if value is None:
        return []
    if isinstance(value, one):
        return [value]
    try:
        if isinstance(value, str | bytes | bytearray | memoryview | Mapping):
            raise TypeError
        return sorted(value, key=repr) if isinstance(value, AbstractSet) else list(value)
    except TypeError:  # also of an array without dimensions, which claims to be iterable
        raise UsageError(f"{name} is {kind(value)}; give one value or a list of them") from None


def string(value: Any, name: str) -> str:
    """A text; "" for None.

    Raises:
        UsageError: not a string, or one that is not valid Unicode.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{name} is {kind(value)}, {shown(value)}; write a string")
    text = str.__str__(value)  # an enumeration's own `str` is its name
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} {shown(text)}: not readable as text; write it in UTF-8") from None
    return text


def strings(value: Any, name: str) -> tuple[str, ...]:
    """Texts; a string is one. Raises UsageError as `items` and `string`, and for None among them."""
    return tuple(string(_present(text, name), f"{name}: a value") for text in items(value, name))


def names(value: Any, name: str) -> tuple[str, ...]:
    """Ids of images; a string or a path is one. Raises UsageError as `items` and `image_id`."""
    return tuple(image_id(_present(each, name), name) for each in items(value, name, (str, os.PathLike)))


def image_id(value: Any, name: str) -> str:
    """The id of an image, from its name in any form; what no image can be called stays as it is. Raises UsageError."""
    from cir.images.names import canonical_id

    given = one_name(value, name)
    try:
        return canonical_id(given)
    except ValueError:
        return given


def one_name(value: Any, name: str) -> str:
    """The name of an image, a string or a path; it need not be valid Unicode, as file names need not be.

    Raises:
        UsageError: something else.
    """
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if not isinstance(value, str):
        raise UsageError(f"{name}: {shown(value)} is {kind(value)}; the name of an image is a string")
    return str.__str__(value)


def whole_number(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """A whole number of any type, Python's or numpy's; 3.0 is one, "3" and True are not.

    Raises:
        UsageError: not a whole number, less than `least` or more than `most`.
    """
    number = None
    with suppress(TypeError, ValueError, OverflowError):  # not a number, NaN, infinite
        if not isinstance(value, bool):
            real = isinstance(value, numbers.Real)
            number = int(value) if real and int(value) == value else operator.index(value)
    if number is None:
        raise UsageError(f"{name} is {shown(value)}; it is a whole number")
    if number < least:
        raise UsageError(f"{name} is {shown(number)}; give at least {least:,}")
    if most is not None and number > most:
        raise UsageError(f"{name} is {shown(number)}; give at most {most:,}")
    return number


def fraction(value: Any, name: str) -> float:
    """A number above 0 and at most 1, of any type. Raises UsageError for anything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) <= 1:
        raise UsageError(f"{name} is {shown(value)}; give a number above 0, at most 1")
    return float(value)


def path_of(value: Any, name: str) -> Path:
    """The path of a file or folder, a string or `os.PathLike`, with "~" for the home folder.

    Raises:
        UsageError: something else, an empty string, or one with a NUL character.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{name} is {kind(value)}, {shown(value)}; give a path")
    text = os.fsdecode(value)
    if not text or "\0" in text:
        raise UsageError(f"{name} is {shown(text)}; give a path")
    return Path(os.path.expanduser(text))


def paths(value: Any, name: str) -> tuple[Path, ...]:
    """Paths; a string or a path is one. Raises UsageError as `items` and `path_of`."""
    return tuple(path_of(each, name) for each in items(value, name, (str, os.PathLike)))


def instance(value: Any, of: type[T], name: str, advice: str) -> T:
    """The value, if it is of a type. Raises UsageError, which ends with the advice, for one of another type."""
    if not isinstance(value, of):
        raise UsageError(f"{name} is {kind(value)}, {shown(value)}; {advice}")
    return value


def mapping(value: Any, name: str, advice: str) -> Mapping[Any, Any]:
    """The value, if it is a mapping. Raises UsageError, which ends with the advice, for anything else."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is {kind(value)}, {shown(value)}; {advice}")
    return value


def _present(value: Any, name: str) -> Any:
    if value is None:
        raise UsageError(f"{name} holds None; leave it out")
    return value
