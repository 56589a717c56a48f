"""Immutable segment files: HDF5 as the truth, memory maps to read it.

A segment is written once and never opened for writing again. Vectors and tokens are contiguous and uncompressed
(compression saves 6 to 14 % and makes random rows 20 to 100 times slower), so a reader maps the file and closes HDF5
at once.

Layout of `gallery.h5`: `ids` (N,) and `root_names` utf-8, `digests` (N, 32) uint8, `vectors` (N, D) and
`tokens` (N, T, D) float16 or float32, `roots` (N,) index into `root_names`, `metadata/COLUMN` (N,) utf-8, "" for none.
"""

from __future__ import annotations

import errno
import re
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
from cir.types import ModelCard

FORMAT = 1
_ALIGN = 4096  # a dataset begins on a page, so that its memory map is aligned


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
class RowBlock:
    """Some rows on their way into a segment.

    Attributes:
        ids: n ids.
        digests: (n, 32) uint8, SHA-256 of each image file.
        roots: n path hints.
        metadata: n mappings column -> value, without empty values.
        vectors: (n, D) in the layout's precision, or None.
        tokens: (n, T, D) likewise, or None.
    """

    ids: Sequence[str]
    digests: NDArray[np.uint8]
    roots: Sequence[str]
    metadata: Sequence[Mapping[str, str]]
    vectors: Stored | None
    tokens: Stored | None


def write_segment(path: Path, layout: Layout, rows: int, blocks: Iterable[RowBlock]) -> None:
    """Write a segment file of `rows` rows, streaming, atomically and durably.

    Raises:
        DataError: the disk is full or refuses.
        ValueError: the blocks do not hold exactly `rows` rows.
    """
    with (
        write_atomically(path, need=rows * (layout.row_bytes + 200)) as temporary,
        _hdf5_errors(),
        h5py.File(temporary, "w", alignment_threshold=_ALIGN, alignment_interval=_ALIGN) as file,
    ):
        file.attrs.update({"format": FORMAT, **asdict(layout)})
        _fill(file, layout, rows, blocks)
        file.flush()


def _fill(file: h5py.File, layout: Layout, rows: int, blocks: Iterable[RowBlock]) -> None:
    text = h5py.string_dtype()
    ids = file.create_dataset("ids", (rows,), text)
    digests = file.create_dataset("digests", (rows, 32), np.uint8)
    roots = file.create_dataset("roots", (rows,), np.uint32)
    metadata = file.create_group("metadata")
    vectors = file.create_dataset("vectors", (rows, layout.dims), layout.precision) if layout.vectors else None
    shape = (rows, layout.tokens, layout.dims)
    tokens = file.create_dataset("tokens", shape, layout.precision) if layout.tokens else None
    root_numbers: dict[str, int] = {}
    start = 0
    for block in blocks:
        here = slice(start, start + len(block.ids))
        ids[here] = _bytes(block.ids)
        digests[here] = block.digests
        roots[here] = np.array([root_numbers.setdefault(root, len(root_numbers)) for root in block.roots], np.uint32)
        if vectors is not None:
            vectors[here] = block.vectors
        if tokens is not None:
            tokens[here] = block.tokens
        for column in sorted({column for values in block.metadata for column in values}):
            name = _escape(column)
            dataset = metadata[name] if name in metadata else metadata.create_dataset(name, (rows,), text)
            dataset[here] = _bytes([values.get(column, "") for values in block.metadata])
        start = here.stop
    if start != rows:
        raise ValueError(f"{start} rows were given for a segment of {rows}")
    names = file.create_dataset("root_names", (len(root_numbers),), text)
    names[:] = _bytes(list(root_numbers))


class Segment:
    """A segment file, open for reading: one memory map and one file handle for all arrays.

    Attributes:
        path: the file.
        layout: model and shape of its vectors.
        ids: N ids.
        vectors: (N, D) float16 or float32, mapped, or None.
        tokens: (N, T, D) likewise, or None.
    """

    def __init__(self, path: Path) -> None:
        """Open a segment.

        Raises:
            CorruptIndexError: the file is gone or not a segment.
        """
        self.path = path
        with self._open() as file:
            self.ids = _texts(file["ids"])
            stored = {name: file[name] for name in ("vectors", "tokens") if name in file}
            places = {name: (data.shape, data.dtype, data.id.get_offset()) for name, data in stored.items()}
            self.layout = Layout(
                model=str(file.attrs["model"]),
                model_name=str(file.attrs["model_name"]),
                space=str(file.attrs["space"]),
                dims=int(file.attrs["dims"]),
                tokens=int(file.attrs["tokens"]),
                vectors=bool(file.attrs["vectors"]),
                precision="/".join(sorted({data.dtype.name for data in stored.values()})),
            )
        try:
            whole = np.memmap(path, np.uint8, "r")
        except OSError as error:  # each segment keeps a file handle
            raise CorruptIndexError(f"{path} cannot be read: {error.strerror}; `ulimit -n` may be too low") from error
        self.vectors = _mapped(whole, *places["vectors"]) if "vectors" in places else None
        self.tokens = _mapped(whole, *places["tokens"]) if "tokens" in places else None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def stored(self) -> Stored:
        """Vectors, or tokens if there are no vectors."""
        stored = self.tokens if self.vectors is None else self.vectors
        assert stored is not None  # a segment has at least one of the two
        return stored

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """(N, 32) uint8, SHA-256 of each image file."""
        with self._open() as file:
            return np.asarray(file["digests"][()])

    @cached_property
    def roots(self) -> list[str]:
        """N path hints: where each image was."""
        with self._open() as file:
            names = _texts(file["root_names"])
            return [names[number] for number in file["roots"][()]]

    @cached_property
    def metadata(self) -> dict[str, list[str]]:
        """Column -> N values, "" for none."""
        with self._open() as file:
            return {_unescape(name): _texts(dataset) for name, dataset in file["metadata"].items()}

    def metadata_of(self, row: int) -> dict[str, str]:
        """Column -> value of one row, without empty values."""
        return {column: values[row] for column, values in self.metadata.items() if values[row]}

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CorruptIndexError(f"{self.path} cannot be read: {reason}; restore it from a copy") from error


def _mapped(whole: NDArray[np.uint8], shape: tuple[int, ...], kind: np.dtype[Any], offset: int | None) -> Stored:
    if offset is None:  # an empty dataset has no place in the file
        return np.zeros(shape, kind)
    size = kind.itemsize * int(np.prod(shape))
    mapped: Stored = np.asarray(whole[offset : offset + size]).view(kind).reshape(shape)
    return mapped


def _bytes(texts: Sequence[str]) -> NDArray[Any]:
    # File names need not be valid UTF-8; Python's surrogate escapes carry them through.
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=object)


def _texts(dataset: h5py.Dataset) -> list[str]:
    return [value.decode("utf-8", "surrogateescape") for value in dataset[()]]


def _escape(column: str) -> str:
    # "/" and "." have meanings in HDF5 names.
    return column.replace("%", "%25").replace("/", "%2F").replace(".", "%2E")


def _unescape(name: str) -> str:
    return name.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


@contextmanager
def _hdf5_errors() -> Iterator[None]:
    """HDF5 reports a full disk as OSError or, when closing, as RuntimeError with the number in its text."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None) or errno.EIO
        raise OSError(number, " ".join(str(error).split())) from error
