"""TREC run files: a system's hits for all queries, one hit per line, in six columns.

    query-id Q0 image-id rank score tag

Ids may hold spaces, the format may not: white space and "%" are percent-encoded ("a%20b.jpg"), and decoded on reading.
Tools order a run by its scores and break ties differently, so the written scores of a query are distinct: a score that
is not below its predecessor is written as the next smaller float32, the precision that `trec_eval` reads.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from cir.errors import DataError, UsageError
from cir.files import read_lines, write_text
from cir.given import items, mapping, path_of, shown

# Query id -> its hits (image id, score), best first.
Run = dict[str, list[tuple[str, float]]]

# What would break a line or the file: white space, the escape itself, a byte-order mark, lone surrogates.
_ENCODED = re.compile("[\\s%\ufeff\ud800-\udfff]")


def ordered(hits: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Hits by descending score; equal scores by ascending id, as everywhere in this package."""
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))


def write_run(path: str | Path, run: Mapping[str, Sequence[tuple[str, float]]], *, tag: str = "cir") -> None:
    """Write a run atomically; a query without hits leaves no line.

    Args:
        path: the file to write.
        run: query id -> hits, best first, scores not rising.
        tag: names the system in the last column.

    Raises:
        UsageError: an id is empty, a score is not a finite float32, the scores rise, or something is no run.
        DataError: the file cannot be written.
    """
    lines = []
    tag = _encode(tag)
    for query, hits in mapping(run, "the run", "write {query id: [(image id, score), ...]}").items():
        label = _encode(query)
        pairs = [_pair(query, hit) for hit in items(hits, f"run of query {shown(query)}", ())]
        for rank, ((image, _), score) in enumerate(zip(pairs, _strict_scores(query, pairs), strict=True), start=1):
            lines.append(f"{label} Q0 {_encode(image)} {rank} {score} {tag}\n")
    write_text(path_of(path, "the path of a run"), "".join(lines))


def read_run(path: str | Path) -> Run:
    """Read anybody's run: ordered by score, ties by ascending image id; rank, "Q0" and tag are ignored.

    Raises:
        DataError: the file cannot be read, or a line is not a line of a run; the message names file and line.
    """
    run: dict[str, dict[str, float]] = {}
    for where, line in read_lines(path_of(path, "the path of a run")):
        columns = line.split()
        if len(columns) != 6:
            raise DataError(
                f"{where}: {len(columns)} columns instead of 6;"
                " write 'query Q0 image rank score tag', spaces in ids as %20"
            )
        query, image = _decode(columns[0], where), _decode(columns[2], where)
        try:
            score = float(columns[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"{where}: the score {columns[4]!r} is not a finite number; correct the fifth column")
        hits = run.setdefault(query, {})
        if image in hits:
            raise DataError(f"{where}: query {query!r} has image {image!r} twice; keep one of the lines")
        hits[image] = score
    return {query: ordered(hits.items()) for query, hits in run.items()}


def _pair(query: str, hit: Any) -> tuple[str, float]:
    """An image id and its score. Raises UsageError for anything else."""
    with suppress(TypeError, ValueError, OverflowError):
        image, score = hit
        if isinstance(image, str) and isinstance(score, numbers.Real):
            return image, float(score)
    raise UsageError(f"run of query {shown(query)}: {shown(hit)} is not a pair of an image id and its score")


def _strict_scores(query: str, hits: Sequence[tuple[str, float]]) -> list[np.float32]:
    """The scores as float32, each smaller than the one before."""
    scores: list[np.float32] = []
    given = math.inf
    for image, score in hits:
        if not score <= given:  # also true of NaN
            raise UsageError(f"run of query {query!r}: the score of {image!r} rises to {score}; order hits by score")
        given = score
        with np.errstate(over="ignore"):  # reported below
            narrow = np.float32(score)
            if scores and narrow >= scores[-1]:
                narrow = np.nextafter(scores[-1], np.float32(-np.inf))
        if not np.isfinite(narrow):
            raise UsageError(f"run of query {query!r}: the score {score} of {image!r} is not a finite float32; rescale")
        scores.append(narrow)
    return scores


def _encode(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise UsageError("a run cannot hold an empty id or tag: name every query, image and system")
    return _ENCODED.sub(lambda match: quote(match[0], safe="", errors="surrogatepass"), name)


def _decode(name: str, where: str) -> str:
    try:
        return unquote(name, errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the id {name!r} is not percent-encoded UTF-8; write % itself as %25") from error
