"""The approximate index of one large segment. It is derived from the vectors, and keeps a promise about what it finds.

An inverted file of product codes finds candidates, and the caller scores them again from the stored vectors. A code
has 4 bits for two dims, and FAISS looks 32 codes up at once in a processor's registers. 8 bits for each dim need fewer
candidates, and take longer to scan. How many lists are scanned and how many candidates are fetched follows from the
recall that is wanted and from a curve that was measured when the index was built (`ann_curve`). Codes are mapped from
the file and not copied.

A file that is lost, stale or damaged is built again. faiss opens an index with flipped bytes without an error, so its
digest is stored beside it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Floats, Mask, Rows, Stored
from cir.errors import DataError, MissingDependencyError
from cir.files import write_atomically
from cir.indexer.reading.ann_curve import RESCORE, Curve, Point, measure
from cir.indexer.reading.lists import PER_LIST, centres_of, list_count, nearest_of
from cir.indexer.storage.derived import measured_of, problem_of, write_record
from cir.typed_json import from_json, to_json

ANN_MIN_ROWS = 100_000  # below, an exhaustive scan runs at memory speed
FILE = "ann.faiss"
_ADD_ROWS = 65_536
_CODE_ROWS = 16_384  # vectors from which the codes are learnt
_CODE_ROUNDS = 8
_CODE_BITS = 4
_GPU_MAX_K = 2048
_EFFORTS = 1000  # that are remembered: choosing one looks at every point of the curve
_WRITTEN = 1 << 20  # bytes at a time

log = logging.getLogger(__name__)


class Ann:
    """An index over the (N, D) vectors of a segment, for inner products. Safe to share between threads.

    Attributes:
        curve: what it finds for which effort.
    """

    def __init__(self, index: Any, curve: Curve, name: str, vectors: Stored) -> None:
        """Use `load_or_build`."""
        self.curve = curve
        self._name = name
        self._index = to_gpus(index, vectors)
        self._on_gpu = self._index is not index
        self._rows = int(index.ntotal)
        self._efforts: dict[tuple[int, int, float], Point | None] = {}
        self._parameters: dict[int, Any] = {}  # by nprobe, without a filter; a search only reads them
        self._lock = Lock()
        self._warned = False

    def effort(self, count: int, rows_left: int, recall: float) -> Point | None:
        """The effort that keeps the promise for a search, or None: scan the rows exactly.

        That is so when no effort reaches the recall, and when a scan of the rows that a filter leaves is cheaper.

        Args:
            count: rows wanted per query.
            rows_left: how many rows may be found.
            recall: wanted, up to 1.
        """
        asked = count, rows_left, recall
        if asked not in self._efforts:
            if len(self._efforts) >= _EFFORTS:
                self._efforts.clear()
            self._efforts[asked] = self._effort(*asked)
        return self._efforts[asked]

    def _effort(self, count: int, rows_left: int, recall: float) -> Point | None:
        effort = self.curve.effort(count, max(1, rows_left) / self._rows, recall)
        if effort is None:
            if rows_left == self._rows and count <= self.curve.depths[0] and not self._warned:
                self._warned = True
                best = max(point.lower[0] for point in self.curve.points)
                log.warning(
                    "%s: the recall of the approximate index is at least %.3f (95 %% lower bound), and %.3f is wanted; "
                    "this part of the index is searched exactly, which is slower",
                    self._name,
                    best,
                    recall,
                )
            return None
        if self._on_gpu and count * effort.overfetch * self._rows > _GPU_MAX_K * rows_left:
            return None  # more candidates than GPUs give, of which a filter leaves some
        return None if RESCORE * rows_left <= self.curve.cost(effort, count) else effort

    def search(
        self, queries: Floats, count: int, effort: Point, usable: Mask | NDArray[np.uint8] | None = None
    ) -> Rows:
        """Candidates for the best rows of each query, best first by approximate score; to be scored again.

        Args:
            queries: (B, D) float32, unit-norm.
            count: rows wanted per query; `effort.overfetch` times as many are returned.
            effort: from `effort`.
            usable: (N,) which rows may be returned, or the same as bits (`np.packbits(usable, bitorder="little")`),
                which need not be packed for each search; None for all.

        Returns:
            (B, m) rows, -1 where there are no more.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        count = min(count * effort.overfetch, self._rows)
        if self._on_gpu:
            return self._search_gpu(queries, count, effort.nprobe, usable)
        if usable is None:
            parameters = self._parameters.get(effort.nprobe)
            if parameters is None:
                parameters = self._parameters[effort.nprobe] = _faiss().SearchParametersIVF(nprobe=effort.nprobe)
        else:
            faiss = _faiss()
            bits = np.packbits(usable, bitorder="little") if usable.dtype == np.bool_ else usable
            parameters = faiss.SearchParametersIVF(nprobe=effort.nprobe, sel=faiss.IDSelectorBitmap(bits))
        # Parameters of the call, not of the index, which threads share.
        rows: Rows = self._index.search(queries, count, params=parameters)[1]
        return rows

    def _search_gpu(self, queries: Floats, count: int, nprobe: int, usable: Mask | NDArray[np.uint8] | None) -> Rows:
        """GPU indexes take no selector: fetch as many more as the unusable rows may fill."""
        mask, fetch = None, count
        if usable is not None:
            bits = usable.view(np.uint8)
            mask = usable if usable.dtype == np.bool_ else np.unpackbits(bits, count=self._rows, bitorder="little") > 0
            fetch = math.ceil(count * self._rows / max(1, int(np.count_nonzero(mask)))) + count
        with self._lock:  # several GPUs take no parameters of the call
            _faiss().GpuParameterSpace().set_index_parameter(self._index, "nprobe", nprobe)
            rows: Rows = self._index.search(queries, min(fetch, self._rows, _GPU_MAX_K))[1]
        return rows if mask is None else np.where((rows >= 0) & mask[rows], rows, -1)


def suits(rows: int, min_rows: int) -> bool:
    """Whether a segment of so many rows gets an approximate index, where `min_rows` are asked for."""
    return rows >= max(min_rows, 1 << _CODE_BITS)


def to_gpus(index: Any, vectors: Stored) -> Any:
    """An index of the same lists on all GPUs, or the index itself without a GPU.

    GPUs do not know its codes: they get codes of 8 bits for each dim, which find at least as much for the same effort.
    GPUs are counted first: without one `faiss-gpu` returns an empty index, and `faiss-cpu` raises NameError.
    """
    faiss = _faiss()
    if faiss.get_num_gpus() == 0:
        return index
    kind, metric = faiss.ScalarQuantizer.QT_8bit, index.metric_type
    centres = faiss.clone_index(index.quantizer)  # the index that owns it is let go
    empty = faiss.IndexIVFScalarQuantizer(centres, index.d, index.nlist, kind, metric)
    empty.train(_sample(vectors, _CODE_ROWS))
    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True
    there = faiss.index_cpu_to_all_gpus(empty, co=options)
    for start in range(0, len(vectors), _ADD_ROWS):
        there.add(vectors[start : start + _ADD_ROWS].astype(np.float32))
    return there


def load_or_build(
    folder: Path, origin: str, vectors: Stored, queries: Callable[[], Floats | None] = lambda: None
) -> Ann:
    """The index of a segment: read if the file is sound and not stale; otherwise built, and stored if possible.

    Args:
        folder: the segment's folder.
        origin: digest of what the index must derive from: of the segment file, or of mapped vectors.
        vectors: (N, D), N at least 1.
        queries: gives (Q, D) float32, unit-norm: real queries on which recall is measured too; called if it is built.

    Raises:
        MissingDependencyError: faiss is not installed.
    """
    _faiss()
    stored = _read(folder, origin, vectors)
    if stored is not None:
        return stored
    log.info("building the approximate index of %s", folder)
    index = _build(vectors)
    curve = measure(vectors, index.nlist, lambda rows, nprobe, count: _probe(index, rows, nprobe, count), queries())
    try:
        with write_atomically(folder / FILE, need=vectors.size) as temporary, temporary.open("wb") as file:
            faiss = _faiss()  # which prints what goes wrong when it closes a file of its own
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, _WRITTEN))
        write_record(folder / FILE, origin, to_json(curve))
    except (DataError, OSError, RuntimeError) as error:  # a reader may have no right to write; faiss: RuntimeError
        log.warning("the approximate index of %s could not be stored: %s", folder, error)
        return Ann(index, curve, str(folder), vectors)
    # Mapped, so that the copy in memory is let go.
    return _read(folder, origin, vectors) or Ann(index, curve, str(folder), vectors)


def stored_curve(folder: Path) -> Curve | None:
    """What was measured on the stored index of a folder, whether or not it is stale; None without one."""
    try:
        return from_json(Curve, measured_of(folder / FILE))
    except (OSError, ValueError):
        return None


def _read(folder: Path, origin: str, vectors: Stored) -> Ann | None:
    """The stored index of some vectors; None if there is none, or none that can be used."""
    path = folder / FILE
    try:
        problem = problem_of(path, [origin])
        if problem is None:
            curve = from_json(Curve, measured_of(path))
            faiss = _faiss()
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            kind = type(index).__name__, index.metric_type, (index.ntotal, index.d)
            same = kind == ("IndexIVFPQFastScan", faiss.METRIC_INNER_PRODUCT, vectors.shape)
            if same and (index.nlist, index.ntotal) == (curve.lists, curve.rows):
                return Ann(index, curve, str(folder), vectors)
            problem = f"{path} is an index of something else"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError) as error:  # faiss raises RuntimeError
        problem = f"{path} cannot be read: {' '.join(str(error).split())[:200]}"
    log.warning("%s; it is built again", problem)
    return None


def _build(vectors: Stored) -> Any:
    faiss = _faiss()
    rows, dims = vectors.shape
    lists = list_count(rows)
    codes = dims // 2 if dims % 2 == 0 else dims
    # "np": not ordered for polysemous search, which is not used here; it is slow, however few vectors there are.
    index = faiss.index_factory(dims, f"IVF{lists},PQ{codes}x{_CODE_BITS}np", faiss.METRIC_INNER_PRODUCT)
    centres = centres_of(_sample(vectors, PER_LIST * lists), lists)
    index.quantizer.add(centres)
    index.pq.cp.niter = _CODE_ROUNDS
    index.pq.cp.min_points_per_centroid = 1  # else it warns on stderr about small segments, once for each two dims
    sample = _sample(vectors, _CODE_ROWS)
    # Of the codes; the lists are trained. Fewer vectors than values of a code are refused, so they are repeated.
    index.train(np.resize(sample, (max(len(sample), 1 << _CODE_BITS), dims)))
    for start in range(0, rows, _ADD_ROWS):
        values = vectors[start : start + _ADD_ROWS].astype(np.float32)
        nearest = nearest_of(values, centres)
        index.add_core(len(values), faiss.swig_ptr(values), None, faiss.swig_ptr(nearest))
    packed = faiss.IndexIVFPQFastScan(index)  # the same codes, 32 side by side
    index.own_fields, packed.own_fields = False, True  # of the centres, which both use
    return packed


def _sample(vectors: Stored, count: int) -> Floats:
    """(n, D) float32: at most `count` of the vectors, evenly spread."""
    rows = np.unique(np.linspace(0, len(vectors) - 1, num=min(len(vectors), count), dtype=np.int64))
    sample: Floats = vectors[rows].astype(np.float32)
    return sample


def _probe(index: Any, queries: Floats, nprobe: int, count: int) -> Rows:
    parameters = _faiss().SearchParametersIVF(nprobe=nprobe)
    rows: Rows = index.search(np.ascontiguousarray(queries), min(count, index.ntotal), params=parameters)[1]
    return rows


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError(
            "an approximate index needs faiss; install exactly one of: pip install 'cir-engine[cpu]', "
            "'cir-engine[gpu]' (CUDA 12), 'cir-engine[cuvs]' (CUDA 13)"
        ) from None
    return faiss
