"""Immutable segment files: HDF5 as the truth, memory maps to read it.

A segment is written once and never opened for writing again. Every dataset is contiguous and uncompressed (compression
saves 6 to 14 % of the vectors and makes random rows 20 to 100 times slower), so a reader maps the file and closes HDF5
at once, and the size of the file is known before it is written.

Layout of `gallery.h5`: `digests` (N, 32) uint8, `vectors` (N, D) and `tokens` (N, T, D) float16 or float32; columns
(`columns.py`) `ids`, `roots`, `metadata/0`, `metadata/1`, ... of N texts each, "" for none; `column_names`. Rows ascend
by id.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cir.arrays import Stored
from cir.errors import CorruptIndexError
from cir.files import write_atomically
from cir.given import shown
from cir.indexer.storage import columns
from cir.indexer.storage.columns import Codes, Column, Texts
from cir.indexer.storage.steady_file import SteadyFile
from cir.types import ModelCard

FORMAT = 3
_ALIGN = 4096  # a dataset begins on a page, so that its memory map is aligned
_OVERHEAD = 64 * 1024  # bytes that HDF5 needs for itself, at most
_OVERHEAD_EACH = 2 * _ALIGN  # and for each dataset, its alignment included
_ATTRIBUTES = ("model", "model_name", "space")


@dataclass(frozen=True)
class Layout:
    """What all rows of a segment share: the model that made the vectors, and their shape.

    Attributes:
        model: digest of the model.
        model_name: its name, for people.
        space: id of the space of the vectors.
        dims: D.
        tokens: T stored per image; 0 = none.
        vectors: whether one vector per image is stored.
        precision: "float16" or "float32", of what is stored.
    """

    model: str
    model_name: str
    space: str
    dims: int
    tokens: int
    vectors: bool
    precision: str = "float16"

    @classmethod
    def of(cls, card: ModelCard, tokens: bool = True, precision: str = "float16") -> Layout:
        """What a model's encoder gives, with or without its tokens."""
        count = card.tokens if tokens else 0
        return cls(card.digest, card.name, card.space.id, card.dims, count, card.vector, precision)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's values."""
        return np.dtype(self.precision).itemsize * self.dims * (self.tokens + self.vectors)

    def fits(self, other: Layout) -> bool:
        """Whether rows of the other layout can be copied into a segment of this one."""
        return self == replace(other, model_name=self.model_name)


@dataclass(frozen=True)
class RowTable:
    """The rows of a new segment, without what an encoder gives.

    Attributes:
        ids: N ids.
        digests: (N, 32) uint8, SHA-256 of each image file.
        roots: N path hints.
        metadata: column name -> N texts, "" for none; each is looked up once, and a column without values is left out.
    """

    ids: Sequence[str]
    digests: NDArray[np.uint8]
    roots: Sequence[str]
    metadata: Mapping[str, Sequence[str]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Name in the file -> array."""
        stored: dict[str, Column] = {"ids": Texts.encode(self.ids), "roots": columns.encode(self.roots)}
        names: list[str] = []
        for name in sorted(self.metadata):
            values = self.metadata[name]
            if any(values):
                stored[f"metadata/{len(names)}"] = columns.encode(values)
                names.append(name)
        stored["column_names"] = Texts.encode(names)
        parts = {f"{name}/{part}": array for name, column in stored.items() for part, array in column.arrays.items()}
        return {"digests": self.digests, **parts}


def by_column(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Metadata of N rows, column -> value each, as column -> N texts, "" for none."""
    names = sorted({name for values in rows for name in values})
    return {name: [values.get(name, "") for values in rows] for name in names}


@dataclass(frozen=True)
class EncodedBlock:
    """What an encoder gave for n consecutive rows.

    Attributes:
        vectors: (n, D) in the layout's precision, or None.
        tokens: (n, T, D) likewise, or None.
    """

    vectors: Stored | None
    tokens: Stored | None


def write_segment(path: Path, layout: Layout, table: RowTable, blocks: Iterable[EncodedBlock]) -> None:
    """Write a segment file, streaming the blocks, atomically and durably.

    Raises:
        DataError: the disk is full or refuses.
        ValueError: the blocks do not hold as many rows as the table.
    """
    rows, arrays = len(table.ids), table.arrays()
    size = rows * layout.row_bytes + sum(array.nbytes for array in arrays.values())
    need = size + _OVERHEAD + _OVERHEAD_EACH * (len(arrays) + 2)
    with write_atomically(path, need=need) as temporary, _steady(temporary, need) as file:
        file.attrs.update({"format": FORMAT, **asdict(layout)})
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        _fill(file, layout, rows, blocks)


def _fill(file: h5py.File, layout: Layout, rows: int, blocks: Iterable[EncodedBlock]) -> None:
    shapes: dict[str, tuple[int, ...]] = {"vectors": (rows, layout.dims)} if layout.vectors else {}
    if layout.tokens:
        shapes["tokens"] = (rows, layout.tokens, layout.dims)
    datasets = {name: file.create_dataset(name, shape, layout.precision) for name, shape in shapes.items()}
    filled = dict.fromkeys(shapes, 0)
    for block in blocks:
        for name, dataset in datasets.items():
            values = block.vectors if name == "vectors" else block.tokens
            start, count = filled[name], 0 if values is None else len(values)
            if start + count <= rows:
                dataset[start : start + count] = values
            filled[name] += count
    wrong = [count for count in filled.values() if count != rows]
    if wrong:
        raise ValueError(f"{wrong[0]} rows were given for a segment of {rows}")


@contextmanager
def _steady(path: Path, need: int) -> Iterator[h5py.File]:
    """A new HDF5 file; an error of the disk is raised when HDF5 has closed it."""
    target = SteadyFile(path, need)
    try:
        with h5py.File(target, "w", alignment_threshold=_ALIGN, alignment_interval=_ALIGN) as file:
            yield file
    finally:
        target.close()


class Segment:
    """A segment file, open for reading: one memory map and one file handle for all arrays.

    Attributes:
        path: the file.
        layout: model and shape of its vectors.
        ids, roots: N texts: ids, and where each image was.
        digests: (N, 32) uint8, SHA-256 of each image file.
        metadata: column name -> N texts, "" for none.
        vectors: (N, D) float16 or float32, or None.
        tokens: (N, T, D) likewise, or None.
    """

    def __init__(self, path: Path) -> None:
        """Open a segment.

        Raises:
            CorruptIndexError: the file is gone or not a segment of this version.
        """
        self.path = path
        try:
            attributes, places = _read_places(path)
            mapped = np.memmap(path, np.uint8, "r")
            self._arrays: dict[str, dict[str, NDArray[Any]]] = defaultdict(dict)  # by group and name
            for name, place in places.items():
                group, _, part = name.rpartition("/")
                self._arrays[group][part] = _mapped(mapped, *place)
            self.layout = Layout(**{**attributes, "precision": self._precision})
            self.digests = self._array("digests", 2)
            self.vectors = self._array("vectors", 2) if self.layout.vectors else None
            self.tokens = self._array("tokens", 3) if self.layout.tokens else None
            self.ids, self.roots = self._column("ids", "ids"), self._column("roots", "roots")
            self._check()
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise CorruptIndexError(f"{path} cannot be read: {reason}; restore it from a copy") from error

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def stored(self) -> Stored:
        """Vectors, or tokens if there are no vectors."""
        stored = self.tokens if self.vectors is None else self.vectors
        assert stored is not None  # a segment has at least one of the two
        return stored

    @cached_property
    def metadata(self) -> dict[str, Column]:
        """Column name -> N texts, "" for none. Raises CorruptIndexError."""
        try:
            names = Texts.from_arrays(self._arrays["column_names"])
            return {name: self._column(f"metadata/{number}", name) for number, name in enumerate(names)}
        except (KeyError, ValueError) as error:
            raise CorruptIndexError(f"{self.path} cannot be read: {error}; restore it from a copy") from error

    @property
    def root_names(self) -> Sequence[str]:
        """The distinct texts of `roots`."""
        return self.roots.dictionary if isinstance(self.roots, Codes) else sorted(set(self.roots))

    def rows_of(self, digests: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        """The images whose files have one of these SHA-256 digests, 32 bytes each: the digest and the row."""
        # Two bytes leave out nearly all rows by a look into a table; eight tell nearly all others apart.
        some = np.zeros(2**16, bool)
        some[np.frombuffer(b"".join(digest[:2] for digest in digests), np.uint16)] = True
        rows = np.flatnonzero(some[self.digests[:, :2].view(np.uint16)[:, 0]])
        firsts = np.frombuffer(b"".join(digest[:8] for digest in digests), np.uint64)
        rows = rows[np.isin(self.digests[rows, :8].view(np.uint64)[:, 0], firsts)]
        whole = set(digests)
        for row in rows.tolist():
            digest = self.digests[row].tobytes()
            if digest in whole:
                yield digest, row

    def metadata_of(self, row: int) -> dict[str, str]:
        """Column -> value of one row, without empty values."""
        values = {column: values[row] for column, values in self.metadata.items()}
        return {column: value for column, value in values.items() if value}

    @property
    def _precision(self) -> str:
        arrays = self._arrays[""]
        return "/".join(sorted({arrays[name].dtype.name for name in ("vectors", "tokens") if name in arrays}))

    def _array(self, name: str, dims: int) -> NDArray[Any]:
        array = self._arrays[""][name]
        if array.ndim != dims:
            raise ValueError(f"{name} has {array.ndim} dimensions instead of {dims}")
        return array

    def _column(self, group: str, name: str) -> Column:
        column = columns.from_arrays(self._arrays[group], f"{self.path}: column {shown(name)}")
        if len(column) != len(self):
            raise ValueError(f"{group} has {len(column)} rows, not {len(self)}")
        return column

    def _check(self) -> None:
        layout = self.layout
        if not all(isinstance(getattr(layout, name), str) for name in _ATTRIBUTES):
            raise TypeError(f"{', '.join(_ATTRIBUTES)} are not texts")
        expected = {
            "digests": ((len(self), 32), ("uint8",)),
            "vectors": ((len(self), layout.dims), ("float16", "float32")),
            "tokens": ((len(self), layout.tokens, layout.dims), ("float16", "float32")),
        }
        for name, (shape, kinds) in expected.items():
            array = self._arrays[""].get(name)
            if array is not None and (array.shape != shape or array.dtype.name not in kinds):
                raise ValueError(f"{name} is {array.dtype} {array.shape} instead of {kinds[0]} {shape}")
        if not layout.vectors and not layout.tokens:
            raise ValueError("it holds neither vectors nor tokens")


Place = tuple[tuple[int, ...], np.dtype[Any], int]  # shape, type, first byte


def _read_places(path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
    """The attributes of a segment file, and where its arrays are."""
    places: dict[str, Place] = {}
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as raw, h5py.File(raw, "r") as file:
        attributes = {key: value.item() if hasattr(value, "item") else value for key, value in file.attrs.items()}
        if attributes.pop("format", None) != FORMAT:
            raise ValueError("it is a segment of another version")
        _walk(file, "", places)
    return attributes, places


def _walk(group: h5py.Group, prefix: str, places: dict[str, Place]) -> None:
    """Note where every dataset below a group is; refuses what is not in the file itself and in one piece."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{prefix}{name} is a link; a segment holds its own data")
        item = group[name]
        if isinstance(item, h5py.Group):
            if prefix.count("/") > 2:
                raise ValueError("its groups are nested too deeply")
            _walk(item, f"{prefix}{name}/", places)
            continue
        if item.external or item.is_virtual:
            raise ValueError(f"{prefix}{name} is stored in another file; a segment holds its own data")
        plan = item.id.get_create_plist()
        if plan.get_layout() != h5py.h5d.CONTIGUOUS or plan.get_nfilters():
            raise ValueError(
                f"{prefix}{name} is compressed or in chunks, so it cannot be mapped; copy the original file"
            )
        offset = item.id.get_offset()
        if offset is None and item.size:
            raise ValueError(f"{prefix}{name} has no data")
        places[f"{prefix}{name}"] = item.shape, item.dtype, offset or 0


def _mapped(whole: NDArray[np.uint8], shape: tuple[int, ...], kind: np.dtype[Any], offset: int) -> NDArray[Any]:
    count = 1
    for length in shape:
        count *= int(length)
    size = kind.itemsize * count
    if kind.hasobject or kind.kind not in "uif" or offset + size > len(whole):
        raise ValueError("an array leads past the end of the file, or does not hold numbers")
    if not size:  # an empty dataset has no place in the file
        return np.zeros(shape, kind)
    return np.asarray(whole[offset : offset + size]).view(kind).reshape(shape)
