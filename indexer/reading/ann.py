"""The approximate index of one large segment. It is derived from the vectors: a lost one costs a minute to build.

`IVF,SQ8` finds candidates, and the caller scores them again from the stored vectors. A file that is lost, stale or
damaged is built again. faiss opens an index with flipped bytes without an error, so its digest is stored beside it.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.errors import DataError, MissingDependencyError
from cir.files import parse_json, read_regular, sha256_file, write_atomically, write_bytes

ANN_MIN_ROWS = 100_000  # below, an exhaustive scan runs at memory speed
FILE = "ann.faiss"
ORIGIN = "ann.json"
_ADD_ROWS = 65_536
_GPU_MAX_K = 2048

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Digests of the segment file that an index was built from, and of the index file."""

    gallery_sha256: str
    sha256: str


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


def load_or_build(folder: Path, gallery_sha256: str, vectors: Stored) -> Ann:
    """The index of a segment: read if the file is sound and not stale; otherwise built, and stored if possible.

    Args:
        folder: the segment's folder.
        gallery_sha256: digest of the segment file the index must derive from.
        vectors: (N, D), N at least 1.

    Raises:
        MissingDependencyError: faiss is not installed.
    """
    faiss = _faiss()
    if _is_sound(folder, gallery_sha256):
        return Ann(faiss.read_index(str(folder / FILE)))
    log.info("building the approximate index of %s", folder)
    index = _build(vectors)
    try:
        with write_atomically(folder / FILE, need=vectors.size) as temporary:
            faiss.write_index(index, str(temporary))
            digest = sha256_file(temporary)
        write_bytes(folder / ORIGIN, json.dumps(asdict(Origin(gallery_sha256, digest))).encode())
    except (
        DataError,
        RuntimeError,
    ) as error:  # a reader may have no right to write; faiss raises RuntimeError
        log.warning("the approximate index of %s could not be stored: %s", folder, error)
    return Ann(index)


def check_ann(folder: Path, gallery_sha256: str) -> str | None:
    """What is wrong with the approximate index in a folder; None if it is as it was written. Raises OSError.

    Args:
        folder: where it is.
        gallery_sha256: digest of what it must derive from.
    """
    try:
        origin = parse_json(read_regular(folder / ORIGIN, 10_000))
        digest = origin["sha256"] if set(origin) == {"gallery_sha256", "sha256"} else None
        if origin["gallery_sha256"] != gallery_sha256:
            return f"{folder / ORIGIN} is damaged, or of other vectors"
    except (ValueError, TypeError, KeyError):
        digest = None
    if digest is None:
        return f"{folder / ORIGIN} is damaged"
    return None if digest == sha256_file(folder / FILE) else f"{folder / FILE} contradicts its digest"


def _is_sound(folder: Path, gallery_sha256: str) -> bool:
    try:
        origin = parse_json(read_regular(folder / ORIGIN, 10_000))
        sound = bool(origin == asdict(Origin(gallery_sha256, sha256_file(folder / FILE))))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        sound = False
    if not sound:
        log.warning("the approximate index of %s is damaged or stale; it is built again", folder)
    return sound


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
