"""`cir query INDEX -`: queries as JSON lines on stdin, answers as JSON lines on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from cir.cli.results import to_json
from cir.errors import CirError, DataError
from cir.files import LONGEST_LINE, parse_json
from cir.query_json import answer_each, query_of
from cir.types import Query, SearchResult

if TYPE_CHECKING:
    from cir.search import Searcher

CHUNK = 65_536  # bytes read at once
BATCH = 256  # queries answered at once


@dataclass(frozen=True)
class Line:
    """One line of input: its number, the "id" it has, and its query or what is wrong with it."""

    number: int
    id: Any
    query: Query | None
    error: CirError | None = None


def answer_lines(searcher: Searcher, stream: BinaryIO, *, k: int, exact: bool, recall: float) -> int:
    """Answer JSON lines in order; a bad line is answered with its error, and so is one that meets a bug of ours.

    Args:
        searcher: the index.
        stream: one query per line.
        k: number of hits for queries that do not say.
        exact: compare with every image.
        recall: what an approximate search must find.

    Returns:
        The exit code: 0, 1 without any hit, 2 with a bad line.

    Raises:
        Exception: at the end, the first bug that a line has met.
    """
    if not searcher.card.only_named:  # then queries by stored vectors can be answered nevertheless
        _ = searcher.encoder  # a model that is missing is one error, not one per line
    bad = hits = 0
    bug: Exception | None = None
    for lines in read_batches(stream, k):
        _refresh(searcher)
        answers = _answers(lines, partial(searcher.search_many, exact=exact, recall=recall))
        for line, result in zip(lines, answers, strict=True):
            if isinstance(result, SearchResult):
                hits += len(result.hits)
                answer = to_json(result) | {"id": line.id}
            else:
                bad += 1
                answer = {"id": line.id, "error": f"line {line.number}: {result}"}
                if not isinstance(result, CirError):
                    bug = bug or result
                    answer["error"] = f"line {line.number}: a bug in cir: {type(result).__name__}: {result}"
            click.echo(json.dumps(answer))
        sys.stdout.flush()
    if bad:
        click.echo(f"cir: {bad:,} lines could not be answered; their answers say why", err=True)
    if bug is not None:
        raise bug
    return 2 if bad else 0 if hits else 1


def _refresh(searcher: Searcher) -> None:
    """Go on with what was built meanwhile; if that cannot be opened, with what is open."""
    try:
        searcher.refresh()
    except CirError as error:
        click.echo(f"cir: {error}; answers are those of generation {searcher.gallery.manifest.generation}", err=True)


def read_batches(stream: BinaryIO, k: int) -> Iterator[list[Line]]:
    """Lines in batches of what can be read without waiting, so that a slow writer gets each answer at once.

    No more than LONGEST_LINE bytes of a line are kept.

    Raises:
        DataError: the stream cannot be read.
    """
    number, rest, end = 0, bytearray(), False
    while not end:
        try:
            data = stream.read1(CHUNK)  # type: ignore[attr-defined]
        except OSError as error:
            raise DataError(f"standard input cannot be read: {error.strerror}") from None
        end = not data
        first, *others = data.split(b"\n")
        rest += first if len(rest) <= LONGEST_LINE else b""
        complete: list[bytes | bytearray] = []
        for piece in others:
            complete.append(rest)
            rest = bytearray(piece)
        if end:
            complete.append(rest)
        batch = []
        for text in complete:
            number += 1
            if text.strip():
                batch.append(_read(number, bytes(text), k))
        for start in range(0, len(batch), BATCH):
            yield batch[start : start + BATCH]


def _answers(
    lines: Sequence[Line], search: Callable[[list[Query]], list[SearchResult]]
) -> list[SearchResult | Exception]:
    """The result of each line, or what is wrong with it."""
    found = iter(answer_each([line.query for line in lines if line.query is not None], search))
    return [line.error or next(found) for line in lines]


def _read(number: int, text: bytes, k: int) -> Line:
    identity = None
    try:
        values = _values(text)
        identity = values.get("id")
        return Line(number, identity, query_of(values, k))
    except CirError as error:
        return Line(number, identity, None, error)


def _values(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise DataError(f"longer than {LONGEST_LINE / 1e6:.0f} MB; a query is one line")
    try:
        values = parse_json(line)
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError('not a query; write {"references": ["a.jpg"], "text": "in red"}')
    return values
