"""Scans that lose no row, and scores that depend on the row alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Stored
from cir.errors import UsageError
from cir.indexer.reading import exact
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import DIMS, make_index, random_rows, unit_rows


def stored(rows: int, tokens: int = 0) -> Stored:
    shape = (rows, tokens, DIMS) if tokens else (rows, DIMS)
    values: Stored = unit_rows(np.random.default_rng(rows).standard_normal(shape)).astype(np.float16)
    values[rows // 2 :] = values[: rows - rows // 2]  # every picture twice
    return values


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("chunk", [7, 100, 16_384])
@pytest.mark.parametrize("count", [1, 6])
def test_a_scan_in_chunks_keeps_the_best_and_their_ties(
    tokens: int, chunk: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_SCAN_ROWS", chunk)
    monkeypatch.setattr(exact, "_ONE_FLOATS", 4 * DIMS)
    monkeypatch.setattr(exact, "_MANY_FLOATS", 40 * DIMS)
    monkeypatch.setattr(exact, "_RESCORE_FLOATS", 4 * DIMS)
    values = stored(300, tokens)
    queries = unit_rows(np.random.default_rng(0).standard_normal((count, DIMS)))
    rows = np.flatnonzero(np.arange(300) % 5)
    for query, found in zip(queries, exact.scan(values, rows, queries, 9), strict=True):
        scores = exact.rescore(values, rows, query)
        cut = np.sort(scores)[-9]
        assert set(rows[scores >= cut]) <= set(found)
        assert set(found) <= set(rows)
        assert len(found) < 30


def test_a_scan_of_nothing() -> None:
    found = exact.scan(stored(4), np.empty(0, np.int64), np.eye(2, DIMS, dtype=np.float32), 3)
    assert [len(rows) for rows in found] == [0, 0]


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
