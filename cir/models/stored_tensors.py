"""The tensors of a model directory in numpy, each read when it is first asked for. Without torch."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.errors import WeightsError
from cir.models.folder import WEIGHTS, tensor_files
from cir.models.tensor_file import TensorEntry

WORDS = "embeddings.word_embeddings.weight"
SCALE = "embeddings.word_embeddings.scale"  # of words in int8: one float16 for each row
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}


class StoredTensors:
    """Tensors by name. Safe to call from several threads.

    Floats of any precision are given in float32. The word embedding of a compact model stays in int8, and its scale in
    float16: few of its rows are needed for a caption.

    Args:
        directory: of a model.

    Raises:
        WeightsError: a file is missing, its header is broken, or two files hold a tensor of the same name.
    """

    def __init__(self, directory: Path) -> None:
        self.files = tensor_files(directory)
        self._places: dict[str, tuple[Path, int, TensorEntry]] = {}
        for path, header in self.files.items():
            for name, entry in header.tensors.items():
                if name in self._places:
                    raise WeightsError(f"{path}: {name} is in {WEIGHTS} too; copy the whole model directory again")
                self._places[name] = path, header.start, entry
        self._bytes: dict[Path, NDArray[np.uint8]] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each tensor -> its shape."""
        return {name: entry.shape for name, (_, _, entry) in self._places.items()}

    def array(self, name: str) -> NDArray[Any]:
        """A tensor, contiguous; the same array at every call.

        Raises:
            WeightsError: it is not there, or holds values that are not finite.
        """
        with self._lock:
            if name not in self._arrays:
                if name not in self._places:
                    raise WeightsError(f"{next(iter(self.files))}: {name} is missing; copy the whole directory again")
                self._arrays[name] = self._read(name, *self._places[name])
            return self._arrays[name]

    def _read(self, name: str, path: Path, start: int, entry: TensorEntry) -> NDArray[Any]:
        if entry.dtype not in _TYPES or (entry.dtype == "I8" and name != WORDS):
            raise WeightsError(f"{path}: {name} holds {entry.dtype}, not floats; copy the model again")
        try:
            if path not in self._bytes:
                self._bytes[path] = np.memmap(path, np.uint8, mode="r")
            first, end = (start + offset for offset in entry.data_offsets)
            values: NDArray[Any] = self._bytes[path][first:end].view(_TYPES[entry.dtype]).reshape(entry.shape)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path}: cannot be read: {error}; copy it again") from None
        if entry.dtype == "I8":
            return values
        if entry.dtype == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if name != SCALE:
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise WeightsError(
                f"{path}: {name} holds values that are not finite; copy the model again, or train it anew"
            )
        return values
