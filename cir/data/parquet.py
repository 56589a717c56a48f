"""Parquet files of ids, vectors and metadata. Only this module imports pyarrow, which is optional and slow to load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Stored
from cir.errors import DataError, MissingDependencyError
from cir.files import disk_errors, make_folder, open_regular

SUFFIX = ".parquet"
_BATCH = 4096  # rows read or written at once

log = logging.getLogger(__name__)


def is_parquet(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() == SUFFIX


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            "parquet files need pyarrow; install it: pip install 'cir-engine[parquet]'"
        ) from None
    return pyarrow


class Reader:
    """A table with one vector per row. Only its ids and metadata are ever held in memory."""

    def __init__(self, path: Path, id_column: str, vector_column: str) -> None:
        """Open a table.

        Raises:
            DataError: not a readable parquet file, or no column of vectors.
            MissingDependencyError: pyarrow is not installed.
        """
        self._path, self._id, self._vectors = path, id_column, vector_column
        self._arrow = _pyarrow()
        with self._errors():
            open_regular(path).close()  # nothing waits for a pipe
            self._file = self._arrow.parquet.ParquetFile(path, memory_map=True)
            self._schema = self._file.schema_arrow
        kind, types = self._column(vector_column, "--vector-column").type, self._arrow.types
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        if not lists or not types.is_floating(kind.value_type):
            raise DataError(f"{path}: column {vector_column!r} holds {str(kind)[:60]}, not lists of floats")
        self._precision = {16: "float16", 32: "float32"}.get(kind.value_type.bit_width, "float64")

    @cached_property
    def ids(self) -> list[str]:
        """N ids: texts, or whole numbers as texts. Raises DataError for no such column, or a row without id."""
        kind, types = self._column(self._id, "--id-column").type, self._arrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind)):
            raise DataError(f"{self._path}: column {self._id!r} holds {str(kind)[:60]}; ids are texts or whole numbers")
        ids = self._as_texts(self._id)
        missing = next((row for row, name in enumerate(ids, start=1) if not name), None)
        if missing is not None:
            raise DataError(f"{self._path}: row {missing:,} has no {self._id!r}; each vector needs an id")
        return ids

    @cached_property
    def metadata(self) -> Sequence[Mapping[str, str]]:
        """Column -> value for each row, without empty values. A warning names columns of lists and the like: left out.

        Raises:
            DataError: a text that cannot be stored.
        """
        others = [field for field in self._schema if field.name not in (self._id, self._vectors)]
        plain = [field.name for field in others if field.name and not self._arrow.types.is_nested(field.type)]
        if len(plain) < len(others):
            left_out = ", ".join(repr(field.name) for field in others if field.name not in plain)
            log.warning("%s: %s: neither text nor numbers, so left out", self._path, left_out[:200])
        columns = {name: self._as_texts(name) for name in plain if self._column(name, "a tool that renames columns")}
        for name, texts in columns.items():
            if "\0" in name or any("\0" in text for text in texts):
                raise DataError(f"{self._path}: column {name!r} holds a NUL character, which cannot be stored")
        return [{name: texts[row] for name, texts in columns.items() if texts[row]} for row in range(len(self.ids))]

    @cached_property
    def dims(self) -> int:
        """D, of the first vector. Raises DataError for a table without vectors."""
        for _, lengths in self._batches():
            known = lengths[lengths > 0]
            if len(known):
                return int(known[0])
        raise DataError(f"{self._path}: column {self._vectors!r} holds no vectors")

    def spill(self, scratch: Path) -> NDArray[Any]:
        """(N, D) vectors in the file's precision, copied below a folder and mapped; NaN for a row without vector.

        Raises:
            DataError: vectors of different lengths, or the disk refuses.
        """
        make_folder(scratch)
        path, shape, start = scratch / "vectors", (self._file.metadata.num_rows, self.dims), 0
        need = shape[0] * shape[1] * np.dtype(self._precision).itemsize
        with disk_errors(path, need), path.open("wb") as file:
            for values, lengths in self._batches():
                wrong = np.flatnonzero((lengths != self.dims) & (lengths != 0))
                if len(wrong):
                    raise DataError(
                        f"{self._path}: row {start + int(wrong[0]) + 1:,} has a vector of {lengths[wrong[0]]:,} "
                        f"values, others have {self.dims:,}; all vectors of a model have as many"
                    )
                block = np.full((len(lengths), self.dims), np.nan, self._precision)
                block[lengths > 0] = values.reshape(-1, self.dims)
                file.write(block.data)
                start += len(lengths)
        return np.memmap(path, self._precision, "r", shape=shape)

    def _batches(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Values of the vectors of some rows, one after the other, and how many each row has; 0 for none."""
        with self._errors():
            for batch in self._file.iter_batches(_BATCH, columns=[self._vectors]):
                column = batch.column(0)
                lengths = self._arrow.compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
                # A fixed-size list has values under its nulls too, which `flatten` leaves out.
                values = column.flatten().to_numpy(zero_copy_only=False)
                yield values.astype(self._precision, copy=False), lengths.astype(np.int64)

    def _column(self, name: str, advice: str) -> Any:
        places = self._schema.get_all_field_indices(name)
        if len(places) != 1:
            problem = f"{len(places)} columns are called" if places else "no column"
            columns = ", ".join(self._schema.names)[:300]
            raise DataError(f"{self._path}: {problem} {name!r}; columns: {columns}; see {advice}")
        return self._schema.field(places[0])

    def _as_texts(self, name: str) -> list[str]:
        """A column as texts, as short as they are unambiguous; "" for null."""
        with self._errors():
            column = self._file.read(columns=[name]).column(0)
            if self._arrow.types.is_null(column.type):
                return [""] * len(column)
            texts: list[str] = column.cast(self._arrow.large_string()).fill_null("").to_pylist()
            return texts

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (DataError, MissingDependencyError):
            raise
        except (self._arrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
            if isinstance(error, FileNotFoundError):
                raise DataError(f"no such file: {self._path}; check the path") from None
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self._path}: not a readable parquet file: {reason}; write it again") from None


def dims_of(path: Path, vector_column: str) -> int:
    """D of the first vector of a table. Raises as `Reader`."""
    return Reader(path, "", vector_column).dims


@contextmanager
def writing_parquet(
    path: Path, dims: int, precision: str, columns: Sequence[str], names: tuple[str, str]
) -> Iterator[Callable[[Sequence[str], Stored, Sequence[Mapping[str, str]]], None]]:
    """Write a table piece by piece: yields a function of the next ids, vectors and metadata.

    Args:
        path: the file.
        dims: D.
        precision: "float16" or "float32".
        columns: of metadata.
        names: of the columns of ids and vectors.

    Raises:
        DataError: a text that is not valid Unicode, which parquet cannot hold.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = _pyarrow()
    kind = arrow.list_({"float16": arrow.float16(), "float32": arrow.float32()}[precision], dims)
    schema = arrow.schema(
        [(names[0], arrow.string()), (names[1], kind), *((column, arrow.string()) for column in columns)]
    )
    with arrow.parquet.ParquetWriter(path, schema) as writer:

        def write(ids: Sequence[str], vectors: Stored, metadata: Sequence[Mapping[str, str]]) -> None:
            flat = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
            texts = [ids, *([row.get(column) for row in metadata] for column in columns)]
            try:
                first, *others = (arrow.array(values, arrow.string()) for values in texts)
            except UnicodeEncodeError:
                raise DataError(
                    f"{path.name}: an id or value is not valid Unicode, which parquet cannot hold; write .npy"
                ) from None
            arrays = [first, arrow.FixedSizeListArray.from_arrays(flat, dims), *others]
            writer.write_table(arrow.table(arrays, schema=schema))

        yield write
