"""Searching by vectors that somebody has: `Searcher.search_vectors`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir import ModelCard, import_vectors
from cir.arrays import Floats
from cir.errors import SpaceMismatchError, UsageError
from cir.indexer.reading.gallery import Gallery
from cir.search import Searcher
from cir.testing.fakes import FakeEncoder, build, folder_of, unit_rows
from cir.testing.two_models import HEAD, NEW, PROCRUSTES, RIDGE, serve_new
from cir.types import Encoder

QUERIES = unit_rows(np.random.default_rng(5).standard_normal((3, 16)))


def no_model(card: ModelCard) -> Encoder:
    raise AssertionError(f"{card.name} was loaded")


def open_index(path: Path) -> Searcher:
    return Searcher(Gallery.open(path), no_model)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 vectors, two of them equal, half of them red."""
    vectors = np.random.default_rng(1).standard_normal((40, 16))
    vectors[30] = vectors[3]
    ids = [f"{row:02}" for row in range(40)]
    path = tmp_path_factory.mktemp("search") / "v"
    columns = {name: {"colour": "red" if row % 2 else "blue"} for row, name in enumerate(ids)}
    import_vectors(vectors, path, ModelCard.named("other", 16), ids=ids, metadata=columns)
    return path


def by_hand(index: Path, queries: Floats, k: int, colour: str = "") -> list[list[str]]:
    gallery = Gallery.open(index)
    ids = [name for name in gallery.ids if not colour or gallery.image(name).metadata["colour"] == colour]
    stored = np.stack([gallery.image(name).stored for name in ids]).astype(np.float64)
    return [
        [ids[row] for row in np.lexsort((range(len(ids)), -np.round(stored @ query, 6)))[:k]]
        for query in np.asarray(queries, np.float64)
    ]


@pytest.mark.parametrize("exact", [False, True])
def test_the_answer_is_that_of_numpy(index: Path, exact: bool) -> None:
    searcher = open_index(index)
    hits = searcher.search_vectors(QUERIES, 10, exact=exact)
    assert [[name for name, _ in each] for each in hits] == by_hand(index, QUERIES, 10)
    assert all(-1.001 <= score <= 1.001 for each in hits for _, score in each)
    for where in ("colour=red", {"colour": "red"}, ["colour=red", "colour!=blue"]):
        hits = searcher.search_vectors(QUERIES, 10, where=where, exact=exact)
        assert [[name for name, _ in each] for each in hits] == by_hand(index, QUERIES, 10, "red")


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_squares_may_be_beyond_float64(index: Path, scale: float) -> None:
    searcher = open_index(index)
    hits, expected = (searcher.search_vectors(QUERIES.astype(np.float64) * factor, 3) for factor in (scale, 1))
    assert [[name for name, _ in each] for each in hits] == [[name for name, _ in each] for each in expected]


def test_the_recall_is_that_of_the_ranking(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = open_index(index)
    wanted: list[float] = []
    monkeypatch.setattr(type(searcher.gallery), "search", lambda self, _, options: wanted.append(options.recall) or [])
    searcher.search_vectors(QUERIES, 3, recall=0.5)
    assert wanted == [0.5]
    with pytest.raises(UsageError, match="recall"):
        searcher.search_vectors(QUERIES, 3, recall=2)


def test_columns_are_found_in_any_case_if_one_is_meant(tmp_path: Path) -> None:
    columns = {"a": {"Colour": "red", "size": "1", "SIZE": "2"}, "b": {"Colour": "blue"}}
    import_vectors(np.eye(16)[:2], tmp_path / "v", ModelCard.named("other", 16), ids=["a", "b"], metadata=columns)
    gallery = Gallery.open(tmp_path / "v")
    assert gallery.select("COLOUR=red").tolist() == [True, False]
    assert gallery.select("size=1 and SIZE=2").tolist() == [True, False]
    with pytest.raises(UsageError, match=r"no metadata column 'Size' in .*; there are: Colour, SIZE, size"):
        gallery.select("Size=1")


def test_equal_vectors_tie_by_id(index: Path) -> None:
    searcher = open_index(index)
    (hits,) = searcher.search_vectors(searcher.gallery.image("30").vector, 2)
    assert [name for name, _ in hits] == ["03", "30"]
    assert hits[0][1] == hits[1][1]


@pytest.mark.parametrize(
    "given",
    [QUERIES * 9, QUERIES.astype(np.float64), QUERIES.tolist(), np.asfortranarray(QUERIES), QUERIES.astype(">f4")],
)
def test_vectors_of_any_length_and_type_are_normalised(index: Path, given: Any) -> None:
    searcher = open_index(index)
    hits = [[name for name, _ in each] for each in searcher.search_vectors(given, 3)]
    assert hits == by_hand(index, QUERIES, 3)
    assert searcher.search_vectors(np.empty((0, 16)), 3) == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.zeros((1, 16)), "vector 0 is zero or not finite"),
        ([[1.0] * 16, [np.nan] * 16], "vector 1 is zero or not finite"),
        ([[5e-324] * 16], "vector 0 is .* too short or long"),
        (np.ones((2, 15)), r"shape \(2, 15\); those of other are \(B, 16\)"),
        (np.ones((1, 2, 16)), r"shape \(1, 2, 16\)"),
        (3.0, r"shape \(\)"),
        ("red", "vectors are a str"),
        (None, "vectors are None"),
        ([[1, 2], [3]], "of different lengths"),
    ],
)
def test_what_is_no_matrix_of_vectors_is_refused(index: Path, given: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        open_index(index).search_vectors(given, 3)


def test_other_mistakes(index: Path) -> None:
    with pytest.raises(UsageError, match="k is 0"):
        open_index(index).search_vectors(QUERIES, 0)
    with pytest.raises(UsageError, match="no metadata column 'size'"):
        open_index(index).search_vectors(QUERIES, 1, where="size=3")


@pytest.fixture
def half_reindexed(tmp_path: Path) -> Path:
    """Five images of the old model; the new one serves, and has two of its own when `add_new` is called."""
    return build(folder_of(tmp_path / "old", 5), tmp_path / "i", FakeEncoder("old-1", tokens=0)).path


def add_new(index: Path) -> Path:
    build(folder_of(index.parent / "new", 2, start=7), index, NEW)
    return index


@pytest.mark.parametrize("mapping", [RIDGE, PROCRUSTES])
def test_vectors_reach_an_older_space_by_a_mapping_of_vectors(half_reindexed: Path, mapping: Any) -> None:
    serve_new(half_reindexed, mapping)
    gallery = Gallery.open(add_new(half_reindexed))
    query = unit_rows(np.random.default_rng(2).standard_normal((1, NEW.card.dims)))
    (hits,) = Searcher(gallery, no_model).search_vectors(query * 3, 9)
    assert sorted(name for name, _ in hits) == list(gallery.ids)
    for name, score in hits:
        image = gallery.image(name)
        stored = image.stored.astype(np.float32)
        if image.space == gallery.space.id:
            expected = stored @ query[0]
        elif mapping is RIDGE:
            expected = mapping.map(stored[None])[0] @ query[0]
        else:
            expected = mapping.calibrate(stored @ mapping.map(query)[0])
        assert score == pytest.approx(expected, abs=2e-3)


def test_a_query_head_maps_no_vectors_and_a_warning_says_so(
    half_reindexed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    serve_new(half_reindexed, HEAD)
    query = np.ones(NEW.card.dims)
    with pytest.raises(SpaceMismatchError, match=r"5 images .* by a query head \(trained head\).*backfill"):
        open_index(half_reindexed).search_vectors(query, 3)
    searcher = open_index(add_new(half_reindexed))
    with caplog.at_level(logging.WARNING, "cir"):
        (hits,) = searcher.search_vectors(query, 9)
    assert {name for name, _ in hits} == {"0007.png", "0008.png"}
    assert "5 images of older models are reached by a query head" in caplog.text
    assert searcher.search_vectors(query, 9, where=()) == [hits]


def test_rows_are_those_of_the_segments_that_are_sound(half_reindexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir.indexer.writing.assemble.to_absorb", lambda *_: [])
    build(folder_of(half_reindexed.parent / "more", 3, start=20), half_reindexed, FakeEncoder("old-1", tokens=0))
    first, *_ = sorted((half_reindexed / "segments").iterdir())
    serve_new(half_reindexed, HEAD)
    add_new(half_reindexed)
    (first / "gallery.h5").write_bytes(b"")
    searcher = open_index(half_reindexed)
    (hits,) = searcher.search_vectors(np.ones(NEW.card.dims), 9)
    assert {name for name, _ in hits} == {"0007.png", "0008.png"}
