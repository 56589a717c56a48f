"""Safetensors files of others: their header is checked before anything is mapped or laid out. Without torch."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from cir.errors import WeightsError
from cir.files import parse_json
from cir.typed_json import Within, from_json

LONGEST_HEADER = 4_000_000  # bytes; the largest published models have 250,000
MOST_TENSORS = 10_000
BYTES = {  # of a number, by the dtypes that models are made of
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
METADATA = "__metadata__"
_Metadata = Mapping[str, str]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header describes it.

    Attributes:
        dtype: such as "F16".
        shape: of its axes.
        data_offsets: its first byte, and the first after it, behind the header.
    """

    dtype: str
    shape: Annotated[tuple[Annotated[int, Within(0, 2**40)], ...], Within(0, 8)]
    data_offsets: tuple[int, int]

    def __post_init__(self) -> None:
        """Raises ValueError for a dtype that no model has, and for offsets that are not of that shape."""
        if self.dtype not in BYTES:
            raise ValueError(f"dtype {self.dtype[:20]!r} is not one of {', '.join(BYTES)}")
        start, end = self.data_offsets
        if start < 0 or end - start != math.prod(self.shape) * BYTES[self.dtype]:
            raise ValueError(f"bytes {start} to {end} are not a {self.dtype} of shape {list(self.shape)}")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself.

    Attributes:
        tensors: by name.
        metadata: as its writer chose.
        start: where the bytes of tensors begin in the file.
    """

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    start: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: entry.shape for name, entry in self.tensors.items()}


def read_header(path: Path) -> Header:
    """The header of a safetensors file, whose tensors fill the rest of the file without gaps or overlaps.

    Takes well below a second and some megabytes, whatever the file holds.

    Raises:
        WeightsError: the file is missing, not a regular file, or not safetensors; one line that names it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise ValueError("a pipe, device or folder")
            return _parse(file, state.st_size)
    except FileNotFoundError:
        raise WeightsError(f"{path.parent}: {path.name} is missing; copy the whole model directory") from None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{path}: not a readable safetensors file: {reason}; copy it again") from None


def _parse(file: BinaryIO, size: int) -> Header:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= size - 8:
        raise ValueError("it is cut off, or something else")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length / 1e6:,.0f} MB")
    content = parse_json(file.read(length))
    if not isinstance(content, dict):
        raise ValueError("its header is not an object")
    metadata: Mapping[str, str] = from_json(_Metadata, content.pop(METADATA, {}))  # type: ignore[type-abstract]
    if len(content) > MOST_TENSORS:
        raise ValueError(f"{len(content):,} tensors, more than {MOST_TENSORS:,}")
    tensors = {name: _entry(name, values) for name, values in content.items()}
    place = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if entry.data_offsets[0] != place:
            raise ValueError(f"{_short(name)} begins at byte {entry.data_offsets[0]}, not at {place}")
        place = entry.data_offsets[1]
    if place != size - 8 - length:
        raise ValueError(f"tensors of {place:,} bytes in a file that has {size - 8 - length:,} for them")
    return Header(tensors, metadata, 8 + length)


def _entry(name: str, values: Any) -> TensorEntry:
    try:
        return from_json(TensorEntry, values)
    except ValueError as error:
        raise ValueError(f"{_short(name)}: {error}") from None


def _short(name: str) -> str:
    return name if name.isprintable() and len(name) <= 120 else ascii(name)[:120]
