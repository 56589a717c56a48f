"""Search over actors of Ray: the same answers as in one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

import ray

from cir.cluster.assignment import Capacity, assigned, overfull, placed
from cir.cluster.searching import Parts
from cir.cluster.session import joined
from cir.errors import UsageError
from cir.indexer.reading.coverage import Covered, search_covered
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import IndexFolder
from cir.query_vectors import QueryVectors
from cir.testing.fakes import DIMS, TOKENS, make_index, random_rows, unit_rows
from cir.testing.gallery import ExpectedImage, GalleryTests, Made
from cir.testing.spread import attempts

IDS = [f"{number * 7919 % 10007:05d}" for number in range(900)]
ANN_MIN_ROWS = 150
WAIT = 300.0  # seconds within which an actor answers, however busy the machine is


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # as `cir serve` does; else a busy machine hardly runs the actors
        with joined("local", 2):
            yield


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six segments of 150 images with vectors and tokens; equal vectors are in several of them."""
    segments = [random_rows(IDS[start::6], seed=start // 2, tokens=TOKENS) for start in range(6)]
    return make_index(tmp_path_factory.mktemp("spread") / "x.index", segments, TOKENS)


def queries(gallery: Gallery, count: int) -> QueryVectors:
    vectors = unit_rows(np.random.default_rng(5).standard_normal((count, DIMS)))
    return QueryVectors({gallery.space.id: vectors})


Hits = list[list[tuple[str, float]]]
WAYS = [(exact, filtered) for exact in (True, False) for filtered in (True, False)]
EXCLUDE = [set(IDS[row : row + row % 5]) for row in range(1000)]


def options_of(gallery: Gallery, exact: bool, filtered: bool) -> RankingOptions:
    return RankingOptions(10, gallery.select("colour=red") if filtered else None, exact)


@pytest.fixture(scope="module")
def in_one_process(index: Path) -> dict[tuple[bool, bool], Hits]:
    """What one process answers to a thousand queries, exactly or not, with a filter or without one."""
    whole = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS)
    wanted = queries(whole, 1000)
    return {way: whole.search(wanted, options_of(whole, *way), exclude=EXCLUDE) for way in WAYS}


@pytest.mark.parametrize("count", [2, 4])
def test_a_thousand_queries(index: Path, in_one_process: dict[tuple[bool, bool], Hits], count: int) -> None:
    with Parts(index, parts=count, deadline=WAIT, ann_min_rows=ANN_MIN_ROWS) as parts:
        spread = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS, spread=parts)
        for way, expected in in_one_process.items():
            found = search_covered(spread, queries(spread, 1000), options_of(spread, *way), EXCLUDE)
            assert found.coverage == 1
            assert found.hits == expected


@pytest.mark.long
def test_approximate_indexes_are_made_by_the_actors(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = make_index(tmp_path / "x.index", [random_rows(IDS[start:600:2], seed=start) for start in range(2)])
    with Parts(index, parts=2, deadline=WAIT, ann_min_rows=ANN_MIN_ROWS) as parts:
        spread = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS, spread=parts)
        assert len(list(index.glob("segments/*/ann.faiss"))) == 2
        assert spread.search(queries(spread, 3), RankingOptions(5))
        assert all(segment._ann is None for segment in spread._segments)


class TestOnRay(GalleryTests):
    """What every gallery must do."""

    @classmethod
    def make_gallery(cls, folder: Path) -> Made:
        segments = [random_rows([f"{row:03d}" for row in range(start, 90, 3)], start) for start in range(3)]
        index = make_index(folder / "x.index", segments)
        images = []
        for segment in segments:
            assert segment.vectors is not None
            assert segment.metadata is not None
            for row, image_id in enumerate(segment.ids):
                images.append(ExpectedImage(image_id, segment.vectors[row], segment.metadata[row]))
        return Made(Gallery.open(index, spread=Parts(index, parts=2, deadline=WAIT)), images)


def covered(gallery: Gallery) -> Covered:
    return search_covered(gallery, queries(gallery, 2), RankingOptions(10))


def until_covered(gallery: Gallery) -> Covered:
    """The first answer of the whole gallery."""
    return next(found for _ in attempts("all parts answer") if (found := covered(gallery)).coverage == 1)


def until_ready(parts: Parts, gallery: Gallery) -> None:
    """Wait until all replicas can answer."""
    for _ in attempts("all replicas are ready"):
        parts.tend()
        if all(replica.can_answer(gallery._opened.pointer) for replica in parts._every()):
            return


def test_a_lost_actor_is_left_out_and_comes_again(index: Path) -> None:
    expected = covered(Gallery.open(index))
    with Parts(index, parts=3, deadline=WAIT) as parts:
        gallery = Gallery.open(index, spread=parts)
        (replica,) = parts._replicas[1]
        os.kill(ray.get(replica.measure()).process, signal.SIGKILL)
        found = next(found for _ in attempts("it is gone") if (found := covered(gallery)).coverage < 1)
        lost = set(parts.parts(gallery._opened.pointer)[1])
        left = sum(entry.rows for entry in gallery.entries if entry.name not in lost)
        assert found.coverage == pytest.approx(left / len(gallery))
        assert found.searched == left
        assert until_covered(gallery) == expected


@pytest.mark.long
def test_another_replica_answers_for_a_lost_one(index: Path) -> None:
    expected = covered(Gallery.open(index))
    with Parts(index, parts=2, replicas=2, deadline=WAIT) as parts:
        gallery = Gallery.open(index, spread=parts)
        until_ready(parts, gallery)
        os.kill(ray.get(parts._replicas[0][0].measure()).process, signal.SIGKILL)
        for _ in range(30):
            assert covered(gallery) == expected


def test_an_actor_that_is_late_is_left_out_at_the_deadline(index: Path) -> None:
    expected = covered(Gallery.open(index))
    with Parts(index, parts=2, deadline=WAIT) as parts:
        gallery = Gallery.open(index, spread=parts)
        process = ray.get(parts._replicas[0][0].measure()).process
        parts.deadline = 0.3
        os.kill(process, signal.SIGSTOP)
        try:
            assert 0 < covered(gallery).coverage < 1
            assert not parts._replicas[0][0].can_answer(gallery._opened.pointer)
            parts.deadline = WAIT
            assert 0 < covered(gallery).coverage < 1  # at once: it is not waited for a second time
        finally:
            os.kill(process, signal.SIGCONT)
        assert until_covered(gallery) == expected


@pytest.mark.long
def test_a_slow_replica_is_joined_by_another(index: Path) -> None:
    expected = covered(Gallery.open(index))
    with Parts(index, parts=1, replicas=2, deadline=WAIT) as parts:
        gallery = Gallery.open(index, spread=parts)
        until_ready(parts, gallery)
        process = ray.get(parts._replicas[0][0].measure()).process
        parts.deadline = 4.0
        os.kill(process, signal.SIGSTOP)
        try:
            assert [covered(gallery) for _ in range(2)] == [expected] * 2
        finally:
            os.kill(process, signal.SIGCONT)


@pytest.mark.long
def test_damage_is_found_by_the_actors(index: Path, tmp_path: Path) -> None:
    other = make_index(tmp_path / "x.index", [random_rows(IDS[start:300:2], seed=start) for start in range(2)])
    path = IndexFolder(other).gallery("000002")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with Parts(other, parts=2, replicas=2, deadline=WAIT) as parts:
        gallery = Gallery.open(other, spread=parts)
        assert ([each.name for each in gallery.damaged], len(gallery)) == (["000002"], 150)
        assert covered(gallery) == covered(Gallery.open(other))


def test_senseless_numbers_are_refused(index: Path) -> None:
    for numbers in ({"parts": 0}, {"parts": 1, "replicas": 0}, {"parts": 1, "deadline": 0}):
        with pytest.raises(UsageError, match="give one or more of each"):
            Parts(index, **numbers)  # type: ignore[arg-type]


def test_replicas_are_on_different_nodes() -> None:
    assert placed(4, 1, ["a", "b"]) == [["a"], ["b"], ["a"], ["b"]]
    for parts, replicas, nodes in ((4, 2, "ab"), (3, 2, "abc"), (4, 3, "abcd"), (5, 2, "abcde")):
        places = placed(parts, replicas, list(nodes))
        assert all(len(set(there)) == replicas for there in places)
        counts = [sum(there.count(node) for there in places) for node in nodes]
        assert max(counts) - min(counts) <= 1
    assert placed(2, 2, ["a"]) == [["a", "a"], ["a", "a"]]


def test_segments_are_assigned_by_speed_and_memory() -> None:
    sizes = {f"{number:06d}": 10 for number in range(30)}
    fast, slow = Capacity(10**9, 20.0), Capacity(10**9, 10.0)
    assert list(map(len, assigned(sizes, [fast, slow]))) == [20, 10]
    small = Capacity(50, 20.0)
    names = assigned(sizes, [small, slow])
    assert list(map(len, names)) == [5, 25]
    assert overfull(names, sizes, [small, slow]) == []
    names = assigned(sizes, [small, Capacity(100, 10.0)])
    assert sorted(name for part in names for name in part) == sorted(sizes)
    assert overfull(names, sizes, [small, Capacity(100, 10.0)]) == [0, 1]
    kept = {"000003": 1, "000004": 1, "gone": 0}
    names = assigned(sizes, [fast, fast], kept)
    assert {"000003", "000004"} <= set(names[1])
    assert list(map(len, names)) == [15, 15]
