"""How many threads, and results in the order of their rows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cir import threads


def test_a_worker_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.default_workers() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert threads.default_workers() == (os.cpu_count() or 1)


@pytest.mark.parametrize(("count", "cores", "shares"), [(0, 4, []), (3, 4, []), (10, 1, []), (10, 4, [4]), (9, 9, [3])])
def test_batches_are_shared_among_threads_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, count: int, cores: int, shares: list[int]
) -> None:
    monkeypatch.setattr(threads, "default_workers", lambda: cores)
    seen, names = [], set()

    @contextmanager
    def share(workers: int) -> Iterator[None]:
        seen.append(workers)
        yield

    def rows(batch: slice) -> list[int]:
        names.add(threading.current_thread().name)
        return list(range(count))[batch]

    results = threads.map_batches(rows, count, 3, share)
    assert [row for batch in results for row in batch] == list(range(count))
    assert all(len(batch) == 3 for batch in results[:-1])
    assert seen == shares
    assert bool(shares) == any(name.startswith("cir-batch") for name in names)
