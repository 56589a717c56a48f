"""What makes a build resumable: the vectors encoded so far, in small segment files under `work/`.

Vectors are looked up by the digest of the image file. A part is named by its own SHA-256, so that a damaged part is
recognised and dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cir.arrays import Stored
from cir.errors import CorruptIndexError
from cir.files import disk_errors, make_folder, move, remove_temporaries, remove_tree, sha256_file
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, Segment, write_segment
from cir.indexer.writing.pipeline import Batch

Row = tuple[bytes, Stored | None, Stored | None]  # digest, vector, tokens

_OPEN_PARTS = 64  # a process may often open only 1024 files; rows are read in nearly the order of writing


class Parts:
    """Encoded contents, on disk in parts of `part_rows` rows but for the last few. Flush before reading.

    Attributes:
        resumed: digests of contents that an interrupted build has encoded.
    """

    def __init__(self, folder: Path, layout: Layout, part_rows: int) -> None:
        """Take over the parts of an interrupted build of the same layout; anything else in the folder is removed."""
        self._folder = folder
        self._layout = layout
        self._part_rows = part_rows
        self._pending: list[Row] = []
        self._open = lru_cache(maxsize=_OPEN_PARTS)(Segment)
        self._written: dict[bytes, tuple[Path, int]] = {}
        remove_temporaries(self._folder)
        for path in sorted(self._folder.glob("*")):
            try:
                part = Segment(path) if path.suffix == ".h5" and sha256_file(path) == path.stem else None
            except CorruptIndexError:
                part = None
            if part is not None and part.layout.fits(layout):
                self._note(path, [digest.tobytes() for digest in part.digests])
            else:
                remove_tree(path)
        self.resumed = frozenset(self._written)

    def add(self, batch: Batch[Any]) -> None:
        """Add an encoded batch; full parts go to disk. Raises DataError when the disk refuses."""
        for row, digest in enumerate(batch.digests):
            vector = None if batch.vectors is None else batch.vectors[row]
            tokens = None if batch.tokens is None else batch.tokens[row]
            self._pending.append((digest, vector, tokens))
        while len(self._pending) >= self._part_rows:
            self._write(self._pending[: self._part_rows])

    def flush(self) -> None:
        """Put everything on disk. Raises DataError when the disk refuses."""
        if self._pending:
            self._write(self._pending)

    def find(self, digest: bytes) -> tuple[Segment, int]:
        """The open file and row that hold the vectors of a content. Raises KeyError before it is flushed."""
        path, row = self._written[digest]
        return self._open(path), row

    def _write(self, rows: Sequence[Row]) -> None:
        digests = [row[0] for row in rows]
        table = RowTable(
            ids=[digest.hex() for digest in digests],
            digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            roots=[""] * len(rows),
            metadata={},
        )
        block = EncodedBlock(
            vectors=np.stack([row[1] for row in rows if row[1] is not None]) if self._layout.vectors else None,
            tokens=np.stack([row[2] for row in rows if row[2] is not None]) if self._layout.tokens else None,
        )
        make_folder(self._folder)
        unnamed = self._folder / "part"
        write_segment(unnamed, self._layout, table, [block])
        with disk_errors(unnamed):
            path = self._folder / f"{sha256_file(unnamed)}.h5"
            move(unnamed, path)
        self._note(path, digests)
        del self._pending[: len(rows)]

    def _note(self, path: Path, digests: Sequence[bytes]) -> None:
        self._written.update((digest, (path, row)) for row, digest in enumerate(digests))
