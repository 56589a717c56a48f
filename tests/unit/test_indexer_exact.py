"""Scans that lose no row, and scores that depend on the row alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir.arrays import Stored
from cir.errors import UsageError
from cir.indexer.reading import exact, kernels
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import DIMS, make_index, random_rows, unit_rows


def stored(rows: int, tokens: int = 0) -> Stored:
    shape = (rows, tokens, DIMS) if tokens else (rows, DIMS)
    values: Stored = unit_rows(np.random.default_rng(rows).standard_normal(shape)).astype(np.float16)
    values[rows // 2 :] = values[: rows - rows // 2]  # every picture twice
    return values


@pytest.fixture(params=["numkong", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel library, and what stands in for it on a machine without a wheel."""
    name: str = request.param
    if name == "numpy":
        monkeypatch.setattr(kernels, "numkong", lambda: None)
    return name


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("block_rows", [7, 100, 100_000])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("filtered", [None, 0.8, 0.2])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_a_scan_keeps_the_best_and_their_ties(
    tokens: int,
    block_rows: int,
    workers: int,
    filtered: float | None,
    count: int,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = stored(300, tokens).astype(precision)
    monkeypatch.setattr(exact, "_BLOCK_BYTES", block_rows * values[:1].nbytes)
    monkeypatch.setattr(exact, "_THREAD_BYTES", 0)
    monkeypatch.setattr(exact, "free_cores", lambda: workers)
    monkeypatch.setattr(exact, "_RESCORE_FLOATS", 4 * DIMS)
    queries = unit_rows(np.random.default_rng(0).standard_normal((count, DIMS)))
    usable = None if filtered is None else np.random.default_rng(1).random(300) < filtered
    rows = np.arange(300) if usable is None else np.flatnonzero(usable)
    for query, found in zip(queries, exact.scan(values, queries, 9, usable), strict=True):
        scores = exact.rescore(values, rows, query)
        cut = np.sort(scores)[-9]
        assert set(rows[scores >= cut]) <= set(found)
        assert set(found) <= set(rows)
        assert len(found) < 30


@pytest.mark.usefixtures("library")
def test_a_scan_of_nothing_and_of_less_than_is_wanted() -> None:
    queries = np.eye(2, DIMS, dtype=np.float32)
    assert [len(rows) for rows in exact.scan(stored(4), queries, 3, np.zeros(4, np.bool_))] == [0, 0]
    assert [len(rows) for rows in exact.scan(stored(4)[:0], queries, 3)] == [0, 0]
    assert [sorted(rows) for rows in exact.scan(stored(4), queries, 9)] == [[0, 1, 2, 3]] * 2


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_kernel_is_as_exact_as_it_says(count: int, precision: str) -> None:
    rng = np.random.default_rng(count)
    rows = unit_rows(rng.standard_normal((500, 384))).astype(precision)
    queries = unit_rows(rng.standard_normal((count, 384)))
    kernel = kernels.kernel_for(queries, rows.dtype)
    off = np.abs(kernel.scores(rows) - rows.astype(np.float64) @ queries.T.astype(np.float64))
    assert (off <= kernel.slack).all()
    assert kernel.slack.max() < 1e-3


@settings(deadline=None)
@given(
    blocks=st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=8),
    count=st.integers(1, 15),
)
def test_best_rows_over_blocks_are_those_of_the_whole(blocks: list[list[int]], count: int) -> None:
    best = exact.Best(count, np.zeros(1, np.float32))
    start = 0
    for block in blocks:
        best.add(start, np.array(block, np.float32)[:, None])
        start += len(block)
    scores = np.concatenate([np.array(block) for block in blocks])
    (found,) = best.rows()
    cut = np.sort(scores)[-min(count, len(scores))]
    assert sorted(found.tolist()) == np.flatnonzero(scores >= cut).tolist()


@pytest.mark.parametrize("tokens", [0, 3])
def test_equal_rows_score_equally_wherever_they_are(tokens: int) -> None:
    values = stored(1000, tokens)
    query = unit_rows(np.random.default_rng(1).standard_normal(DIMS))
    scores = exact.rescore(values, np.arange(1000), query)
    np.testing.assert_array_equal(scores[:500], scores[500:])
    np.testing.assert_array_equal(exact.rescore(values, np.array([777]), query), scores[777:778])


def test_a_column_that_only_some_segments_have(tmp_path: Path) -> None:
    plain = random_rows(["a", "b"], 1)
    plain.metadata = None
    rich = random_rows(["c", "d"], 2)
    rich.metadata = [{"size": "M"}, {"size": "L"}]
    gallery = Gallery.open(make_index(tmp_path / "x.index", [plain, rich]))
    assert gallery.select([("size", "m")]).tolist() == [False, False, True, False]
    assert gallery.image("a").metadata == {}
    with pytest.raises(UsageError, match="there are: size"):
        gallery.select([("colour", "red")])
