"""Judged queries about images of an index: read from a file, generated from metadata, or stored in the index.

    {"id": "q1", "reference": "shoes/1.jpg", "caption": "in red", "targets": ["shoes/7.jpg"]}

The format is that of `cir evaluate jsonl`. Names are ids of the gallery, or paths of the same pictures below a folder:
pictures are recognised by their content. An index stores its judged queries with the photos they need, because the
photos elsewhere may go.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cir.data import captions
from cir.data.items import Catalogue, Item
from cir.data.jsonl import parse_query
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError, UsageError
from cir.files import read_lines, read_regular, sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.questions import StoredQuestions, read_questions, write_questions

GENERATED = 1000  # queries generated from metadata by default
LARGEST_PHOTO = 1_000_000_000  # bytes
STORED_TARGETS = 5  # photos of targets stored per query; common attributes have hundreds of targets
# How often a generated caption changes one attribute, and two.
CHANGES = {1: 0.7, 2: 0.3}


@dataclass(frozen=True)
class Questions:
    """The judged queries that an index stores, as they are now.

    Attributes:
        queries: those whose images still exist, with the ids they have now.
        gone: number of queries whose images are gone.
        sha256: digest of all of them as they were stored; renaming and removing images does not change it.
    """

    queries: Sequence[JudgedQuery] = ()
    gone: int = 0
    sha256: str = ""


def read_file(path: Path, gallery: Gallery, data_root: Path | None = None) -> list[JudgedQuery]:
    """The judged queries in a file, their names resolved to ids of the gallery.

    Args:
        path: one JSON object per line.
        gallery: the index.
        data_root: folder of the pictures that the file names, where those are not ids of the gallery.

    Raises:
        DataError: a line that is not a judged query, a duplicate id, or an empty file.
        MissingImageError: a name that is neither an id of the gallery nor one of its pictures.
    """
    queries: dict[str, JudgedQuery] = {}
    known: dict[str, str] = {}

    def resolve(name: str, where: str) -> str:
        if name not in known:
            known[name] = _gallery_id(name, gallery, data_root, where)
        return known[name]

    for where, line in read_lines(path):
        query = parse_query(line, where)
        if query.id in queries:
            raise DataError(f"{where}: the id {query.id!r} was used before; give every query its own")
        if not query.caption.strip():
            raise DataError(f"{where}: a judged query needs a caption; a replacement is judged by composed search")
        reference = resolve(query.reference, where) if query.reference else ""
        targets = frozenset(resolve(name, where) for name in query.targets)
        if reference in targets:
            raise DataError(f"{where}: the reference {query.reference!r} is a target too; take it out of 'targets'")
        queries[query.id] = JudgedQuery(query.id, reference, query.caption, targets)
    if not queries:
        raise DataError(f"{path}: no queries; write one JSON object per line with id, reference, caption, targets")
    return list(queries.values())


def generate(gallery: Gallery, columns: Mapping[str, str], count: int, *, seed: int = 0) -> list[JudgedQuery]:
    """Judged queries generated from the metadata of an index: "the same, but in red".

    Args:
        gallery: with metadata; images without a photo are left out.
        columns: kind of change ("colour", "type", "gender", ...: kinds that the caption templates know) -> column.
        count: how many at most; no query is generated twice, so there may be fewer.
        seed: of the random choices.

    Returns:
        Queries in phrasings that the embedded models were not trained on, except for kinds without such phrasings.

    Raises:
        UsageError: a kind without templates, an unknown column, or no images that answer each other.
    """
    templates = captions.templates("train")
    for kind, column in columns.items():
        if kind not in templates:
            known = ", ".join(sorted(name for name in templates if " " not in name and name not in ("joined", "same")))
            raise UsageError(f"no caption templates for changes of {kind!r}; there are {known}")
        if column not in gallery.columns:
            raise UsageError(f"{gallery.folder}: no metadata column {column!r}; there are {', '.join(gallery.columns)}")
    items, without_photo = [], 0
    for image_id in gallery.ids:
        image = gallery.image(image_id)
        metadata = image.metadata
        if not image.root:
            without_photo += 1
        elif all(metadata.get(column) for column in columns.values()):
            items.append(Item(image_id, {kind: metadata[column] for kind, column in columns.items()}))
    drawn = Catalogue(items, tuple(columns)).judged_queries(4 * count, _weights(tuple(columns)), seed=seed)
    distinct = list({(query.reference, query.changes): query for query in drawn}.values())[:count]
    if not distinct:
        raise UsageError(
            f"{gallery.folder}: {len(items):,} images have {' and '.join(columns.values())}, and none equals another "
            "with one attribute changed; name other columns"
            + f" ({without_photo:,} were imported without a photo, which a judged query needs)"
            * (without_photo > 0)
        )
    return [
        replace(query, id=f"metadata-{number}", targets=query.targets - {query.reference})
        for number, query in enumerate(captions.with_captions(distinct, random.Random(seed), phrasing="val"))
    ]


def _weights(kinds: Sequence[str]) -> dict[tuple[str, ...], float]:
    """How often each set of attributes is changed: one, or any pair."""
    singles: dict[tuple[str, ...], float] = {(kind,): CHANGES[1] / len(kinds) for kind in kinds}
    pairs = [(first, second) for place, first in enumerate(kinds) for second in kinds[place + 1 :]]
    return singles | {pair: CHANGES[2] / len(pairs) for pair in pairs}


def store(gallery: Gallery, queries: Sequence[JudgedQuery]) -> None:
    """Store judged queries in an index with the photos they need, in place of those it has, in one step.

    Raises:
        MissingImageError: a photo is gone, or has changed since it was indexed.
        IndexLockedError: another process is writing to the index.
        DataError: the disk refuses; the stored queries are unchanged.
    """
    names = {name for query in queries for name in (query.reference, *query.targets, *(query.wrong or ())) if name}
    images = {name: gallery.image(name) for name in sorted(names)}
    digests = {name: image.digest.hex() for name, image in images.items()}
    needed = sorted({name for query in queries for name in needed_images(query)})
    photos = {digests[name]: images[name].read for name in needed}
    write_questions(gallery.folder, StoredQuestions(tuple(queries), digests), photos)


def needed_images(query: JudgedQuery, among: Collection[str] | None = None) -> list[str]:
    """The images whose photos are needed to measure a query: its reference and a few targets, among some or all."""
    named = [*([query.reference] if query.reference else []), *sorted(query.targets)]
    needed = [name for name in named if among is None or name in among]
    return needed[: STORED_TARGETS + (query.reference in needed)]


def stored(gallery: Gallery) -> Questions:
    """The judged queries that an index stores. Raises DataError when the file cannot be read."""
    content = read_questions(gallery.folder)
    if not content.queries:
        return Questions()
    now = {name: current_id(name, digest, gallery) for name, digest in content.digests.items()}
    queries = []
    for query in content.queries:
        reference = now[query.reference] if query.reference else ""
        targets = frozenset(name for target in query.targets if (name := now[target])) - {reference}
        wrong = None if query.wrong is None else frozenset(filter(None, map(now.get, query.wrong))) - targets
        if targets and reference is not None:
            queries.append(replace(query, reference=reference, targets=targets, wrong=wrong))
    return Questions(queries, len(content.queries) - len(queries), digest(content.queries))


def digest(queries: Sequence[JudgedQuery]) -> str:
    """SHA-256 (16 hex digits) of all that queries say: evidence names the queries it is about."""
    content = sorted(
        (query.id, query.reference, query.caption, sorted(query.targets), _sorted(query.wrong)) for query in queries
    )
    return sha256_bytes(json.dumps(content).encode("utf-8", "surrogateescape"))[:16]


def _sorted(wrong: frozenset[str] | None) -> list[list[str]]:
    """Known wrong answers in a form that can be compared with none."""
    return [] if wrong is None else [sorted(wrong)]


def current_id(name: str, digest: str, gallery: Gallery) -> str | None:
    """The id of an image now: the same, or that of an image with its content; None if it is gone."""
    if name in gallery and gallery.image(name).digest.hex() == digest:
        return name
    content = bytes.fromhex(digest)
    return min(gallery.ids_of([content])[content], default=None)


def _gallery_id(name: str, gallery: Gallery, data_root: Path | None, where: str) -> str:
    if name in gallery:
        return name
    if data_root is not None:
        for form in (name, unicodedata.normalize("NFD", name)):  # as macOS stores names
            try:
                digest = hashlib.sha256(read_regular(data_root / form, LARGEST_PHOTO)).digest()
                same = gallery.ids_of([digest])[digest]
            except (OSError, ValueError):  # missing, or not a file name
                same = []
            if same:
                return same[0]
    place = f" nor a picture of it below {data_root}" if data_root else "; --data-root names a folder of its pictures"
    raise MissingImageError(f"{where}: {name!r} is not an id of {gallery.folder}{place}")
