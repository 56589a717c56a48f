"""Exporting the vectors of an index, with their ids and metadata, for other programs."""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from cir.arrays import Rows, Stored
from cir.data.parquet import is_parquet, writing_parquet
from cir.data.vector_files import writing_npy
from cir.errors import UsageError
from cir.files import remove_tree, write_atomically
from cir.given import path_of, shown
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.segment import Segment

VECTORS, IDS, METADATA = "vectors.npy", "ids.txt", "metadata.csv"  # in a folder
_BLOCK = 4096  # rows
_ID_COLUMNS, _VECTOR_COLUMNS = ("id", "image_id", "cir_id"), ("vector", "image_vector", "cir_vector")
# ids, vectors and metadata of the next rows
Write = Callable[[Sequence[str], Stored, Sequence[Mapping[str, str]]], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        files: what was written.
        vectors: N.
        dims: D.
        precision: "float16" or "float32".
        model: name of the model that made them.
        space: id of their space.
        id_column: name of the column of ids, in metadata and parquet.
        left_out: live images of other spaces.
        columns: of metadata.
    """

    files: tuple[Path, ...]
    vectors: int
    dims: int
    precision: str
    model: str
    space: str
    id_column: str
    left_out: int
    columns: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "files": [str(file) for file in self.files]}


@dataclass(frozen=True)
class _Outputs:
    """Where an export goes: a parquet file, or up to three files."""

    parquet: Path | None = None
    vectors: Path | None = None
    ids: Path | None = None
    metadata: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.parquet, self.vectors, self.metadata, self.ids) if path)


def export_vectors(
    index: str | Path,
    out: str | Path,
    *,
    ids: str | Path | None = None,
    metadata: str | Path | None = None,
    space: str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write the vectors of an index as they are stored, by ascending id. `import_vectors` reads them again, bit by bit.

    Args:
        index: the index folder.
        out: a `.npy` file; a `.parquet` file with columns for id, vector and metadata; or a folder, in which
            `vectors.npy`, `ids.txt` and `metadata.csv` are written.
        ids: with `.npy`, the file for the ids, one per line.
        metadata: with `.npy`, the CSV file for the metadata; not written if None.
        space: id of the space whose vectors are wanted; needed where the index holds vectors of several.
        overwrite: replace files that exist.

    Raises:
        UsageError: no such space, several to choose from, outputs that exist or do not fit, ids that a file cannot
            hold, or an index of tokens alone.
        IndexFormatError: no index, or a damaged one.
        DataError: the disk is full or refuses; what was there stays.
        MissingDependencyError: a parquet file, and pyarrow is not installed.
    """
    folder = index_folder(path_of(index, "the path of an index"))
    outputs = _outputs(path_of(out, "the output"), ids, metadata)
    manifest = read_manifest(folder)
    space, left_out = _choose(folder, manifest, space)
    entries = [entry for entry in manifest.segments if entry.space == space]
    segments = [open_segment(folder, entry) for entry in entries]
    if any(segment.vectors is None for segment in segments):
        raise UsageError(
            f"{folder} holds tokens, and not one vector per image, so there is nothing to export; "
            "a model that gives vectors makes an index that can be exported"
        )
    present = [str(path) for path in outputs.files if path.exists()]
    if present and not overwrite:
        raise UsageError(f"{present[0]} exists; --overwrite replaces it")
    columns = sorted({name for segment in segments for name in segment.metadata})
    id_column = next(name for name in _ID_COLUMNS if name not in columns)
    live = [np.flatnonzero(manifest.live_rows(entry)) for entry in entries]
    count = sum(map(len, live))
    precision = str(np.result_type(*(segment.stored.dtype for segment in segments))) if segments else "float16"
    shape = (count, manifest.spaces[space].dims)
    with _writing(outputs, shape, precision, columns, id_column) as write:
        with_metadata = bool(columns) and (outputs.parquet or outputs.metadata) is not None
        for numbers, rows, names in _rows(segments, live):
            vectors = np.empty((len(rows), shape[1]), precision)
            for number in np.unique(numbers):
                stored = segments[number].vectors
                assert stored is not None  # checked above
                vectors[numbers == number] = stored[rows[numbers == number]]
            places = zip(numbers.tolist(), rows.tolist(), strict=True)
            write(
                names, vectors, [segments[number].metadata_of(row) if with_metadata else {} for number, row in places]
            )
    maker = manifest.maker(space).name
    return ExportReport(outputs.files, count, shape[1], precision, maker, space, id_column, left_out, tuple(columns))


def _outputs(out: Path, ids: Any, metadata: Any) -> _Outputs:
    """The files to write. Raises UsageError for what does not fit together."""
    if out.suffix.lower() == ".npy":
        if ids is None:
            raise UsageError(f"{out} holds vectors alone; name a file for the ids too: --ids IDS.txt")
        places = (out, path_of(ids, "ids"), None if metadata is None else path_of(metadata, "metadata"))
        if len(set(places)) < len(places):
            raise UsageError("two outputs have one name; give each file a name of its own")
        return _Outputs(None, *places)
    if ids is not None or metadata is not None:
        raise UsageError(f"{out} holds ids and metadata itself; leave --ids and --metadata out, or write a .npy file")
    if is_parquet(out):
        return _Outputs(out)
    if out.suffix or out.is_file():
        raise UsageError(f"{out}: vectors are written to a .npy file, a .parquet file or a folder")
    return _Outputs(None, out / VECTORS, out / IDS, out / METADATA)


def _choose(folder: IndexFolder, manifest: Manifest, space: str | None) -> tuple[str, int]:
    """The space to export, and the number of live images in others. Raises UsageError."""
    counts: Counter[str] = Counter()
    for entry in manifest.segments:
        counts[entry.space] += int(manifest.live_rows(entry).sum())
    there = "; ".join(f"{name}: {count:,} of {manifest.maker(name).name}" for name, count in counts.items())
    if space is None:
        if len(counts) > 1:
            raise UsageError(
                f"{folder} holds vectors of several spaces, which are never mixed; choose one with --space: {there}"
            )
        space = next(iter(counts), manifest.space.id)
    elif space not in counts:
        raise UsageError(f"{folder} holds no vectors of a space {shown(space)}; there are {there or 'none'}")
    return space, counts.total() - counts[space]


def _rows(segments: Sequence[Segment], live: Sequence[Rows]) -> Iterator[tuple[Rows, Rows, list[str]]]:
    """Live rows by ascending id, some at a time: the number of the segment of each, its row there, and its id."""

    def of(number: int) -> Iterator[tuple[str, int, int]]:
        return ((segments[number].ids[row], number, row) for row in live[number].tolist())

    rows = heapq.merge(*map(of, range(len(segments))))  # the rows of a segment ascend by id
    while block := list(islice(rows, _BLOCK)):
        names, numbers, places = zip(*block, strict=True)
        yield np.array(numbers), np.array(places), list(names)


@contextmanager
def _writing(
    outputs: _Outputs, shape: tuple[int, int], precision: str, columns: Sequence[str], id_column: str
) -> Iterator[Write]:
    """All outputs of an export, open for writing: they appear together when all are complete, the ids last."""
    need = shape[0] * shape[1] * np.dtype(precision).itemsize
    with ExitStack() as stack:
        if outputs.parquet is not None:
            path = stack.enter_context(write_atomically(outputs.parquet, need))
            vector_column = next(name for name in _VECTOR_COLUMNS if name not in columns)
            yield stack.enter_context(writing_parquet(path, shape[1], precision, columns, (id_column, vector_column)))
            return
        assert outputs.vectors is not None  # `_outputs` gives these two or parquet
        assert outputs.ids is not None
        names = stack.enter_context(_text(outputs.ids, "surrogateescape"))  # first in, last out
        table = None
        if outputs.metadata is not None:
            table = csv.writer(stack.enter_context(_text(outputs.metadata, "strict")), lineterminator="\n")
            table.writerow([id_column, *columns])
        vectors = stack.enter_context(
            writing_npy(stack.enter_context(write_atomically(outputs.vectors, need)), shape, precision)
        )

        def write(ids: Sequence[str], block: Stored, metadata: Sequence[Mapping[str, str]]) -> None:
            for name in ids:
                if "\n" in name or name.endswith("\r"):
                    raise UsageError(
                        f"the id {shown(name)} has a line break, which a list of ids cannot hold; write .parquet"
                    )
            names.writelines(f"{name}\n" for name in ids)
            vectors(block)
            if table is not None:
                for name, row in zip(ids, metadata, strict=True):
                    try:
                        table.writerow([name, *(row.get(column, "") for column in columns)])
                    except UnicodeEncodeError:
                        raise UsageError(
                            f"the id {shown(name)} or its metadata is not valid Unicode, which a CSV file cannot hold; "
                            "write a .npy file and ids, without metadata"
                        ) from None

        yield write
        if outputs.ids.exists():
            remove_tree(outputs.ids)  # a kill from here on leaves no ids beside the vectors of another export


@contextmanager
def _text(path: Path, errors: str) -> Iterator[TextIO]:
    """A text file that appears when it is complete."""
    with (
        write_atomically(path) as temporary,
        temporary.open("w", encoding="utf-8", errors=errors, newline="") as file,
    ):
        yield file
