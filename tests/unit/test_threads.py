"""How many threads, and results in the order of their rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from cir import devices, threads


def test_a_worker_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.default_workers() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert threads.default_workers() == (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("count", "cores", "shares"), [(0, 4, [1]), (3, 4, [1]), (10, 1, [1]), (10, 4, [4]), (9, 9, [3])]
)
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
    assert (max(shares) > 1) == any(name.startswith("cir-batch") for name in names)


@pytest.mark.parametrize(
    ("load", "mine", "all_cores", "free"),
    [
        ("0.10 0.2 0.3 1/300 77", 2, 2, 2),  # only this thread runs
        ("0.10 0.2 0.3 2/300 77", 2, 2, 1),  # one other job on one of two cores
        ("9.00 9.0 9.0 40/300 77", 2, 2, 1),  # never none
        ("9.00 9.0 9.0 40/300 77", 4, 64, 4),  # a large machine with room for more than this process may use
        ("not what Linux writes", 2, 2, 2),
        (None, 2, 2, 2),
    ],
)
def test_cores_that_another_job_has_are_not_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load: str | None, mine: int, all_cores: int, free: int
) -> None:
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(threads, "default_workers", lambda: mine)
    monkeypatch.setattr(os, "cpu_count", lambda: all_cores)
    monkeypatch.setattr(threads, "_own_running", lambda: 1)
    assert threads.free_cores() == free


def test_threads_of_this_process_are_no_other_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As those of torch that wait for their next work, spinning."""
    for thread, state in (("1", "R"), ("2", "R"), ("3", "S")):
        (tmp_path / "task" / thread).mkdir(parents=True)
        (tmp_path / "task" / thread / "stat").write_text(f"{thread} (a ) b) {state} 1 2 3")
    (tmp_path / "task" / "4").mkdir()  # it has ended
    (tmp_path / "loadavg").write_text("0.10 0.2 0.3 3/300 77")
    monkeypatch.setattr(threads, "_THREADS", tmp_path / "task")
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(threads, "default_workers", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert threads.free_cores() == 1  # one of the three is another job's
    (tmp_path / "loadavg").write_text("0.10 0.2 0.3 2/300 77")
    assert threads.free_cores() == 2


SPINS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize(
    ("set_before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),  # what cir set would overrule it
    ],
)
def test_waiting_threads_spin_briefly_unless_the_user_says_otherwise(
    set_before: dict[str, str], after: dict[str, str]
) -> None:
    """In a fresh process, before torch is loaded: OpenMP reads the variables then, and only then."""
    code = (
        "import builtins, json, os, sys\n"
        "real, seen = builtins.__import__, []\n"
        "def watched(name, *rest, **more):\n"
        "    if name.split('.')[0] in ('torch', 'faiss') and not seen:\n"
        f"        seen.append({{name: os.environ[name] for name in {SPINS} if name in os.environ}})\n"
        "        sys.exit(print(json.dumps(seen[0])))\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = watched\n"
        "import cir.models.encoder"
    )
    environment = {name: value for name, value in os.environ.items() if name not in SPINS} | set_before
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == after


def test_a_core_that_another_job_has_gets_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query beside another job took ten times as long on two threads as on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for free, expected in ((2, 2), (1, 1), (8, 2)):
            monkeypatch.setattr(devices, "free_cores", lambda free=free: free)
            with devices.shared_by(1, torch.device("cpu")):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_blas_has_one_thread_while_anybody_wants_that() -> None:
    def blas() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    before = blas()
    first, second = threads.one_thread_in_blas(), threads.one_thread_in_blas()
    with first:
        second.__enter__()
        assert blas() <= {1}
    assert blas() <= {1}  # the second goes on
    second.__exit__(None, None, None)
    assert blas() == before
