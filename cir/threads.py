"""Work in batches on several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from cir.forks import inherited

T = TypeVar("T")
_THREADS = Path("/proc/self/task")
_LOAD = Path("/proc/loadavg")  # Linux; its fourth field is "threads that run now/threads", on the whole machine

_limit_lock = Lock()
_limiting = 0  # callers in `one_thread_in_blas`
_limit: Any = None


def default_workers() -> int:
    """One worker per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores() -> int:
    """Cores of this process that nothing else computes on at this moment, at least one; all where that is unknown."""
    try:
        running = int(_LOAD.read_text("ascii").split()[3].partition("/")[0])
        own = _own_running()
    except (OSError, ValueError, IndexError):
        return default_workers()
    return max(1, min(default_workers(), (os.cpu_count() or 1) - max(0, running - own)))


@contextmanager
def one_thread_in_blas() -> Iterator[None]:
    """A context in which numpy's products run in the thread that asks for them, in the whole process."""
    global _limiting, _limit
    with _limit_lock:  # the last one out restores what the first one found
        if not _limiting:
            _limit = _controller().limit(limits=1, user_api="blas")
        _limiting += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limiting -= 1
            if not _limiting:
                _limit.restore_original_limits()


@cache
def _controller() -> Any:
    """Of the libraries that are loaded, which are looked for once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _own_running() -> int:
    """Threads of this process that run now; some still wait for work, spinning."""
    running = 0
    for thread in _THREADS.iterdir():
        with suppress(OSError):  # it has ended
            state = (thread / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
            running += state == "R"
    return max(1, running)


def map_batches(
    function: Callable[[slice], T], count: int, size: int, share: Callable[[int], AbstractContextManager[None]]
) -> list[T]:
    """Results of a function over `count` rows in batches, in order, on one thread per core where that pays.

    Args:
        function: rows -> result; called from several threads.
        count: number of rows.
        size: rows per batch.
        share: number of threads -> a context in which they divide the cores among them (`GalleryEncoder.shared_by`).
    """
    function = inherited(function)
    batches = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    workers = max(1, min(default_workers(), len(batches)))
    with share(workers):
        if workers == 1:
            return [function(batch) for batch in batches]
        with ThreadPoolExecutor(workers, thread_name_prefix="cir-batch") as pool:
            return list(pool.map(function, batches))
