"""A search in a forked process answers; a fork waits for searches; a searcher goes to another process by its path."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from cir import Query, build_index, forks, load_model, open_index
from cir.errors import UsageError
from cir.forks import no_fork
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.models.computing import compute
from cir.search import Searcher
from cir.threads import map_batches

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # of Python 3.12 on
]


@pytest.fixture(scope="module")
def path(wardrobe_folder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("forks") / "my.index"
    build_index(scan([wardrobe_folder]), out, load_model(tiny_model))
    return out


@pytest.fixture
def searcher(path: Path) -> Searcher:
    return open_index(path)


@pytest.fixture
def many_threads() -> Iterator[None]:
    """Libraries that share their loops among threads, whatever the machine and the environment."""
    import faiss
    import torch

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(4)
    faiss.omp_set_num_threads(4)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


def in_a_fork(work: Callable[[], object], seconds: int = 30) -> object:
    """What `work` gives in a forked process: anything that can be pickled. A process that hangs is killed."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(seconds)
            os.write(write, pickle.dumps(work()))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    assert data, "the forked process has hung or failed"
    return pickle.loads(data)


def fork_is_due() -> bool:
    """Wait until another thread waits to fork."""
    end = time.monotonic() + 30
    while not forks._forking and time.monotonic() < end:
        os.sched_yield()
    return bool(forks._forking)


def hits(searcher: Searcher, *queries: Query) -> list[list[str]]:
    return [[hit.id for hit in result.hits] for result in searcher.search_many(queries)]


def large_sums() -> tuple[float, int]:
    """Loops that torch and faiss share among threads."""
    import faiss
    import numpy as np
    import torch

    rows = np.random.default_rng(0).standard_normal((4096, 16)).astype(np.float32)
    index = faiss.index_factory(16, "IVF16,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    return float(torch.ones(3_000_000).exp().sum()), int(index.search(rows[:64], 3)[1].sum())


def test_torch_and_faiss_compute_after_a_fork(searcher: Searcher, many_threads: None) -> None:
    hits(searcher, Query(text="red"))
    expected = large_sums()
    # Another number of threads adds in another order.
    assert in_a_fork(large_sums) == pytest.approx(expected, rel=1e-4)


def test_all_kinds_of_searches_answer_after_a_fork(
    searcher: Searcher,
    path: Path,
    wardrobe_folder: Path,
    tmp_path: Path,
    many_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cir.threads.default_workers", lambda: 3)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in searcher.ids[:6]:
            archive.write(wardrobe_folder / name, name)
    names = [*searcher.ids[:6], *(f"{tmp_path}/photos.zip/{name}" for name in searcher.ids[:6])]
    queries = [Query(name, text, negatives="blue") for name in names for text in ("in red", "with long sleeves", "")]
    approximate = Searcher(Gallery.open(path, ann_min_rows=4), lambda card: searcher.encoder)

    def work() -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            one_by_one = list(pool.map(lambda query: hits(searcher, query)[0], queries[::3]))
        exact = [[hit.id for hit in searcher.search(query, exact=True).hits] for query in queries[:3]]
        return [hits(searcher, *queries), one_by_one, exact, hits(approximate, *queries[:9])]

    expected = work()
    assert in_a_fork(work) == expected
    assert work() == expected  # the child has moved no place in the parent's open files


def test_a_fork_waits_for_searches_of_other_threads(searcher: Searcher, many_threads: None) -> None:
    queries = [Query(name, "in red") for name in searcher.ids[:20]]
    expected, enough = hits(searcher, *queries), threading.Event()
    failures: list[object] = []

    def search() -> None:
        while not enough.is_set():
            found = hits(searcher, *queries)
            if found != expected:
                failures.append(found)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert in_a_fork(lambda: hits(searcher, *queries)) == expected
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_no_lock_of_another_thread_is_held_in_a_child() -> None:
    lock, entered, forked = threading.Lock(), threading.Event(), []

    def work() -> None:
        with no_fork, lock:
            entered.set()
            forked.append(fork_is_due())

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()

    def free() -> bool:
        with no_fork:
            return lock.acquire(timeout=5)

    assert in_a_fork(free) is True
    thread.join()
    assert forked == [True]


def test_threads_that_a_search_waits_for_do_not_wait_for_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that is due holds new searches up, but not the threads of one that runs."""
    monkeypatch.setattr("cir.threads.default_workers", lambda: 2)
    monkeypatch.setattr(forks, "PATIENCE", 300)
    begun = threading.Event()

    def batch(rows: slice) -> int:
        begun.set()
        assert fork_is_due()
        with no_fork:
            return rows.start

    def search() -> None:
        with no_fork:
            done.extend(map_batches(batch, 4, 2, lambda workers: no_fork))

    done: list[int] = []
    thread = threading.Thread(target=search)
    thread.start()
    begun.wait()
    assert in_a_fork(lambda: forks._working) == 0  # a child has no other threads
    thread.join()
    assert done == [0, 2]


def test_a_thread_in_a_search_may_fork() -> None:
    with no_fork:
        assert in_a_fork(lambda: forks._working) == 1
    assert forks._working == 0


def test_an_accelerator_is_not_used_after_a_fork() -> None:
    compute(torch.device("cuda"), int)

    def use() -> str:
        with pytest.raises(UsageError) as caught:
            compute(torch.device("cuda"), int)
        return str(caught.value)

    assert "a forked process cannot use its parent's accelerator" in str(in_a_fork(use))


def test_a_searcher_is_sent_as_its_path(
    path: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    searcher = open_index(path.name, model=tiny_model, model_dirs=str(tiny_model.parent), device="cpu")
    expected = hits(searcher, Query(searcher.ids[0], "in red"))
    data = pickle.dumps(searcher)
    assert len(data) < 2000
    monkeypatch.chdir(tmp_path)
    for other in (pickle.loads(data), copy.deepcopy(searcher), pickle.loads(pickle.dumps(pickle.loads(data)))):
        assert other is not searcher
        assert hits(other, Query(searcher.ids[0], "in red")) == expected


def test_a_searcher_made_from_parts_says_that_it_cannot_be_sent(path: Path, tiny_model: Path) -> None:
    searcher = Searcher(Gallery.open(path), lambda card: load_model(tiny_model))
    with pytest.raises(UsageError, match="made from parts cannot be sent to another process"):
        pickle.dumps(searcher)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_pools_of_processes_search(searcher: Searcher, method: str) -> None:
    queries = [Query(text=text) for text in ("red", "blue", "long", "with")]
    expected = [result.hits for result in searcher.search_many(queries)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map_async(searcher.search, queries).get(timeout=120)
    assert [result.query for result in results] == queries
    assert [[hit.id for hit in result.hits] for result in results] == [[hit.id for hit in few] for few in expected]
