"""Marks of an index, as the API shows and changes them: what `cir query --judge` and `cir questions` know."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from cir.data.judged_query import JudgedQuery
from cir.errors import UsageError
from cir.files import sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import MARKS
from cir.replacement.gate import MIN_QUERIES
from cir.replacement.marked import Marked, mark, marked
from cir.serve.requests import Upload

State = tuple[int, int, int]  # generation, size and time of the marks' file


@dataclass(frozen=True)
class Subject:
    """A query that can be marked.

    Attributes:
        reference: id of its reference; empty without one.
        caption: of the query.
    """

    reference: str
    caption: str

    @property
    def query(self) -> JudgedQuery:
        """As marks take it."""
        return JudgedQuery("", self.reference, self.caption, frozenset())


def subject_of(gallery: Gallery, references: Sequence[str | bytes | Upload], text: str) -> Subject:
    """The query that a mark is about. Raises UsageError where marks cannot be about it."""
    caption = text.strip()
    if not caption or len(references) > 1:
        raise UsageError("--judge needs a query of a text (-t) and at most one reference (-i), without --not")
    if not references:
        return Subject("", caption)
    given = references[0]
    if isinstance(given, Upload):
        digest = bytes.fromhex(given.sha256)
        same, name = gallery.ids_of([digest])[digest], "the picture"
    else:
        assert isinstance(given, str)
        same, name = ([gallery.image(given).id] if given in gallery else []), given
    if not same:
        raise UsageError(
            f"--judge: {name} is no image of {gallery.folder}, which a judged query needs; add it: `cir build-index`"
        )
    return Subject(min(same), caption)


class Marks:
    """The marks of an index; reading them again costs little where nothing has changed. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: tuple[State, Marked] | None = None

    def of(self, gallery: Gallery) -> Marked:
        """All marks. Raises CorruptIndexError."""
        state = self._state(gallery)
        with self._lock:
            if self._read is None or self._read[0] != state:
                self._read = state, marked(gallery)
            return self._read[1]

    def judged(self, gallery: Gallery, subject: Subject) -> tuple[list[str], list[str]]:
        """Ids of the images that were found right and wrong for a query. Raises CorruptIndexError."""
        reference = gallery.image(subject.reference).digest if subject.reference else b""
        for query in self.of(gallery).queries:
            if query.caption != subject.caption or bool(query.reference) != bool(reference):
                continue
            if not reference or gallery.image(query.reference).digest == reference:
                return sorted(query.targets), sorted(query.wrong or ())
        return [], []

    def say(self, gallery: Gallery, subject: Subject, image: str, models: Sequence[str], right: bool | None) -> None:
        """Keep what a person says; None takes it back.

        Raises:
            UsageError: the gallery has no such image, or it is the reference itself.
            DataError: the index cannot be written to.
        """
        name = gallery.image(image).id
        if name == subject.reference:
            raise UsageError("the reference is no answer to its own query; mark another image")
        mark(gallery, subject.query, name, list(dict.fromkeys(models)), right=right)

    @staticmethod
    def _state(gallery: Gallery) -> State:
        with suppress(OSError):
            status = (gallery.folder.root / MARKS).lstat()
            return gallery.manifest.generation, status.st_size, status.st_mtime_ns
        return gallery.manifest.generation, 0, 0


def good_for(marks: Marked, index: str) -> str:
    """What the marks are good for, in one line."""
    answered = len(marks.answered)
    if answered >= MIN_QUERIES:
        store = f"`cir questions {index} --from-marks`"
        return f"enough to measure a new model: {store}, then `cir replace-model {index} MODEL`"
    return (
        f"{answered:,} of {MIN_QUERIES} queries with a right answer; from {MIN_QUERIES} on they can say whether a new "
        "model is better on your pictures"
    )


def shuffled(ids: Sequence[str], subject: Subject) -> list[str]:
    """Ids in an order that tells nothing of their ranks, the same each time."""
    return sorted(ids, key=lambda name: sha256_bytes(json.dumps([subject.reference, subject.caption, name]).encode()))
