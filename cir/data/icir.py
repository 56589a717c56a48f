"""i-CIR: queries about one particular object, among hard negatives; a database for each object ("instance").

Psomas et al., NeurIPS 2025. An image answers a query if its instance and its text are those of the query.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cir.data.annotations import Annotated, check_names, file_of
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.files import read_lines

_FOLDERS = ("query", "database")


def read_icir(root: Path) -> Annotated:
    """`query_files.csv` and `database_files.csv` (or both in `annotations/`) beside `query/` and `database/`.

    Ids are paths from `query/` or `database/` on. The archives of the Hugging Face hub have to be unpacked into these
    folders. Figures are means over instances, whose names are the names of the galleries.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    files = {folder: file_of(root, "annotations", name=f"{folder}_files.csv") for folder in _FOLDERS}
    databases = defaultdict(set)  # instance -> images
    targets = defaultdict(set)  # instance and text -> images
    for _, image, text, instance in _rows(files["database"], "database"):
        databases[instance].add(image)
        targets[instance, text].add(image)
    queries: list[JudgedQuery] = []
    for where, image, text, instance in _rows(files["query"], "query"):
        if (instance, text) not in targets:
            raise DataError(f"{where}: no image of the database is {text!r} of {instance!r}; get the official files")
        queries.append(
            JudgedQuery(
                id=f"icir-{len(queries)}",
                reference=image,
                caption=text,
                targets=frozenset(targets[instance, text]),
                captions=(text,),
                gallery=instance,
            )
        )
    if not queries:
        raise DataError(f"{files['query']}: no queries; get the official file again")
    asked = {query.gallery for query in queries}
    galleries = {instance: frozenset(images) for instance, images in databases.items() if instance in asked}
    names = {query.reference for query in queries}.union(*galleries.values())
    check_names(names, files["database"])
    return Annotated(tuple(queries), galleries, {name: root / PurePosixPath(name).with_suffix("") for name in names})


def _rows(path: Path, folder: str) -> Iterator[tuple[str, str, str, str]]:
    """Where a row is, and its image, text and instance."""
    for where, line in read_lines(path):
        columns = [column.strip() for column in next(csv.reader([line]))]
        if len(columns) != 3 or not all(columns[::2]):
            raise DataError(f"{where}: not image, text and instance; get the official file again")
        parts = columns[0].split("/")
        if folder not in parts[:-1]:
            raise DataError(f"{where}: the path {columns[0]!r} has no {folder}/ in it; get the official file again")
        yield where, "/".join(parts[parts.index(folder) :]), columns[1], columns[2]
