"""The files that the CIRR and CIRCO servers score, checked against their rules before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cir.data.protocols import PROTOCOLS, Protocol
from cir.errors import DataError, UsageError
from cir.eval.scoring import PLAIN_NUMBER
from cir.files import write_text

if TYPE_CHECKING:
    from cir.data.benchmark import Benchmark
    from cir.data.judged_query import JudgedQuery
    from cir.eval.runs import Run

LENGTH, SUBSET_LENGTH = 50, 3
MAX_BYTES = 5_000_000  # of a CIRR file
CIRR_VERSION = "rc2"


def find_server(name: str) -> Protocol:
    """The protocol of a benchmark that a server scores. Raises UsageError if it has no server."""
    protocol = PROTOCOLS.get(name)
    if protocol is None or not protocol.server:
        names = ", ".join(protocol.name for protocol in PROTOCOLS.values() if protocol.server)
        raise UsageError(f"{name} has no server to submit to; --submission goes with {names}")
    return protocol


def make_submission(benchmark: Benchmark, run: Run, subset_run: Run) -> dict[str, Mapping[str, Any]]:
    """File name -> content, valid by the server's rules.

    Args:
        benchmark: one whose protocol has a server.
        run: at least 50 hits per query.
        subset_run: for CIRR, each query's subset ranked.

    Raises:
        UsageError: no server scores this benchmark.
        DataError: the server would refuse the file.
    """
    protocol = find_server(benchmark.name)
    if protocol.server == "cirr":
        recall = {"version": CIRR_VERSION, "metric": "recall", **_first(benchmark, run, LENGTH)}
        subset = {"version": CIRR_VERSION, "metric": "recall_subset", **_first(benchmark, subset_run, SUBSET_LENGTH)}
        files: dict[str, Mapping[str, Any]] = {
            "recall_submission.json": recall,
            "recall_subset_submission.json": subset,
        }
        check = check_cirr
    else:
        numbers = {query: list(map(_number, images)) for query, images in _first(benchmark, run, LENGTH).items()}
        files = {f"submission_{protocol.split.removeprefix('circo-')}.json": numbers}
        check = check_circo
    for name, content in files.items():
        check(benchmark, content, name)
    return files


def write_submission(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write the files of `make_submission`, each atomically, keys sorted. Raises DataError when the disk refuses."""
    paths = []
    for name, content in files.items():
        paths.append(folder / name)
        write_text(paths[-1], encode(content))
    return paths


def encode(content: Mapping[str, Any]) -> str:
    """The text of a submission file."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def check_cirr(benchmark: Benchmark, content: Mapping[str, Any], name: str) -> None:
    """CIRR: header, exactly all pairs, 50 gallery names or 3 of the subset, distinct, no reference, 5 MB.

    Raises:
        DataError: a rule is broken.
    """
    metric = content.get("metric")
    if content.get("version") != CIRR_VERSION or metric not in ("recall", "recall_subset"):
        raise DataError(f"{name}: needs version {CIRR_VERSION!r} and metric 'recall' or 'recall_subset'")
    size = len(encode(content).encode())
    if size > MAX_BYTES:
        raise DataError(f"{name}: {size:,} bytes; the server accepts {MAX_BYTES:,} at most")
    lists = {key: value for key, value in content.items() if key not in ("version", "metric")}
    length = LENGTH if metric == "recall" else SUBSET_LENGTH
    for query, images in _lists(benchmark, lists, name):
        allowed = benchmark.searched(query) if metric == "recall" else set(query.subset)
        _check_list(query, images, length, set(allowed) - {query.reference}, name)


def check_circo(benchmark: Benchmark, content: Mapping[str, Any], name: str) -> None:
    """CIRCO: exactly all queries, each with 50 distinct ids of the gallery, as numbers.

    Raises:
        DataError: a rule is broken.
    """
    for query, images in _lists(benchmark, content, name):
        if not all(type(image) is int for image in images):
            raise DataError(f"{name}: query {query.id} has ids that are not whole numbers")
        names = [str(image) for image in images]
        _check_list(query, names, LENGTH, names if benchmark.unlisted else benchmark.searched(query), name)


def _number(image: str) -> int:
    if not PLAIN_NUMBER.fullmatch(image):
        raise DataError(f"the image {image!r} has no number; the server wants the ids of COCO")
    return int(image)


def _first(benchmark: Benchmark, run: Run, length: int) -> dict[str, list[str]]:
    """The best `length` images of each query."""
    best = {}
    for query in benchmark.queries:
        images = [image for image, _ in run.get(query.id, ())]
        best[query.id] = [i for i in images if benchmark.keep_reference or i != query.reference][:length]
    return best


def _lists(
    benchmark: Benchmark, lists: Mapping[str, Sequence[Any]], name: str
) -> list[tuple[JudgedQuery, Sequence[Any]]]:
    """Each query with its list."""
    queries = {query.id: query for query in benchmark.queries}
    wrong = sorted(queries.keys() ^ lists.keys())
    if wrong:
        what = "is missing" if wrong[0] in queries else "is not of this benchmark"
        raise DataError(f"{name}: query {wrong[0]!r} {what}; the server wants all {len(queries):,} and no other")
    return [(query, lists[query_id]) for query_id, query in queries.items()]


def _check_list(query: JudgedQuery, images: Sequence[str], length: int, allowed: Iterable[str], name: str) -> None:
    if len(images) != length or len(set(images)) != length:
        raise DataError(
            f"{name}: query {query.id} has {len(set(images))} distinct images, the server wants {length};"
            " complete the pictures and evaluate again"
        )
    foreign = sorted(set(images) - set(allowed))
    if foreign:
        raise DataError(f"{name}: query {query.id} names {foreign[0]!r}, which may not be among its hits")
