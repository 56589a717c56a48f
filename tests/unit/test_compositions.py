"""Queries out of a picture's and a caption's vectors: sum, great circle, and the product of two similarities."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cir import Query, build_index, load_model, open_index
from cir.arrays import Floats, unit
from cir.compositions import compose
from cir.errors import UsageError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.product import QUANTILE
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.writing.compose import set_composition
from cir.indexer.writing.history import rollback
from cir.model_card import APART
from cir.query_vectors import QueryVectors
from cir.search import Searcher
from cir.testing.fakes import folder_of
from cir.testing.hub_models import save_clip

TEXT = "in red, with long sleeves"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 40 pictures, encoded by a small CLIP."""
    folder = tmp_path_factory.mktemp("apart")
    folder_of(folder / "photos", 40)
    build_index(folder / "photos", folder / "x.index", load_model(save_clip(folder / "clip")))
    return folder / "x.index"


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "x.index"))


def vectors(searcher: Searcher) -> tuple[list[str], Floats]:
    ids = list(searcher.ids)
    return ids, np.stack([searcher.gallery.image(name).vector for name in ids]).astype(np.float32)


def test_a_great_circle() -> None:
    east, north = np.array([[1, 0, 0]], np.float32), np.array([[0, 1, 0]], np.float32)
    half = compose(east, north, "slerp", 0.5)
    np.testing.assert_allclose(half, unit(east + north), atol=1e-6)
    third = compose(east, north, "slerp", 1 / 3)
    np.testing.assert_allclose(np.degrees(np.arccos(third @ north.T)), 30, atol=1e-3)
    np.testing.assert_allclose(compose(east, east, "slerp", 0.3), east, atol=1e-6)
    for how in ("sum", "slerp"):
        np.testing.assert_allclose(compose(east, north, how, 1), east, atol=1e-6)
        np.testing.assert_allclose(compose(east, north, how, 0), north, atol=1e-6)


@pytest.mark.parametrize("how", ["sum", "slerp"])
def test_a_search_ranks_by_the_composed_vector(how: str, index: Path) -> None:
    set_composition(index, how, 0.3)
    searcher = open_index(index)
    ids, stored = vectors(searcher)
    picture = stored[[ids.index(ids[7])]]
    query = compose(picture, searcher.encoder.encode_texts([TEXT]), how, 0.3)
    expected = [ids[row] for row in np.argsort(-(stored @ query[0])) if row != 7]
    found = searcher.search(Query(ids[7], TEXT, k=10))
    assert [hit.id for hit in found.hits] == expected[:10]


def products(searcher: Searcher, row: int, weight: float) -> Floats:
    """(N,) scores of a query of two vectors, written out."""
    _, stored = vectors(searcher)
    similarities = [stored @ stored[row], stored @ searcher.encoder.encode_texts([TEXT])[0]]
    above = [np.clip((values - (low := np.quantile(values, QUANTILE))) / (1 - low), 0, None) for values in similarities]
    scores: Floats = above[0] ** weight * above[1] ** (1 - weight)
    return scores


@pytest.mark.parametrize("exact", [True, False])
def test_a_product_ranks_by_both_similarities(index: Path, exact: bool) -> None:
    set_composition(index, "product", 0.4)
    searcher = open_index(index)
    ids, _ = vectors(searcher)
    expected = products(searcher, 7, 0.4)
    found = searcher.search(Query(ids[7], TEXT, k=10), exact=exact)
    order = [row for row in np.argsort(-expected, kind="stable") if row != 7][:10]
    assert [hit.id for hit in found.hits] == [ids[row] for row in order]
    np.testing.assert_allclose([hit.score for hit in found.hits], expected[order], atol=2e-3)
    encoded = searcher.encode([Query(ids[7], TEXT)])
    np.testing.assert_allclose(searcher.gallery.scores(encoded, ids)[0], expected, atol=2e-3)


def test_queries_of_one_vector_and_of_two_are_answered_together(index: Path) -> None:
    set_composition(index, "product", 0.5)
    searcher = open_index(index)
    ids = list(searcher.ids)
    queries = [Query(ids[3]), Query(ids[4], TEXT), Query(text=TEXT), Query(ids[5], TEXT, negatives="blue")]
    together = searcher.search_many(queries)
    for query, answer in zip(queries, together, strict=True):
        alone = searcher.search(query)
        assert [hit.id for hit in answer.hits] == [hit.id for hit in alone.hits]
        np.testing.assert_allclose([hit.score for hit in answer.hits], [hit.score for hit in alone.hits], atol=1e-5)
    assert searcher.encode(queries).two.tolist() == [False, True, False, True]


def test_filters_and_exclusions_hold_for_products(index: Path) -> None:
    set_composition(index, "product", 0.5)
    searcher = open_index(index)
    ids = list(searcher.ids)
    query = searcher.encode([Query(ids[0], TEXT)])
    for exact in (True, False):
        options = RankingOptions(50, searcher.gallery.rows.mask_of(range(5, 15)), exact)
        found = searcher.gallery.search(query, options, exclude=[{ids[6]}])[0]
        assert {name for name, _ in found} == {ids[row] for row in range(5, 15)} - {ids[6]}


def test_a_stored_reference_needs_no_photo(index: Path, tmp_path: Path) -> None:
    searcher = open_index(index)
    ids = list(searcher.ids)
    with_photo = searcher.search(Query(ids[2], TEXT))
    root = Path(searcher.gallery.manifest.roots[0])
    root.rename(tmp_path / "elsewhere")
    try:
        assert open_index(index).search(Query(ids[2], TEXT)).hits[0].id == with_photo.hits[0].id
    finally:
        (tmp_path / "elsewhere").rename(root)


def test_a_composition_is_kept_and_can_be_undone(index: Path) -> None:
    before = Gallery.open(index)
    after = set_composition(index, "product", 0)
    assert (after.card.composition, after.card.sum_weight, after.card.digest) == ("product", 0, before.card.digest)
    root = Path(before.manifest.roots[0])
    build_index(root, index, open_index(index).encoder)  # an append does not forget it
    assert Gallery.open(index).card.composition == "product"
    rollback(index, before.manifest.generation)
    assert Gallery.open(index).card.composition == "sum"
    with pytest.raises(UsageError, match="choose one of sum, slerp, product"):
        set_composition(index, "average", 0.5)


def test_a_model_that_reads_both_has_none_to_choose(tiny_model: Path, tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 3)
    build_index(tmp_path / "photos", tmp_path / "x.index", load_model(tiny_model))
    with pytest.raises(UsageError, match="it reads them together"):
        set_composition(tmp_path / "x.index", "sum", 0.5)


def test_queries_of_two_vectors_are_not_added() -> None:
    rows = np.eye(3, dtype=np.float32)
    plain = QueryVectors({"space": rows})
    two = plain.product(QueryVectors({"space": rows[::-1].copy()}), 0.5)
    with pytest.raises(UsageError, match="cannot be added"):
        plain + two
    joined = QueryVectors.concatenate([plain, two])
    assert joined.two.tolist() == [False] * 3 + [True] * 3
    assert joined[[0, 1]].texts is None
    assert joined[[0, 4]].two.tolist() == [False, True]
    assert set(APART) == {"sum", "slerp", "product"}
