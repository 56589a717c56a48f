"""Vectors that other programs have made: `.npy` files and arrays, the ids and metadata that belong to them, parquet.

What is read may be larger than memory: vectors are mapped, never loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Stored
from cir.data import parquet
from cir.data.csv_table import CsvTable
from cir.errors import DataError, UsageError
from cir.files import open_regular, read_bounded
from cir.given import image_id, items, one_name, path_of, shown

LARGEST_LIST = 4_000_000_000  # bytes of a file of ids
Metadata = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class VectorTable:
    """N vectors of other programs, with their ids and metadata.

    Attributes:
        name: of the vectors, for messages.
        dims: D.
        ids: N ids in the form of ids (`cir.images.names`), each once.
        rewritten: how many of them had another form.
        metadata: id -> column -> value.
        unmatched: ids of metadata that no vector has.
        open: a folder for temporary files -> (N, D) vectors of a floating type, memory-mapped; rows may hold anything.
    """

    name: str
    dims: int
    ids: Sequence[str]
    rewritten: int
    open: Callable[[Path], NDArray[Any]]
    metadata: Metadata = field(default_factory=dict)
    unmatched: Sequence[str] = ()


def read_table(
    vectors: Any, ids: Any = None, metadata: Any = None, *, id_column: str = "id", vector_column: str = "vector"
) -> VectorTable:
    """Vectors and what belongs to them.

    Args:
        vectors: an (N, D) array, or the path of a `.npy` file or of a `.parquet` file with ids, vectors and metadata.
        ids: N ids, or the path of a file with one per line; not with parquet.
        metadata: id -> column -> value, or the path of a CSV table; beside parquet's own columns.
        id_column: the column of ids, in parquet and CSV.
        vector_column: the column of vectors, in parquet.

    Raises:
        DataError: files that cannot be read, or do not fit each other.
        UsageError: ids are missing, given twice, or given where the file has its own.
        MissingDependencyError: a parquet file, and pyarrow is not installed.
    """
    path = None if isinstance(vectors, np.ndarray) else path_of(vectors, "vectors")
    if path is not None and parquet.is_parquet(path):
        if ids is not None:
            raise UsageError(f"{path} has its own ids, in the column {id_column!r}; leave the other ids out")
        table = parquet.Reader(path, id_column, vector_column)
        names, rewritten = _unique(table.ids, path)
        own = {name: row for name, row in zip(names, table.metadata, strict=True) if row}
        given, unmatched = _metadata(metadata, names, id_column)
        merged = {name: {**own.get(name, {}), **given.get(name, {})} for name in own.keys() | given.keys()}
        return VectorTable(str(path), table.dims, names, rewritten, table.spill, merged, unmatched)
    array = _checked(vectors, "vectors") if path is None else read_npy(path)
    if ids is None:
        raise UsageError("vectors need ids; give one per vector: --ids IDS.txt with one per line, or a list")
    listed = isinstance(ids, str | os.PathLike)
    source = path_of(ids, "ids") if listed else "ids"
    names, rewritten = _unique(read_ids(Path(source)) if listed else items(ids, "ids", ()), source)
    name = "vectors" if path is None else str(path)
    if len(names) != len(array):
        raise DataError(f"{source}: {len(names):,} ids for the {len(array):,} vectors of {name}; give one each")
    given, unmatched = _metadata(metadata, names, id_column)
    return VectorTable(name, array.shape[1], names, rewritten, lambda scratch: array, given, unmatched)


def vector_dims(vectors: str | Path, vector_column: str = "vector") -> int:
    """D of a `.npy` or `.parquet` file, from its header or first vector. Raises as `read_table`."""
    path = path_of(vectors, "vectors")
    return parquet.dims_of(path, vector_column) if parquet.is_parquet(path) else read_npy(path).shape[1]


def read_npy(path: Path) -> NDArray[Any]:
    """The (N, D) array of a `.npy` file, memory-mapped. Pickled objects are refused, never loaded.

    Raises:
        DataError: no such file, not one of numpy's, cut short, or no matrix of floats.
    """
    advice = "write a matrix of floats with numpy.save"
    try:
        with open_regular(path) as file:
            start = file.read(6)
        if start[:4] == b"PK\x03\x04":
            raise DataError(f"{path}: an archive of arrays (.npz); save the matrix itself with numpy.save")
        if start != b"\x93NUMPY":
            raise DataError(f"{path}: not a .npy file; {advice}")
        array = np.lib.format.open_memmap(path, mode="r")
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no such file: {path}; check the path") from None
    except (OSError, ValueError, TypeError, OverflowError, SyntaxError, EOFError) as error:
        reason = (getattr(error, "strerror", None) or " ".join(str(error).split())[:200]).rstrip(".")
        raise DataError(f"{path}: not a readable .npy file: {reason}; {advice}") from None
    return _checked(array, str(path))


def _checked(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim != 2:
        raise DataError(f"{name}: an array of shape {array.shape}; vectors are a matrix (N, D), one row each")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise DataError(f"{name}: numbers of type {str(array.dtype)[:60]}; convert them to float16, float32 or float64")
    if not array.size:
        raise DataError(f"{name}: no vectors, shape {array.shape}")
    return array


def read_ids(path: Path) -> list[str]:
    """One id per line, as `write_ids` writes them; names need not be valid Unicode. Raises DataError."""
    try:
        data = read_bounded(path, LARGEST_LIST).removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable file of ids: {error.strerror}; check it") from None
    if b"\0" in data:
        raise DataError(f"{path}: a NUL character; write one id per line, in UTF-8")
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r").decode("utf-8", "surrogateescape") for line in lines]


def _unique(given: Iterable[Any], source: object) -> tuple[list[str], int]:
    """Ids in their one form, each once, and how many had another. Raises DataError."""
    names, rewritten = [], 0
    for number, name in enumerate(given, start=1):
        if not isinstance(name, str | os.PathLike) or not os.fspath(name) or "\0" in str(name):
            raise DataError(f"{source}: row {number:,} has the id {shown(name)}; ids are texts, not empty")
        names.append(image_id(name, "ids"))
        rewritten += names[-1] != one_name(name, "ids")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        first = ", ".join(shown(name) for name in dict.fromkeys(twice[:100]))
        again = "1 id occurs" if len(twice) == 1 else f"{len(twice):,} ids occur"
        raise DataError(f"{source}: {again} again: {first[:200]}; each vector needs an id of its own")
    return names, rewritten


def _metadata(given: Any, ids: Sequence[str], id_column: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Metadata by id, and the ids in it that no vector has."""
    if given is None:
        return {}, []
    rows: Iterable[tuple[str, Any, Mapping[str, str]]]
    source = "metadata" if isinstance(given, Mapping) else path_of(given, "metadata")
    if isinstance(given, Mapping):
        rows = (("metadata", name, columns) for name, columns in given.items())
    else:
        rows = CsvTable(Path(source), id_column, "name one with --id-column").rows()
    known = {name.strip(): name for name in ids}  # cells of tables are stripped
    found: dict[str, dict[str, str]] = {}
    unmatched = []
    for where, name, columns in rows:
        canonical = known.get(image_id(name, "an id of metadata").strip())
        if canonical is None:
            unmatched.append(name)
        elif canonical in found:
            raise DataError(f"{where}: a second row for {shown(canonical)}; keep one")
        else:
            found[canonical] = _columns(columns, where)
    if unmatched and not found:
        raise DataError(
            f"{source}: none of its rows fits a vector: the first is for {shown(unmatched[0])}, the "
            f"first vector is {shown(ids[0])}; write the ids of the vectors there"
        )
    return found, unmatched


def _columns(columns: Any, where: str) -> dict[str, str]:
    """The columns of one row, if an index can store them. Raises UsageError."""
    if not isinstance(columns, Mapping):
        raise UsageError(f'{where}: {shown(columns)}; write {{"a.jpg": {{"colour": "red"}}}}, id -> column -> value')
    for column, text in columns.items():
        texts = isinstance(column, str) and isinstance(text, str)
        if not texts or not column or "\0" in column or "\0" in text:
            raise UsageError(
                f"{where}: column {shown(column)} with the value {shown(text)} cannot be stored; columns have a name, "
                "both are strings, without NUL characters"
            )
    return dict(columns)


@contextmanager
def writing_npy(path: Path, shape: tuple[int, int], precision: str) -> Iterator[Callable[[Stored], None]]:
    """Write a matrix to a `.npy` file piece by piece: yields a function that takes the next rows."""
    with path.open("wb") as file:
        kind = np.dtype(precision).newbyteorder("<")
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

        def write(block: Stored) -> None:
            file.write(np.ascontiguousarray(block, kind).data)

        yield write
