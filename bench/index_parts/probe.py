"""How fast this machine reads: the same bytes, once, with one core and with all.

A reduction over uint64 views in threads is the lower bound that an exact search is set against. Which reduction is the
fastest depends on the machine, so the fastest of three is taken, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from index_parts.base import Setting, cores, ms, timed

REDUCTIONS = {"or": np.bitwise_or.reduce, "maximum": np.maximum.reduce, "add": np.add.reduce}
TRIES = 5


class Probe:
    """Reads an array once.

    Args:
        array: any contiguous array; it may be mapped.

    Attributes:
        bytes: how many are read.
        reduction: name of the reduction in use.
    """

    def __init__(self, array: np.ndarray) -> None:
        flat = array.reshape(-1).view(np.uint8)
        self._words = flat[: len(flat) // 8 * 8].view(np.uint64)
        self.bytes = self._words.nbytes
        self._pool = ThreadPoolExecutor(cores())
        least = {name: min(timed(lambda f=f: self._read(f)) for _ in range(TRIES)) for name, f in REDUCTIONS.items()}
        self.reduction = min(least, key=least.__getitem__)

    def all_cores(self) -> None:
        """Read with one thread per core."""
        self._read(REDUCTIONS[self.reduction])

    def one_core(self) -> None:
        """Read with one thread."""
        REDUCTIONS[self.reduction](self._words)

    def _read(self, reduce: Callable[[np.ndarray], Any]) -> None:
        # More pieces than threads, so that one that was held up does not hold up all.
        list(self._pool.map(reduce, np.array_split(self._words, 8 * cores())))


def measure(setting: Setting) -> dict[str, Any]:
    """The part `probe`: bandwidth over as many bytes as N x 384 float16, and what lies in the caches."""
    figures: dict[str, Any] = {}
    for name, size in {"vectors": 768 * setting.rows, "64 MB": 64_000_000}.items():
        array = np.frombuffer(np.random.default_rng(0).bytes(size), np.uint8)
        probe = Probe(array)
        taken: dict[str, list[float]] = {"all cores": [], "one core": []}
        for _ in range(setting.rounds):
            taken["all cores"].append(timed(probe.all_cores))
            taken["one core"].append(timed(probe.one_core))
        figures[name] = {
            "bytes": probe.bytes,
            "reduction": probe.reduction,
            **{
                label: {"ms": ms(float(np.median(times))), "gb_per_s": round(probe.bytes / np.median(times) / 1e9, 2)}
                for label, times in taken.items()
            },
        }
    return figures
