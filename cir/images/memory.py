"""How much memory decoding may take: large pictures one after another, and as many workers as fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cir.errors import ImageDecodeError

LARGE = 100_000_000  # bytes; every worker may decode this much at once
PER_WORKER = 300_000_000  # bytes of a worker that decodes pictures reduced: its file, pixels and vectors
PER_WORKER_WHOLE = 800_000_000  # the same where pictures are never reduced
_one_at_a_time = threading.RLock()


@contextmanager
def room_for(need: int) -> Iterator[None]:
    """Entered around work that takes `need` bytes: large work waits for its turn.

    Raises:
        ImageDecodeError: there is not as much memory free.
    """
    if need < LARGE:
        yield
        return
    with _one_at_a_time:
        free = free_memory()
        if free is not None and need > free:
            raise ImageDecodeError(
                f"needs {need / 1e6:,.0f} MB of memory and {free / 1e6:,.0f} MB are free; scale it down"
            )
        yield


def affordable_workers(workers: int, *, reduced: bool) -> int:
    """How many of some workers may decode at once in the memory that is free; at least 1.

    Args:
        workers: as many as there are cores for.
        reduced: whether they decode pictures reduced.
    """
    free = free_memory()
    return workers if free is None else max(1, min(workers, free // (PER_WORKER if reduced else PER_WORKER_WHOLE)))


def free_memory() -> int | None:
    """Bytes that this process may still take, by the system and by its control group; None where that is unknown."""
    free = [value for value in (_system(), _group()) if value is not None]
    return min(free, default=None)


def _system() -> int | None:
    return _field(Path("/proc/meminfo"), "MemAvailable:", 1024)


def _group() -> int | None:
    for folder, limit, used, reclaimable in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            room = int((folder / limit).read_text()) - int((folder / used).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        return max(0, room + (_field(folder / "memory.stat", reclaimable, 1) or 0))
    return None


def _field(path: Path, name: str, unit: int) -> int | None:
    try:
        for line in path.read_text().splitlines():
            key, value = line.split()[:2]
            if key == name:
                return int(value) * unit
    except (OSError, ValueError):
        pass
    return None
