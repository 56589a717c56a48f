"""Exact search by torch: the code of an accelerator, run on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cir.arrays import Stored
from cir.errors import UsageError
from cir.indexer.reading import device_scan, live_segment
from cir.indexer.reading.device_scan import DeviceScan, search_device
from cir.indexer.reading.exact import rescore
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors
from cir.testing.fakes import DIMS, make_index, random_rows, unit_rows

CPU = torch.device("cpu")


def stored(rows: int, tokens: int, precision: str) -> Stored:
    shape = (rows, tokens, DIMS) if tokens else (rows, DIMS)
    values: Stored = unit_rows(np.random.default_rng(rows).standard_normal(shape)).astype(precision)
    values[rows // 2 :] = values[: rows - rows // 2]  # every picture twice
    return values


def assert_it_keeps_the_best(device: torch.device, values: Stored, count: int, usable: np.ndarray | None) -> None:
    queries = unit_rows(np.random.default_rng(0).standard_normal((count, DIMS)))
    rows = np.arange(len(values)) if usable is None else np.flatnonzero(usable)
    for room in (0, 150 * values[:1].nbytes, None):  # nothing, a part, or what fits stays on the device
        found = DeviceScan(values, device, room=room, block_rows=70).scan(queries, 9, usable)
        for query, kept in zip(queries, found, strict=True):
            scores = rescore(values, rows, query)
            assert set(rows[scores >= np.sort(scores)[-9]]) <= set(kept)
            assert set(kept) <= set(rows)
            assert len(kept) < 30


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("filtered", [None, 0.2])
@pytest.mark.parametrize("count", [1, 6])
def test_a_scan_keeps_the_best_and_their_ties(tokens: int, filtered: float | None, count: int, precision: str) -> None:
    usable = None if filtered is None else np.random.default_rng(1).random(300) < filtered
    assert_it_keeps_the_best(CPU, stored(300, tokens, precision), count, usable)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("filtered", [None, 0.2])
def test_a_scan_on_a_gpu(tokens: int, filtered: float | None, precision: str) -> None:
    device = search_device("auto")
    if device is None:
        pytest.skip("no GPU that torch can use")
    usable = None if filtered is None else np.random.default_rng(1).random(300) < filtered
    assert_it_keeps_the_best(device, stored(300, tokens, precision), 6, usable)


def test_more_is_wanted_than_there_is() -> None:
    scan = DeviceScan(stored(5, 0, "float16"), CPU, block_rows=2)
    (found,) = scan.scan(np.eye(1, DIMS, dtype=np.float32), 9, np.array([1, 1, 0, 1, 0], np.bool_))
    assert sorted(found.tolist()) == [0, 1, 3]


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_gallery_answers_the_same_on_a_device(tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number:03}.jpg" for number in range(200)]
    rows = random_rows(ids, 1, vectors=not tokens, tokens=tokens)
    rows.deleted = (3, 50)
    index = make_index(tmp_path / "x.index", [rows], tokens, vectors=not tokens)
    plain = Gallery.open(index)
    monkeypatch.setattr(live_segment, "MIN_BYTES", 0)
    monkeypatch.setattr("cir.indexer.reading.gallery.search_device", lambda name: CPU)
    gallery = Gallery.open(index, device="cuda")
    queries = QueryVectors({gallery.space.id: unit_rows(np.random.default_rng(2).standard_normal((4, DIMS)))})
    allowed = gallery.select("colour=red")
    for options in (RankingOptions(10), RankingOptions(10, allowed)):
        assert gallery.search(queries, options) == plain.search(queries, options)


def test_the_device_that_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert search_device("cpu") is None
    with pytest.raises(UsageError, match="unknown device 'gpu9'"):
        search_device("gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="this machine has no cuda device"):
            search_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = search_device("auto")
    assert chosen is not None
    assert chosen.type == "cuda"


def test_torch_is_not_loaded_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_scan, "_GPU_FILES", ())
    monkeypatch.setattr("sys.modules", {})
    monkeypatch.setattr("sys.platform", "linux")
    assert search_device("auto") is None
