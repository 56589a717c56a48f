"""Benchmarks of one's own pictures: a folder or zip, and a file with one judged query per line.

    {"id": "q1", "reference": "shoes/1.jpg", "caption": "in red", "targets": ["shoes/7.jpg"], "subset": [...]}

Image names are relative to the folder or zip, in any of their forms (`cir.images.names`). A query with an empty
reference is text alone, one with an empty caption is "more like this"; one of the two is needed. Three keys are
optional: "subset"; "kind", a word under which the query is reported as well; and "negatives", images that show much of
what is asked for and do not answer it, which are for training and not read here. `cir mine` writes the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from cir.data.benchmark import Benchmark
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError, UsageError
from cir.files import parse_json, read_lines
from cir.given import Names, names, path_of, string
from cir.images import scan
from cir.stats import Measure, parse_measure

MEASURES = tuple(map(parse_measure, ("R@1", "R@5", "R@10", "R@50", "mAP@10")))
SUBSET_MEASURES = tuple(map(parse_measure, ("Rs@1", "Rs@2", "Rs@3")))
REQUIRED = ("id", "reference", "caption", "targets")
KEYS = (*REQUIRED, "subset", "kind", "negatives")
_UNREAD = ' \t\n\r.!"()*#:;~'  # what models read as nothing (`cir.text`)


def load_jsonl(
    path: str | Path,
    root: str | Path,
    *,
    gallery: Names = None,
    keep_reference: bool = False,
    measures: Sequence[Measure] | None = None,
) -> Benchmark:
    """The benchmark in a file of judged queries.

    Args:
        path: one JSON object per line; blank lines are skipped.
        root: folder or zip that holds the images.
        gallery: names of the images to search; all images below `root` if None.
        keep_reference: whether the reference stays in the ranking.
        measures: what to report; if None, MEASURES, and SUBSET_MEASURES if the queries have subsets.

    Raises:
        DataError: a line that is no query, named as file:line, or no queries at all.
        MissingImageError: a line or `gallery` names an image that `root` does not hold.
    """
    path, root = path_of(path, "the path of judged queries"), path_of(root, "the folder of the images")
    images = scan([root])
    known = {image.id for image in images}
    searched = known if gallery is None else set(names(gallery, "gallery"))
    unknown = searched - known
    if unknown:
        raise MissingImageError(
            f"{root}: {len(unknown)} images of the gallery list are missing, first {min(unknown)!r};"
            " names are relative to the folder or zip"
        )
    queries: dict[str, JudgedQuery] = {}
    for where, line in read_lines(path):
        query = parse_query(line, where)
        if query.id in queries:
            raise DataError(f"{where}: the id {query.id!r} was used before; give every query an id of its own")
        _check_images(query, where, root, known, searched, keep_reference)
        if queries and bool(query.subset) != bool(next(iter(queries.values())).subset):
            raise DataError(f"{where}: some queries have a subset, some have none; give it to all or none")
        queries[query.id] = query
    if not queries:
        raise DataError(f"{path}: no queries; write one JSON object per line with {', '.join(REQUIRED)}")
    if measures is None:
        has_subsets = any(query.subset for query in queries.values())
        measures = MEASURES + (SUBSET_MEASURES if has_subsets else ())
    return Benchmark(
        name=path.stem,
        protocol="jsonl/reference-kept" if keep_reference else "jsonl/reference-removed",
        images=[image for image in images if image.id in searched],
        queries=tuple(queries.values()),
        measures=tuple(measures),
        keep_reference=keep_reference,
    )


def parse_query(line: str, where: str) -> JudgedQuery:
    """The query on one line, checked as far as that is possible without the images.

    Args:
        line: one JSON object.
        where: file and line, for messages.

    Raises:
        DataError: the line is no query.
    """
    try:
        values = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON, {error}; write one object per line") from None
    if not isinstance(values, dict):
        raise DataError(f"{where}: not a JSON object; write {{...}} with the keys {', '.join(REQUIRED)}")
    for key in REQUIRED:
        if key not in values:
            raise DataError(f"{where}: the key {key!r} is missing; every query has {', '.join(REQUIRED)}")
    for key in values:
        if key not in KEYS:
            raise DataError(f"{where}: unknown key {key!r}; the keys are {', '.join(KEYS)}")
    query_id, reference, caption = (_text(values, key, where) for key in ("id", "reference", "caption"))
    kind = _text(values, "kind", where) if "kind" in values else ""
    targets, subset, _ = (_names(values, key, where) for key in ("targets", "subset", "negatives"))
    try:
        string(query_id, "id of a judged query")
        groups = (kind,) if kind else ()
        query = JudgedQuery(query_id, reference, caption, frozenset(targets), groups=groups, subset=tuple(subset))
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None
    if not query.id:
        raise DataError(f"{where}: the id is empty; give every query an id of its own")
    if not query.targets:
        raise DataError(f"{where}: 'targets' is empty; name at least one image")
    if not query.reference and not query.caption.strip(_UNREAD):
        raise DataError(f"{where}: neither a reference nor a caption; give at least one of them")
    return query


def _check_images(
    query: JudgedQuery,
    where: str,
    root: Path,
    known: AbstractSet[str],
    searched: AbstractSet[str],
    keep_reference: bool,
) -> None:
    """Refuse names of unknown images and targets that no ranking could contain."""
    if query.reference and query.reference not in known:
        raise MissingImageError(f"{where}: the reference {query.reference!r} is not in {root}; correct or add it")
    for key, named in (("targets", query.targets), ("subset", query.subset)):
        unknown = set(named) - searched
        if unknown:
            place = root if unknown - known else "the gallery list"
            name = min(unknown - known or unknown)
            raise MissingImageError(f"{where}: {key} names {name!r}, which is not in {place}; correct or add it")
    if query.reference in query.targets and not keep_reference:
        raise DataError(
            f"{where}: the reference {query.reference!r} is a target but is removed from the ranking;"
            " take it out of 'targets', or keep references"
        )
    if query.subset and not query.targets & set(query.subset):
        raise DataError(f"{where}: no target is in 'subset'; add it")


def _text(values: dict[str, Any], key: str, where: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} is {_kind(value)}; write a string in quotes")
    return value


def _names(values: dict[str, Any], key: str, where: str) -> list[str]:
    value = values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        what = "a list with values that are no strings" if isinstance(value, list) else _kind(value)
        raise DataError(f'{where}: {key!r} is {what}; write a list of image names, ["a.jpg", "b.jpg"]')
    return value


def _kind(value: object) -> str:
    """The JSON type of a value, with its article."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return "null" if value is None else kinds.get(type(value), "an object")
