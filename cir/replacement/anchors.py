"""Anchors: questions about images of an index whose answers are known.

    {"id": "q1", "reference": "shoes/1.jpg", "caption": "in red", "targets": ["shoes/7.jpg"]}

The format of `cir evaluate jsonl`. Names are ids of the gallery, or paths of the same pictures below a folder: pictures
are recognised by their content. An index keeps its anchors with their photos, because the photos elsewhere may go.
"""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cir import phrases
from cir.catalogue import Catalogue, Item
from cir.errors import DataError, MissingImageError, UsageError
from cir.eval.files import read_lines
from cir.eval.jsonl import parse_query
from cir.indexer.durable import make_folder, replacing, sha256_bytes, write_bytes
from cir.indexer.gallery import Gallery
from cir.indexer.lock import writer_lock
from cir.indexer.manifest import ANCHORS, PHOTOS

QUESTIONS = "anchors.jsonl"
# What a caption from metadata may ask to change: one thing, or two.
CHANGES = {1: 0.7, 2: 0.3}


@dataclass(frozen=True)
class Anchor:
    """One question.

    Attributes:
        id: its own.
        reference: id of a gallery image, "" for none.
        caption: what is said about it.
        targets: ids of the gallery images that answer; at least one.
    """

    id: str
    reference: str
    caption: str
    targets: frozenset[str]


def read_anchors(path: Path, gallery: Gallery, data_root: Path | None = None) -> list[Anchor]:
    """The anchors in a file, their names resolved to ids of the gallery.

    Raises:
        DataError: a line that is no anchor, an id that is there twice, or no anchors at all.
        MissingImageError: a name that is neither an id of the gallery nor one of its pictures.
    """
    anchors: dict[str, Anchor] = {}
    known: dict[str, str] = {}

    def resolve(name: str, where: str) -> str:
        if name not in known:
            known[name] = _id_of(name, gallery, data_root, where)
        return known[name]

    for where, line in read_lines(path):
        query = parse_query(line, where)
        if query.id in anchors:
            raise DataError(f"{where}: the id {query.id!r} was used before; give every anchor its own")
        if not query.caption.strip():
            raise DataError(f"{where}: an anchor needs a caption; what is measured is composed search")
        reference = resolve(query.reference, where) if query.reference else ""
        targets = frozenset(resolve(name, where) for name in query.targets)
        if reference in targets:
            raise DataError(f"{where}: the reference {query.reference!r} is a target too; take it out of 'targets'")
        anchors[query.id] = Anchor(query.id, reference, query.caption, targets)
    if not anchors:
        raise DataError(f"{path}: no anchors; write one JSON object a line with id, reference, caption, targets")
    return list(anchors.values())


def anchors_from_metadata(gallery: Gallery, columns: Mapping[str, str], count: int, *, seed: int = 0) -> list[Anchor]:
    """Anchors made of what an index knows of its images: "the same, but in red".

    Args:
        gallery: with metadata.
        columns: kind of change ("colour", "type", "gender", ...: what the caption bank has words for) -> column.
        count: how many.
        seed: of the choices.

    Raises:
        UsageError: a kind without words, a column that is not there, or too few images that answer each other.
    """
    bank = phrases.bank()["train"]
    for kind, column in columns.items():
        if kind not in bank:
            known = ", ".join(sorted(each for each in bank if " " not in each and each not in ("joined", "same")))
            raise UsageError(f"no words for changes of {kind!r}; there are {known}")
        if column not in gallery.columns:
            raise UsageError(f"{gallery.path}: no metadata column {column!r}; there are {', '.join(gallery.columns)}")
    items = []
    for image_id in gallery.ids:
        told = gallery.metadata(image_id)
        if all(told.get(column) for column in columns.values()):
            items.append(Item(image_id, {kind: told[column] for kind, column in columns.items()}))
    kinds = tuple(columns)
    singles = {(kind,): CHANGES[1] / len(kinds) for kind in kinds}
    pairs = [(a, b) for place, a in enumerate(kinds) for b in kinds[place + 1 :]]
    catalogue = Catalogue(items, kinds)
    made = catalogue.changes(count, singles | {pair: CHANGES[2] / len(pairs) for pair in pairs}, seed=seed)
    if len(made) < count:
        raise UsageError(f"{gallery.path}: {len(items):,} images have all of {', '.join(columns.values())}; too few")
    rng = random.Random(seed)
    return [
        Anchor(
            f"metadata-{number}",
            change.reference,
            phrases.change_caption(change.changes, rng, phrasing="train"),
            frozenset(change.targets) - {change.reference},
        )
        for number, change in enumerate(made)
    ]


def keep_anchors(index: Path, gallery: Gallery, anchors: Sequence[Anchor]) -> None:
    """Write anchors and the photos they name into an index, in place of those it has.

    Raises:
        MissingImageError: a photo is gone.
        IndexLockedError: another process is writing to the index.
        DataError: the disk refuses; what was there stays.
    """
    folder = index / ANCHORS
    named = sorted({name for one in anchors for name in (one.reference, *one.targets) if name})
    files = [gallery.file(name) for name in named]
    lines = "".join(
        json.dumps({"id": one.id, "reference": one.reference, "caption": one.caption, "targets": sorted(one.targets)})
        + "\n"
        for one in anchors
    )
    with writer_lock(index):
        make_folder(folder)
        # Photos first: a kill in between leaves old questions, all of whose photos need not be there, and that is told.
        with replacing(folder / PHOTOS) as temporary, zipfile.ZipFile(temporary, "w") as photos:
            for name, file in zip(named, files, strict=True):
                photos.writestr(name, file.read())
        write_bytes(folder / QUESTIONS, lines.encode("utf-8", "surrogateescape"))


def kept_anchors(index: Path, gallery: Gallery) -> list[Anchor]:
    """The anchors that an index keeps; none where it keeps none."""
    path = index / ANCHORS / QUESTIONS
    return read_anchors(path, gallery) if path.is_file() else []


def digest(anchors: Sequence[Anchor]) -> str:
    """SHA-256 (16 hex digits) of what is asked: evidence is about these anchors and no others."""
    told = sorted((one.id, one.reference, one.caption, sorted(one.targets)) for one in anchors)
    return sha256_bytes(json.dumps(told).encode("utf-8", "surrogateescape"))[:16]


def _id_of(name: str, gallery: Gallery, data_root: Path | None, where: str) -> str:
    if name in gallery:
        return name
    if data_root is not None and (data_root / name).is_file():
        same = gallery.ids_of(hashlib.sha256((data_root / name).read_bytes()).digest())
        if same:
            return same[0]
    place = f" nor a picture of it below {data_root}" if data_root else "; --data-root names a folder of its pictures"
    raise MissingImageError(f"{where}: {name!r} is not an id of {gallery.path}{place}")
