"""What an actor of Ray does in `cir serve --ray`: it holds the segments of one part, and searches them."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray

from cir.arrays import unit
from cir.indexer.reading.exact import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.part_gallery import open_part_gallery, part_ranking
from cir.indexer.reading.ranking import RankingOptions, Search
from cir.indexer.reading.spread import Offers, Pointer, Questions, offers_of
from cir.indexer.storage.generations import DamagedSegment
from cir.indexer.storage.manifest import Manifest
from cir.query_vectors import QueryVectors

log = logging.getLogger(__name__)

_PROBE_ROWS, _PROBE_DIMS = 65_536, 128  # 16 MB: more than a core's cache
_PROBES = 5
_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Measured:
    """What an actor has measured where it runs.

    Attributes:
        process: its id.
        node: the id of the node of Ray.
        memory: bytes that are available on the machine, or to the container.
        speed: bytes of vectors that it scans in a second, while the other actors do the same.
    """

    process: int
    node: str
    memory: int
    speed: float


class Shard:
    """The segments of one part of a gallery, of each generation that is in use.

    Ray makes it again when its process ends; it then has nothing open until `open` is called.

    Args:
        path: the index folder, or its URL.
        ann_min_rows: as for `Gallery.open`.
        device: as for `Gallery.open`.
    """

    def __init__(self, path: str, ann_min_rows: int, device: str) -> None:
        self._path, self._ann_min_rows, self._device = path, ann_min_rows, device
        self._open: dict[Pointer, Gallery] = {}
        self._lock = threading.Lock()  # `open` has a thread of its own, so that searches go on meanwhile

    def measure(self) -> Measured:
        """Memory and speed of this place."""
        vectors = np.random.default_rng(0).standard_normal((_PROBE_ROWS, _PROBE_DIMS)).astype(np.float16)
        query = unit(vectors[:1].astype(np.float32))
        times = []
        for _ in range(_PROBES):
            started = time.perf_counter()
            scan(vectors, query, 10)
            times.append(time.perf_counter() - started)
        return Measured(os.getpid(), self.where(), available_memory(), vectors.nbytes / min(times))

    def where(self) -> str:
        """The id of the node of Ray."""
        return str(ray.get_runtime_context().get_node_id())

    def open(self, pointer: Pointer, manifest: Manifest, names: tuple[str, ...]) -> tuple[DamagedSegment, ...]:
        """Open segments of a generation beside those that are open, approximate indexes included.

        Args:
            pointer: of the generation.
            manifest: of the generation.
            names: of the segments.

        Returns:
            Those that are damaged, which are left out.

        Raises:
            CorruptIndexError: a mapping of the generation is damaged, or no longer kept.
        """
        with self._lock:
            gallery, before = self._open.get(pointer), self._open.get(max(self._open, default=(0, "")))
        if gallery is None:
            gallery = open_part_gallery(self._path, pointer, manifest, names, before, self._ann_min_rows, self._device)
            _warm(gallery)
            with self._lock:
                self._open[pointer] = gallery
        return gallery.damaged

    def close(self, pointer: Pointer) -> None:
        """Let a generation go."""
        with self._lock:
            self._open.pop(pointer, None)

    def answer(self, pointer: Pointer, questions: Questions) -> Offers | None:
        """Candidates and scores from this part of a generation; None if it is not open."""
        with self._lock:
            gallery = self._open.get(pointer)
        return None if gallery is None else offers_of(part_ranking(gallery), questions)


def available_memory() -> int:
    """Bytes of memory that can be filled here: free ones, and those of files that may be read again."""
    lines = Path("/proc/meminfo")
    if not lines.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = dict(line.split(":", 1) for line in lines.read_text("ascii").splitlines())
    available = int(values["MemAvailable"].split()[0]) * 1024
    limits = [path.read_text("ascii").strip() for path in _MEMORY if path.exists()]
    return min([available, *(int(limit) for limit in limits if limit.isdecimal())])


def _warm(gallery: Gallery) -> None:
    """Load and compute what the first search would wait for."""
    ranking = part_ranking(gallery)
    spaces = {space: gallery.manifest.spaces[space].dims for space in ranking.query_spaces}
    query = QueryVectors({space: unit(np.ones((1, dims), np.float32)) for space, dims in spaces.items()})
    search = Search(query, RankingOptions(1), [np.empty(0, np.int64)])
    if spaces:
        ranking.candidates(search, ranking.stages(search.options, search.excluded))
