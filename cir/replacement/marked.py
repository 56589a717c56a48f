"""Marks as judged queries: people have said of some images whether they answer a query, and of the others nothing.

A mark is about contents: images that were renamed since are recognised, and copies of one picture are judged together.
A later mark on the same query and image replaces an earlier one, or takes it back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cir.data.judged_query import JudgedQuery
from cir.files import sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.marks import Mark, append_marks, read_marks
from cir.replacement.questions import current_id


@dataclass(frozen=True)
class Marked:
    """The marks of an index.

    Attributes:
        queries: those with a mark on an image that still exists; `wrong` is a set, and `targets` is empty where no
            right answer is known yet.
        marks: how many judgements they rest on.
        gone: how many more are about images that are gone.
    """

    queries: Sequence[JudgedQuery] = ()
    marks: int = 0
    gone: int = 0

    @property
    def answered(self) -> list[JudgedQuery]:
        """The queries with at least one right answer."""
        return [query for query in self.queries if query.targets]


def marked(gallery: Gallery) -> Marked:
    """The marks of an index as judged queries, with the ids that images have now.

    Raises:
        CorruptIndexError: a line of `marks.jsonl` is damaged.
    """
    latest: dict[tuple[str, str], dict[str, Mark]] = {}
    for mark in read_marks(gallery.folder):
        latest.setdefault((mark.reference_sha256, mark.caption), {})[mark.image_sha256] = mark
    digests = {bytes.fromhex(digest) for marks in latest.values() for digest in marks}
    ids_now = {digest.hex(): ids for digest, ids in gallery.ids_of(list(digests)).items()}
    queries, kept, gone = [], 0, 0
    for (reference_sha256, caption), all_marks in latest.items():
        marks = {digest: mark for digest, mark in all_marks.items() if not mark.withdrawn}
        if not marks:
            continue
        name = next(iter(marks.values())).reference
        reference = current_id(name, reference_sha256, gallery) if reference_sha256 else ""
        images = {digest: ids_now[digest] for digest in marks if digest != reference_sha256}
        there = {digest: ids for digest, ids in images.items() if ids and reference is not None}
        kept += len(there)
        gone += len(marks) - len(there)
        if reference is not None and there:
            right = {name for digest, ids in there.items() for name in ids if marks[digest].right}
            wrong = {name for digest, ids in there.items() for name in ids if not marks[digest].right}
            number = sha256_bytes(json.dumps([reference_sha256, caption]).encode())[:12]
            queries.append(
                JudgedQuery(f"marked-{number}", reference, caption, frozenset(right), wrong=frozenset(wrong))
            )
    return Marked(queries, kept, gone)


def mark(gallery: Gallery, query: JudgedQuery, image: str, models: Sequence[str], *, right: bool | None) -> None:
    """Keep what a person says of one hit.

    Args:
        gallery: the index.
        query: its reference is an id of the gallery, or empty.
        image: the id of the hit.
        models: digests of the models among whose hits it was shown.
        right: whether it answers the query; None takes back what was said.

    Raises:
        DataError: the index cannot be written to.
    """
    reference = gallery.image(query.reference).digest.hex() if query.reference else ""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    digest = gallery.image(image).digest.hex()
    line = Mark(
        query.caption, image, digest, bool(right), query.reference, reference, tuple(models), now, right is None
    )
    append_marks(gallery.folder, [line])
