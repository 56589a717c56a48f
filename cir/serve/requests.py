"""Requests as values: JSON objects, and multipart forms with the same names, whose file parts are pictures."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from cir.errors import DataError, UsageError
from cir.files import parse_json
from cir.query_json import KEYS, check_keys, integral, rest_of, strings, text, whole_number
from cir.serve.problems import Refused
from cir.serve.settings import Limits
from cir.types import Query

FORM_KEYS = ("references", "text", "negatives", "k", "offset", "where", "exclude", "exact", "generation", "id", "hit")
K = 10
_SEARCH = KEYS | {"offset", "exclude", "exact", "generation"}
_SEVERAL = ("references", "negatives", "where", "exclude")
_NUMBERS = ("k", "offset", "generation")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = 100_000  # bytes of one part that is no file
_PARTS = 200
_TRUTH = {"true": True, "1": True, "on": True, "false": False, "0": False, "": False, "off": False}


@dataclass(frozen=True)
class Upload:
    """A reference to a picture that was uploaded before, by its SHA-256."""

    sha256: str


Reference = str | bytes | Upload  # the id of an image, the file of a picture, or one that is kept


@dataclass(frozen=True)
class Asked:
    """One query as it was asked.

    Attributes:
        references: what it starts from.
        query: without its references; `k` hits after `offset` others.
        offset, exact, generation: as in `Wanted`.
    """

    references: tuple[Reference, ...]
    query: Query
    offset: int = 0
    exact: bool = False
    generation: int | None = None


async def search_values(request: Request, limits: Limits) -> dict[str, Any]:
    """The values of a search, from JSON or from a form. Raises Refused, DataError or UsageError."""
    media_type, _ = _media_type(request)
    if media_type == "multipart/form-data":
        return _of_form(await form_of(request, limits))
    return await json_object(request)


async def json_object(request: Request) -> dict[str, Any]:
    """The object that a request holds. Raises Refused for another media type, and DataError."""
    media_type, _ = _media_type(request)
    if media_type != "application/json":
        shown = media_type or "none"
        raise Refused(415, "MediaType", f"the content type is {shown[:100]}; send application/json")
    try:
        values = parse_json(await request.body())
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError('not an object; write {"references": ["a.jpg"], "text": "in red"}')
    return values


async def form_of(request: Request, limits: Limits) -> list[tuple[str, str | bytes]]:
    """The parts of a form, in order: texts, and files as bytes, which never touch the disk.

    Raises:
        Refused: no form, a broken one, or too many parts.
    """
    media_type, options = _media_type(request)
    if media_type != "multipart/form-data":
        raise Refused(415, "MediaType", f"the content type is {media_type[:100] or 'none'}; send multipart/form-data")
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise Refused(415, "MediaType", "a form in another character set than UTF-8; send UTF-8")
    body = await request.body()
    parser = _InMemory(
        request.headers, _once(body), max_files=limits.references, max_fields=_PARTS, max_part_size=_PART
    )
    parts: list[tuple[str, str | bytes]] = []
    try:
        form = await parser.parse()
        for name, value in form.multi_items():
            parts.append((name, await value.read() if isinstance(value, UploadFile) else value))
        await form.close()
    except MultiPartException as error:
        raise Refused(400, "Form", f"the form cannot be read: {error.message}") from None
    except (ValueError, LookupError) as error:  # of a boundary or a header that is none
        raise Refused(400, "Form", f"the form cannot be read: {type(error).__name__}") from None
    return parts


def asked_of(values: dict[str, Any], limits: Limits) -> Asked:
    """A query from the values of a request. Raises DataError or UsageError."""
    check_keys(values, _SEARCH)
    identity = values.get("id")
    if identity is not None and not isinstance(identity, str):
        raise DataError('"id" is a string')
    offset = whole_number(values, "offset", 0, limits.depth)
    if offset < 0:
        raise DataError('"offset" is 0 or more')
    arguments = rest_of(values, K, limits.k)
    if arguments["k"] < 1:
        raise UsageError(f"k is {arguments['k']}; give at least 1")
    if offset + arguments["k"] > limits.depth:
        raise UsageError(f'"offset" and "k" are together at most {limits.depth:,}')
    arguments["k"] += offset
    _check_texts([arguments["text"], *arguments["negatives"]], limits)
    if len(arguments["negatives"]) > limits.negatives:
        raise DataError(f'"negatives" are at most {limits.negatives}')
    references = references_of(values, limits)
    query = Query(exclude=strings(values, "exclude"), **arguments)
    return Asked(references, query, offset, truth(values, "exact"), generation_of(values))


def references_of(values: dict[str, Any], limits: Limits) -> tuple[Reference, ...]:
    """The references of a request. Raises DataError."""
    given = values.get("references", [])
    given = given if isinstance(given, list) else [given]
    references = tuple(map(_reference, given))
    if len(references) > limits.references:
        raise DataError(f'"references" are at most {limits.references}')
    return references


def generation_of(values: Mapping[str, Any], key: str = "generation") -> int | None:
    """The number of a generation, or None. Raises DataError."""
    if values.get(key) is None:
        return None
    value = integral(values[key])
    if value is None or not 0 < value < 10**9:
        raise DataError(f'"{key}" is the number of a generation')
    return value


def caption_of(values: dict[str, Any], limits: Limits) -> str:
    """The text of a request. Raises DataError."""
    caption = text(values, "text")
    _check_texts([caption], limits)
    return caption


def truth(values: Mapping[str, Any], key: str) -> bool:
    """A boolean; False where there is none. Raises DataError."""
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise DataError(f'"{key}" is true or false')
    return value


def _check_texts(texts: list[str], limits: Limits) -> None:
    if any(len(text) > limits.text for text in texts):
        raise DataError(f"a text of more than {limits.text:,} letters; write a sentence")


def _reference(value: Any) -> Reference:
    if isinstance(value, dict) and value.keys() == {"upload"} and isinstance(value["upload"], str):
        if not _SHA256.fullmatch(value["upload"]):
            raise DataError('"upload" is the SHA-256 of a picture, 64 hex digits')
        return Upload(value["upload"])
    if isinstance(value, str | bytes):
        return value
    raise DataError('"references" is a list of ids and of {"upload": SHA-256}')


def _of_form(parts: list[tuple[str, str | bytes]]) -> dict[str, Any]:
    """The parts of a form as JSON would have them. Raises DataError."""
    values: dict[str, Any] = {}
    for name, value in parts:
        if name not in FORM_KEYS:
            raise DataError(f"unknown part {name[:100]}; there are: {', '.join(FORM_KEYS)}")
        if isinstance(value, bytes) and name != "references":
            raise DataError(f'"{name}" is a file; pictures are parts named references')
        if name in _SEVERAL:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise DataError(f'"{name}" is given twice')
        else:
            values[name] = _typed(name, value)
    return values


def _typed(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        if not re.fullmatch(r"-?[0-9]{1,9}", value):
            raise DataError(f'"{name}" is a whole number')
        return int(value)
    if name == "exact":
        if value.lower() not in _TRUTH:
            raise DataError('"exact" is true or false')
        return _TRUTH[value.lower()]
    return value


class _InMemory(MultiPartParser):
    """Keeps files in memory: a request is bounded already."""

    spool_max_size = 1 << 40


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _media_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    given = request.headers.getlist("content-type")
    if len(given) > 1:
        raise Refused(400, "MediaType", "two content types; send one")
    media_type, options = parse_options_header(given[0] if given else "")
    return media_type.decode("latin-1").lower(), options
