"""Galleries whose segments are searched elsewhere: the same answers, and what is missing is said."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import cir
from cir.errors import ServerError
from cir.indexer.reading.coverage import search_covered
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions, Search
from cir.indexer.reading.spread import Questions
from cir.indexer.storage.folder import IndexFolder
from cir.query_vectors import QueryVectors
from cir.search.calibration import calibrated
from cir.testing.fakes import DIMS, FakeEncoder, build, folder_of, make_index, random_rows, unit_rows
from cir.testing.spread import PartsHere
from cir.testing.two_models import MAPPINGS, mapped_queries, serve_new
from cir.types import ModelCard, Query

IDS = [f"{number * 7919 % 1009:04d}" for number in range(300)]


def queries(gallery: Gallery, count: int, *, two: bool = False) -> QueryVectors:
    rng = np.random.default_rng(5)
    first, second = (unit_rows(rng.standard_normal((count, DIMS))) for _ in range(2))
    second[::3] = 0  # some of them have one vector only
    space = gallery.space.id
    return QueryVectors({space: first}, {space: second} if two else None, 0.4)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Five segments of sixty images; equal vectors are in several of them."""
    segments = [random_rows(IDS[start::5], seed=start // 2) for start in range(5)]
    segments[1].deleted = (3, 4)
    return make_index(tmp_path / "x.index", segments)


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_the_same_answers_whatever_the_parts(index: Path, exact: bool, two: bool) -> None:
    whole = Gallery.open(index, ann_min_rows=20)
    wanted, mask = queries(whole, 40, two=two), whole.select("colour=red")
    exclude = [set(IDS[row : row + row % 7]) for row in range(40)]
    for parts in (1, 2, 5, 9):
        spread = Gallery.open(index, ann_min_rows=20, spread=PartsHere(index, parts, 20))
        for options in (RankingOptions(7, exact=exact), RankingOptions(500, mask, exact=exact)):
            expected = whole.search(wanted, options, exclude=exclude)
            assert spread.search(wanted, options, exclude=exclude) == expected
        assert (spread.scores(wanted, whole.ids[::41]) == whole.scores(wanted, whole.ids[::41])).all()


def test_one_call_to_each_part_answers_a_batch(index: Path) -> None:
    parts = PartsHere(index, 5, 10**9)
    gallery = Gallery.open(index, spread=parts)
    parts.calls = 0
    gallery.search(queries(gallery, 32), RankingOptions(10))
    assert parts.calls == 5
    gallery.search(queries(gallery, 32, two=True), RankingOptions(10))
    assert parts.calls == 20  # those of one vector, then candidates and scores of those of two


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.route.value)
def test_segments_of_an_older_model(tmp_path: Path, mapping: cir.mappings.SpaceMapping) -> None:
    index = tmp_path / "old.index"
    build(folder_of(tmp_path / "a", 12), index, FakeEncoder("old-1", tokens=0))
    build(folder_of(tmp_path / "b", 12, start=12), index, FakeEncoder("old-1", tokens=0))
    serve_new(index, mapping)
    whole, spread = Gallery.open(index), Gallery.open(index, spread=PartsHere(index, 2, 10**9))
    assert spread.query_spaces == whole.query_spaces
    for exact in (False, True):
        options = RankingOptions(9, exact=exact)
        assert spread.search(mapped_queries(spread), options) == whole.search(mapped_queries(whole), options)
    for name in ("0003.png", "0020.png"):
        assert (spread.image(name).vector == whole.image(name).vector).all()


def test_what_is_missing_is_said(index: Path) -> None:
    parts = PartsHere(index, 5, 10**9)
    gallery = Gallery.open(index, spread=parts)
    found = search_covered(gallery, queries(gallery, 3), RankingOptions(400))
    assert (found.coverage, found.searched) == (1, 298)
    parts.silent = {1}  # which has the segment of 58 live images
    less = search_covered(gallery, queries(gallery, 3), RankingOptions(400))
    assert (less.coverage, less.searched) == (pytest.approx(240 / 298), 240)
    missing = set(IDS[1::5])
    assert less.hits == [[hit for hit in hits if hit[0] not in missing] for hits in found.hits]
    mask = gallery.select("colour=red")
    some = search_covered(gallery, queries(gallery, 3), RankingOptions(400, mask))
    assert some.searched == len(some.hits[0]) < gallery.searched(mask)[0]
    with pytest.raises(ServerError, match="a part of the gallery does not answer at the moment"):
        gallery.scores(queries(gallery, 3), IDS[:5])
    parts.silent = set(range(5))
    none = search_covered(gallery, queries(gallery, 3, two=True), RankingOptions(400))
    assert (none.hits, none.coverage, none.searched) == ([[], [], []], 0, 0)


def test_results_say_which_share_they_cover(index: Path) -> None:
    parts = PartsHere(index, 5, 10**9)

    def load(card: ModelCard) -> FakeEncoder:
        return FakeEncoder(tokens=0)

    searcher = cir.Searcher(Gallery.open(index, spread=parts), load)
    assert searcher.search(Query(text="red")).coverage == 1
    parts.silent = {0, 1, 2}
    result = searcher.search(Query(text="red"))
    assert (result.coverage, result.searched) == (pytest.approx(120 / 298), 120)
    assert calibrated(searcher.gallery) == searcher.gallery.card


def test_damage_is_found_by_whoever_searches(index: Path) -> None:
    path = IndexFolder(index).gallery("000002")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    spread = Gallery.open(index, spread=PartsHere(index, 2, 10**9))
    whole = Gallery.open(index)
    assert [each.name for each in spread.damaged] == [each.name for each in whole.damaged] == ["000002"]
    options = RankingOptions(400)
    assert spread.search(queries(spread, 3), options) == whole.search(queries(whole, 3), options)
    assert spread.rows.starts == whole.rows.starts


def test_a_mask_goes_to_a_part_as_bits_and_once() -> None:
    mask = np.random.default_rng(1).random(10_001) < 0.3
    queries = QueryVectors({"space": np.eye(2, 4, dtype=np.float32)})
    searches = [Search(queries, RankingOptions(5, allowed), [np.array([7])] * 2) for allowed in (mask, None, mask)]
    sent = pickle.dumps(Questions([(search, ()) for search in searches], []))
    assert len(sent) < 10_001 / 8 + 2000
    (first, _), (second, _), (third, _) = pickle.loads(sent).searches
    assert second.options.allowed is None
    assert first.options.allowed is third.options.allowed
    assert first.options.allowed.dtype == np.bool_
    assert (first.options.allowed == mask).all()
    assert first.options.k == 5
    assert first.excluded[1].tolist() == [7]
    assert searches[0].options.allowed is mask
