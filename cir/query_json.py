"""Queries as JSON objects: the lines of `cir query INDEX -` and the requests of `cir serve`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cir.errors import DataError
from cir.types import Query, SearchResult

LARGEST_K = 1_000_000
KEYS = frozenset({"references", "text", "negatives", "k", "where", "id"})


def query_of(values: dict[str, Any], k: int) -> Query:
    """The query of {"references", "text", "negatives", "k", "where", "id"}; "references" are names.

    Args:
        values: the object.
        k: number of hits where it does not say.

    Raises:
        DataError, UsageError: it is no query.
    """
    check_keys(values, KEYS)
    return Query(strings(values, "references"), **rest_of(values, k))


def rest_of(values: dict[str, Any], k: int, largest: int = LARGEST_K) -> dict[str, Any]:
    """All arguments of `Query` but its references. Raises DataError or UsageError."""
    identity = values.get("id")
    return {
        "text": text(values, "text").strip(),
        "negatives": strings(values, "negatives"),
        "k": whole_number(values, "k", k, largest),
        "where": values.get("where"),
        "id": None if identity is None else str(identity),
    }


def check_keys(values: dict[str, Any], known: frozenset[str]) -> None:
    """Raises DataError for a key that is not one of some."""
    if extra := sorted(values.keys() - known):
        raise DataError(f"unknown key {', '.join(extra)[:200]}; there are: {', '.join(sorted(known))}")


def whole_number(values: dict[str, Any], key: str, default: int, largest: int) -> int:
    """A whole number of an object. Raises DataError."""
    count = integral(values.get(key, default))
    if count is None:
        raise DataError(f'"{key}" is a whole number')
    if count > largest:
        raise DataError(f'"{key}" is at most {largest:,}')
    return count


def integral(value: Any) -> int | None:
    """A whole number, which JSON may also write as 3.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(values: dict[str, Any], key: str) -> str:
    """A string of an object; empty where there is none. Raises DataError."""
    given = values.get(key, "")
    if not isinstance(given, str):
        raise DataError(f'"{key}" is a string')
    return given


def strings(values: dict[str, Any], key: str) -> tuple[str, ...]:
    """Strings of an object; one stands for a list of one. Raises DataError."""
    given = values.get(key, [])
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise DataError(f'"{key}" is a list of strings')
    return tuple(given)


def answer_each(
    queries: Sequence[Query], search: Callable[[list[Query]], list[SearchResult]]
) -> list[SearchResult | Exception]:
    """The result of each query, or what is wrong with it. A batch with a bad query is split until that one is alone."""
    if not queries:
        return []
    try:
        return list(search(list(queries)))
    except Exception as error:  # a bug too: one query may not take the others' answers away
        if len(queries) == 1:
            return [error]
    half = len(queries) // 2
    return answer_each(queries[:half], search) + answer_each(queries[half:], search)
