"""The approximate index: derived, rebuilt when lost, on GPUs only where there are some."""

from __future__ import annotations

import builtins
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cir.arrays import Floats, Mask, Rows, Stored
from cir.errors import MissingDependencyError
from cir.indexer.reading import ann
from cir.indexer.reading.exact import rescore, scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.derived import record_of
from cir.indexer.storage.folder import IndexFolder
from cir.query_vectors import QueryVectors
from cir.testing.fakes import DIMS, make_index, random_rows, unit_rows

faiss = pytest.importorskip("faiss")

RECORD = record_of(Path(ann.FILE)).name


def clustered(rows: int, seed: int = 0) -> Stored:
    centres = np.random.default_rng(9).standard_normal((20, DIMS))
    rng = np.random.default_rng(seed)
    return unit_rows(centres[rng.integers(0, 20, rows)] + 0.5 * rng.standard_normal((rows, DIMS))).astype(np.float16)


@pytest.fixture(scope="module")
def vectors() -> Stored:
    return clustered(3000)


def load(folder: Path, vectors: Stored, digest: str = "d") -> ann.Ann:
    return ann.load_or_build(folder, digest, vectors)


def search(index: ann.Ann, queries: Floats, count: int = 10, usable: Mask | None = None) -> Rows:
    """Candidates by the strongest effort that was measured."""
    return index.search(queries, count, index.curve.points[-1], usable)


def test_it_finds_what_a_scan_finds(tmp_path: Path, vectors: Stored) -> None:
    index, queries = load(tmp_path, vectors), clustered(200, 1).astype(np.float32)
    effort = index.effort(10, len(vectors), 0.99)
    assert effort is not None
    found = index.search(queries, 10, effort)
    hits = []
    for number, wanted in enumerate(scan(vectors, queries, 10)):
        scores = rescore(vectors, wanted, queries[number])
        best = wanted[np.argsort(-scores, kind="stable")[:10]]
        hits.append(len(set(best) & set(found[number])) / 10)
    assert np.mean(hits) >= 0.99


@pytest.mark.parametrize("packed", [False, True])
def test_only_usable_rows_come_back(tmp_path: Path, vectors: Stored, packed: bool) -> None:
    usable = np.zeros(len(vectors), bool)
    usable[::7] = True
    given = np.packbits(usable, bitorder="little") if packed else usable
    rows = search(load(tmp_path, vectors), vectors[:3].astype(np.float32), 50, given)
    assert (rows[rows >= 0] % 7 == 0).all()
    assert (rows >= 0).sum() > 100


def test_a_kept_index_is_used(tmp_path: Path, vectors: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = load(tmp_path, vectors).curve
    monkeypatch.setattr(ann, "_build", None)
    assert load(tmp_path, vectors).curve == curve == ann.stored_curve(tmp_path)


def test_codes_are_mapped(tmp_path: Path) -> None:
    """The codes lie in the file's own pages, so that the memory of a process does not grow by them."""
    load(tmp_path, clustered(20_000))
    index = load(tmp_path, clustered(20_000))
    search(index, clustered(5).astype(np.float32))
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    assert str(tmp_path / ann.FILE) in maps.read_text("utf-8")


def lose_index(folder: Path) -> None:
    (folder / ann.FILE).unlink()


def lose_origin(folder: Path) -> None:
    (folder / RECORD).unlink()


def flip(folder: Path) -> None:
    data = bytearray((folder / ann.FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / ann.FILE).write_bytes(data)


def truncate(folder: Path) -> None:
    (folder / ann.FILE).write_bytes((folder / ann.FILE).read_bytes()[:100])


def stale(folder: Path) -> None:
    origin = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(origin | {"origin": "another"}))


def garble(folder: Path) -> None:
    (folder / RECORD).write_text("{")


@pytest.mark.parametrize("damage", [lose_index, lose_origin, flip, truncate, stale, garble])
def test_it_is_rebuilt_when_lost_stale_or_damaged(
    tmp_path: Path, vectors: Stored, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    queries = vectors[:5].astype(np.float32)
    before = search(load(tmp_path, vectors), queries, 20)
    kept = (tmp_path / RECORD).read_bytes()
    damage(tmp_path)
    np.testing.assert_array_equal(search(load(tmp_path, vectors), queries, 20), before)
    after = json.loads((tmp_path / RECORD).read_text())
    assert after["sha256"] == json.loads(kept)["sha256"]
    assert ("it is built again" in caplog.text) == (damage not in (lose_index, lose_origin))


def test_a_reader_without_the_right_to_write_still_searches(
    tmp_path: Path, vectors: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    found = search(load(tmp_path / "file", vectors), vectors[:1].astype(np.float32), 5)
    assert found[0, 0] == 0
    assert "could not be stored" in caplog.text


def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: object, **options: object) -> object:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(builtins, "__import__", blocked)


def test_missing_faiss_names_the_extras(tmp_path: Path, vectors: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    without_faiss(monkeypatch)
    with pytest.raises(
        MissingDependencyError, match=r"'cir-engine\[cpu\]', 'cir-engine\[gpu\]' .*'cir-engine\[cuvs\]'"
    ):
        load(tmp_path, vectors)


def test_a_gallery_without_faiss_scans_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_index(tmp_path / "x.index", [random_rows([str(number) for number in range(100)], 1)])
    exact = Gallery.open(index)
    query, options = QueryVectors({exact.space.id: np.eye(1, DIMS, dtype=np.float32)}), RankingOptions(3)
    wanted = exact.search(query, options)
    without_faiss(monkeypatch)
    gallery = Gallery.open(index, ann_min_rows=10)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert gallery.search(query, options) == wanted
    assert caplog.text.count("searched exactly") == 1


def test_filters_that_leave_few_in_the_probed_lists_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows([f"{number:04d}" for number in range(2000)], 1)
    rows.vectors = clustered(2000).astype(np.float32)
    index = make_index(tmp_path / "x.index", [rows])
    exact = Gallery.open(index)
    gallery = Gallery.open(index, ann_min_rows=20)
    queries = QueryVectors({gallery.space.id: clustered(20, 2).astype(np.float32)})
    few = RankingOptions(10, allowed=np.arange(2000) % 50 == 0)
    assert gallery.search(queries, few) == exact.search(queries, few)
    monkeypatch.setattr(ann.Ann, "effort", lambda self, *wanted: self.curve.points[0])
    found = gallery.search(queries, RankingOptions(10, allowed=np.arange(2000) % 20 == 0))
    assert {len(hits) for hits in found} == {10}
    assert all(int(image_id) % 20 == 0 for hits in found for image_id, _ in hits)
    assert IndexFolder(index).gallery("000001").with_name(ann.FILE).exists()


class FakeGpuIndex:
    """Knows no selectors, as GPU indexes do not."""

    def __init__(self, index: object) -> None:
        self.index = index

    def add(self, vectors: Stored) -> None:
        self.index.add(vectors)  # type: ignore[attr-defined]

    def search(self, queries: Stored, count: int) -> tuple[Stored, Stored]:
        return self.index.search(queries, count)  # type: ignore[attr-defined,no-any-return]


def test_without_gpus_the_index_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # faiss-gpu without a GPU would return an empty index here.
    fake = SimpleNamespace(get_num_gpus=lambda: 0, index_cpu_to_all_gpus=lambda *args, **options: None)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    index = object()
    assert ann.to_gpus(index, np.empty((0, DIMS), np.float16)) is index


def test_with_gpus_it_is_cloned_and_filtering_fetches_more(
    tmp_path: Path, vectors: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, vectors)
    options: list[SimpleNamespace] = []

    def clone(index: object, co: SimpleNamespace) -> FakeGpuIndex:
        options.append(co)
        return FakeGpuIndex(index)

    def set_parameter(index: FakeGpuIndex, name: str, value: int) -> None:
        setattr(index.index, name, value)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", clone, raising=False)
    space = SimpleNamespace(set_index_parameter=set_parameter)
    monkeypatch.setattr(faiss, "GpuParameterSpace", lambda: space, raising=False)
    index = load(tmp_path, vectors)
    assert [option.useFloat16 for option in options] == [True]
    queries = vectors[:4].astype(np.float32)
    strongest = index.curve.points[-1]
    assert index.search(queries, 10, strongest).shape == (4, 10 * strongest.overfetch)
    usable = np.arange(len(vectors)) % 10 == 0
    for given in (usable, np.packbits(usable, bitorder="little")):
        rows = index.search(queries, 10, strongest, given)
        assert (rows[rows >= 0] % 10 == 0).all()
        assert ((rows >= 0).sum(axis=1) >= 5).all()


@pytest.mark.gpu
def test_on_a_real_gpu(tmp_path: Path, vectors: Stored) -> None:
    if faiss.get_num_gpus() == 0:
        pytest.skip("no GPU that faiss can use")
    index = load(tmp_path, vectors)
    assert index._on_gpu
    queries = clustered(50, 1).astype(np.float32)
    wanted = scan(vectors, queries, 10)
    found = search(index, queries)
    assert np.mean([len(set(few) & set(many)) / len(few) for few, many in zip(wanted, found, strict=True)]) > 0.99


@pytest.mark.parametrize("rows", [1, 15, 16])
def test_a_handful_of_vectors_is_scanned(tmp_path: Path, rows: int, capfd: pytest.CaptureFixture[str]) -> None:
    ids = [f"{number:02}.jpg" for number in range(rows)]
    index = make_index(tmp_path / "x.index", [random_rows(ids, 1)])
    gallery = Gallery.open(index, ann_min_rows=1)
    queries = QueryVectors({gallery.space.id: unit_rows(np.random.default_rng(2).standard_normal((1, DIMS)))})
    assert len(gallery.search(queries, RankingOptions(100))[0]) == rows
    assert bool(list(index.rglob(ann.FILE))) == (rows >= 16)
    assert capfd.readouterr().err == ""
