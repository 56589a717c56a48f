"""Anchors: questions about images of an index whose answers are known.

    {"id": "q1", "reference": "shoes/1.jpg", "caption": "in red", "targets": ["shoes/7.jpg"]}

The format of `cir evaluate jsonl`. Names are ids of the gallery, or paths of the same pictures below a folder: pictures
are recognised by their content. An index keeps its anchors with their photos in one file, `anchors.zip`, because the
photos elsewhere may go; images that were renamed since are recognised there too.
"""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cir.data import captions
from cir.data.items import Catalogue, Item
from cir.errors import DataError, MissingImageError, UsageError
from cir.files import read_lines
from cir.data.jsonl import parse_query
from cir.files import write_atomically, sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.manifest import ANCHORS

QUESTIONS = "anchors.jsonl"
MADE = 1000  # of metadata, if not said otherwise
KEPT_TARGETS = 5  # photos of answers that are kept for an anchor; common things have hundreds of answers
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
        count: how many at most; no question is asked twice, so that there may be fewer.
        seed: of the choices.

    Returns:
        Anchors in phrasings that the embedded models were not trained on, but for kinds that have no others.

    Raises:
        UsageError: a kind without words, a column that is not there, or no images that answer each other.
    """
    bank = captions.bank()["train"]
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
    singles: dict[tuple[str, ...], float] = {(kind,): CHANGES[1] / len(kinds) for kind in kinds}
    pairs = [(a, b) for place, a in enumerate(kinds) for b in kinds[place + 1 :]]
    weights = singles | {pair: CHANGES[2] / len(pairs) for pair in pairs}
    drawn = Catalogue(items, kinds).changes(4 * count, weights, seed=seed) if items else []
    made = list({(change.reference, change.changes): change for change in drawn}.values())[:count]
    if not made:
        raise UsageError(
            f"{gallery.path}: {len(items):,} images have {' and '.join(columns.values())}, and none is another one "
            "changed; name other columns"
        )
    rng, unseen = random.Random(seed), captions.bank()["val"]
    return [
        Anchor(
            f"metadata-{number}",
            change.reference,
            captions.change_caption(
                change.changes, rng, phrasing="val" if all(kind in unseen for kind, _, _ in change.changes) else "train"
            ),
            frozenset(change.targets) - {change.reference},
        )
        for number, change in enumerate(made)
    ]


def keep_anchors(index: Path, gallery: Gallery, anchors: Sequence[Anchor]) -> None:
    """Write anchors and the photos they need into an index, in place of those it has, in one step.

    Raises:
        MissingImageError: a photo is gone, or has changed since it was indexed.
        IndexLockedError: another process is writing to the index.
        DataError: the disk refuses; what was there stays.
    """
    names = {name for one in anchors for name in (one.reference, *one.targets) if name}
    digests = {name: gallery.digest(name).hex() for name in sorted(names)}
    lines = [
        json.dumps(
            {
                "id": one.id,
                "reference": one.reference,
                "caption": one.caption,
                "targets": sorted(one.targets),
                "digests": {name: digests[name] for name in (one.reference, *sorted(one.targets)) if name},
            }
        )
        for one in anchors
    ]
    needed = sorted({name for one in anchors for name in needed_photos(one)})
    with writer_lock(index), write_atomically(index / ANCHORS) as temporary, zipfile.ZipFile(temporary, "w") as kept:
        kept.writestr(QUESTIONS, "\n".join(lines))
        for digest, name in {digests[name]: name for name in needed}.items():
            kept.writestr(f"photos/{digest}", gallery.photo(name, unchanged=True))


def needed_photos(anchor: Anchor, among: Collection[str] | None = None) -> list[str]:
    """The images, of some or of all, that must be seen to measure an anchor: its reference, a few of its answers."""
    named = [*([anchor.reference] if anchor.reference else []), *sorted(anchor.targets)]
    there = [name for name in named if among is None or name in among]
    return there[: KEPT_TARGETS + (anchor.reference in there)]


@dataclass(frozen=True)
class Kept:
    """The anchors that an index keeps.

    Attributes:
        anchors: those whose images are still there, by the names they have now.
        gone: how many others there are.
        sha256: digest of all of them as they were kept; renaming and removing images does not change it.
    """

    anchors: Sequence[Anchor] = ()
    gone: int = 0
    sha256: str = ""


def kept_anchors(index: Path, gallery: Gallery) -> Kept:
    """What an index keeps. Raises DataError when the file cannot be read."""
    path = index / ANCHORS
    if not path.is_file():
        return Kept()
    try:
        with zipfile.ZipFile(path) as kept:
            told = [json.loads(line) for line in kept.read(QUESTIONS).decode().splitlines()]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read: {error}; keep anchors again with `cir anchors`") from None
    anchors = []
    for one in told:
        now = {name: _now(name, digest, gallery) for name, digest in one["digests"].items()}
        reference = now[one["reference"]] if one["reference"] else ""
        targets = frozenset(found for name in one["targets"] if (found := now[name])) - {reference}
        if targets and reference is not None:
            anchors.append(Anchor(one["id"], reference, one["caption"], targets))
    stored = [Anchor(one["id"], one["reference"], one["caption"], frozenset(one["targets"])) for one in told]
    return Kept(anchors, len(told) - len(anchors), digest(stored))


def _now(name: str, digest: str, gallery: Gallery) -> str | None:
    """What an image is called now: as it was, or whatever has its content."""
    if name in gallery and gallery.digest(name).hex() == digest:
        return name
    return min(gallery.ids_of(bytes.fromhex(digest)), default=None)


def digest(anchors: Sequence[Anchor]) -> str:
    """SHA-256 (16 hex digits) of what is asked: evidence is about these anchors and no others."""
    told = sorted((one.id, one.reference, one.caption, sorted(one.targets)) for one in anchors)
    return sha256_bytes(json.dumps(told).encode("utf-8", "surrogateescape"))[:16]


def _id_of(name: str, gallery: Gallery, data_root: Path | None, where: str) -> str:
    if name in gallery:
        return name
    if data_root is not None:
        try:
            same = gallery.ids_of(hashlib.sha256((data_root / name).read_bytes()).digest())
        except (OSError, ValueError):  # not there, or no name of a file
            same = []
        if same:
            return same[0]
    place = f" nor a picture of it below {data_root}" if data_root else "; --data-root names a folder of its pictures"
    raise MissingImageError(f"{where}: {name!r} is not an id of {gallery.path}{place}")
