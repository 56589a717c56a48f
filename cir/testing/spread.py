"""A gallery that is spread over parts in this process: what `cir.cluster` does, without Ray; and waiting for Ray."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.part_gallery import open_part_gallery, part_ranking
from cir.indexer.reading.spread import Offers, Pointer, Questions, offers_of
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import DamagedSegment
from cir.indexer.storage.manifest import Manifest


def attempts(what: str, seconds: float = 120.0) -> Iterator[int]:
    """Numbers from 0, for as long as something may take to come true on a busy machine; then a test fails."""
    until = time.monotonic() + seconds
    for number in count():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:.0f} seconds: {what}")
        yield number


class PartsHere:
    """Segments dealt out to parts like cards; what goes to a part and comes from it is pickled.

    Attributes:
        silent: parts that do not answer.
        calls: how often any part was called.
    """

    deadline = 60.0

    def __init__(self, path: Path, parts: int, ann_min_rows: int) -> None:
        self.silent: set[int] = set()
        self.calls = 0
        self._path, self._count, self._ann_min_rows = path, parts, ann_min_rows
        self._open: dict[Pointer, list[Gallery]] = {}
        self._names: dict[Pointer, list[list[str]]] = {}

    def open(
        self, folder: IndexFolder, pointer: Pointer, manifest: Manifest, seconds: float | None = None
    ) -> tuple[DamagedSegment, ...]:
        """Open all parts of a generation."""
        names = [entry.name for entry in manifest.segments]
        self._names[pointer] = dealt = [names[part :: self._count] for part in range(self._count)]
        self._open[pointer] = galleries = [
            open_part_gallery(str(self._path), pointer, manifest, part, None, self._ann_min_rows, "cpu")
            for part in dealt
        ]
        return tuple(segment for gallery in galleries for segment in gallery.damaged)

    def parts(self, pointer: Pointer) -> Sequence[Sequence[str]]:
        """Names of the segments of each part."""
        return self._names[pointer]

    def ask(self, pointer: Pointer, questions: Mapping[int, Questions], until: float) -> dict[int, Offers]:
        """The answers of those that are not silent."""
        answers = {}
        for part in questions.keys() - self.silent:
            self.calls += 1
            asked: Questions = pickle.loads(pickle.dumps(questions[part]))
            answers[part] = pickle.loads(pickle.dumps(offers_of(part_ranking(self._open[pointer][part]), asked)))
        return answers

    def keep(self, pointer: Pointer, user: object) -> None:
        """Everything is kept."""

    def tend(self) -> None:
        """Nothing is lost."""
