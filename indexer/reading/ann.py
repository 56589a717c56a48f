"""The approximate index of one large segment. It is derived from the vectors: a lost one costs a minute to build.

`IVF,SQ8` finds candidates, and the caller scores them again from the stored vectors. A file that is lost, stale or
damaged is built again. faiss opens an index with flipped bytes without an error, so its digest is stored beside it.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.errors import DataError, MissingDependencyError
from cir.files import write_atomically
from cir.indexer.storage.derived import problem_of, write_record

ANN_MIN_ROWS = 100_000  # below, an exhaustive scan runs at memory speed
FILE = "ann.faiss"
_ADD_ROWS = 65_536
_GPU_MAX_K = 2048

log = logging.getLogger(__name__)


class Ann:
    """An index over the (N, D) vectors of a segment, for inner products."""

    def __init__(self, index: Any) -> None:
        self._index = to_gpus(index)
        self._on_gpu = self._index is not index
        self._rows = int(index.ntotal)
        self._nprobe = int(index.nprobe)

    def search(self, queries: Floats, count: int, usable: Mask | None = None) -> Rows:
        """Rows near each query, best first by approximate score.

        Args:
            queries: (B, D) float32, unit-norm.
            count: how many rows per query.
            usable: (N,) which rows may be returned; None for all.

        Returns:
            (B, m) rows, -1 where there are no more; with few usable rows that may be all of them.
        """
        if usable is None or not self._on_gpu:
            return self._search(queries, min(count, self._rows), usable)
        # GPU indexes take no selector: fetch as many more as the unusable rows may fill.
        fetch = min(math.ceil(count * self._rows / max(1, int(usable.sum()))) + count, self._rows, _GPU_MAX_K)
        rows = self._search(queries, fetch, None)
        return np.where((rows >= 0) & usable[rows], rows, -1)

    def _search(self, queries: Floats, count: int, usable: Mask | None) -> Rows:
        queries = np.ascontiguousarray(queries, np.float32)
        if self._on_gpu:
            _, rows = self._index.search(queries, min(count, _GPU_MAX_K))
        else:
            faiss = _faiss()
            options = {"nprobe": self._nprobe}
            if usable is not None:
                bits = np.packbits(usable, bitorder="little")
                options["sel"] = faiss.IDSelectorBitmap(bits)
            # Parameters of the call, not of the index, which threads share.
            _, rows = self._index.search(queries, count, params=faiss.SearchParametersIVF(**options))
        return np.asarray(rows, np.int64)


def to_gpus(index: Any) -> Any:
    """The index on all GPUs, or the index itself without a GPU.

    GPUs are counted first: without one `faiss-gpu` returns an empty index, and `faiss-cpu` raises NameError.
    """
    faiss = _faiss()
    if faiss.get_num_gpus() == 0:
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True
    return faiss.index_cpu_to_all_gpus(index, co=options)


def load_or_build(folder: Path, origin: str, vectors: Stored) -> Ann:
    """The index of a segment: read if the file is sound and not stale; otherwise built, and stored if possible.

    Args:
        folder: the segment's folder.
        origin: digest of what the index must derive from: of the segment file, or of mapped vectors.
        vectors: (N, D), N at least 1.

    Raises:
        MissingDependencyError: faiss is not installed.
    """
    faiss = _faiss()
    stored = _read(folder, origin, vectors)
    if stored is not None:
        return Ann(stored)
    log.info("building the approximate index of %s", folder)
    index = _build(vectors)
    try:
        with write_atomically(folder / FILE, need=vectors.size) as temporary:
            faiss.write_index(index, str(temporary))
        write_record(folder / FILE, origin)
    except (
        DataError,
        RuntimeError,
    ) as error:  # a reader may have no right to write; faiss raises RuntimeError
        log.warning("the approximate index of %s could not be stored: %s", folder, error)
    return Ann(index)


def _read(folder: Path, origin: str, vectors: Stored) -> Any:
    """The stored index of some vectors; None if there is none, or none that can be used."""
    try:
        problem = problem_of(folder / FILE, [origin])
        index = None if problem else _faiss().read_index(str(folder / FILE))
        if index is not None and (index.ntotal, index.d) == vectors.shape and hasattr(index, "nprobe"):
            return index
        problem = problem or f"{folder / FILE} is an index of something else"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError) as error:  # faiss raises RuntimeError
        problem = f"{folder / FILE} cannot be read: {' '.join(str(error).split())[:200]}"
    log.warning("%s; it is built again", problem)
    return None


def _build(vectors: Stored) -> Any:
    faiss = _faiss()
    rows, dims = vectors.shape
    # About 2 sqrt(N) lists, a power of two; k-means wants 39 points per list.
    lists = max(1, min(2 ** round(math.log2(2 * math.sqrt(rows))), rows // 39))
    index = faiss.index_factory(dims, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.unique(np.linspace(0, rows - 1, num=min(rows, 64 * lists), dtype=np.int64))
    index.train(vectors[sample].astype(np.float32))
    for start in range(0, rows, _ADD_ROWS):
        index.add(vectors[start : start + _ADD_ROWS].astype(np.float32))
    index.nprobe = min(lists, max(32, lists // 16))
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError(
            "an approximate index needs faiss; install exactly one of: pip install 'cir-engine[cpu]', "
            "'cir-engine[gpu]' (CUDA 12), 'cir-engine[cuvs]' (CUDA 13)"
        ) from None
    return faiss
