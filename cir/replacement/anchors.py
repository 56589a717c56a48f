"""Anchors: questions about images of an index whose answers are known.

    {"id": "q1", "reference": "shoes/1.jpg", "caption": "in red", "targets": ["shoes/7.jpg"]}

The format of `cir evaluate jsonl`. Names are ids of the gallery, or paths of the same pictures below a folder: pictures
are recognised by their content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cir.errors import DataError, MissingImageError
from cir.eval.files import read_lines
from cir.eval.jsonl import parse_query
from cir.indexer.gallery import Gallery


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


def _id_of(name: str, gallery: Gallery, data_root: Path | None, where: str) -> str:
    if name in gallery:
        return name
    if data_root is not None and (data_root / name).is_file():
        same = gallery.ids_of(hashlib.sha256((data_root / name).read_bytes()).digest())
        if same:
            return same[0]
    place = f" nor a picture of it below {data_root}" if data_root else "; --data-root names a folder of its pictures"
    raise MissingImageError(f"{where}: {name!r} is not an id of {gallery.path}{place}")
