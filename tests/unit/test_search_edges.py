"""Searching what an older model made, over every route, with real (tiny, random) models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cir import Query, build_index, load_model, open_index
from cir.errors import WeightsError
from cir.images import scan
from cir.indexer.storage.manifest import read_manifest
from cir.models import weights
from cir.models.encoder import SprcEncoder
from cir.models.sprc import Sprc
from cir.replacement.gate import Cost, Verdict
from cir.replacement.study import Replacement, apply
from cir.search.searcher import Searcher
from cir.types import SpaceMapping

ROUTES = ("head", "fitted", "encoder", "procrustes", "simplex", "transform")


@pytest.fixture(scope="module")
def old(tiny_model: Path) -> SprcEncoder:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def new(old: SprcEncoder, make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> SprcEncoder:
    """A model with a query head for the old one's space."""
    folder = tmp_path_factory.mktemp("new")
    start, _, preprocess = weights.load(make_model(folder / "start-1", seed=9))
    torch.manual_seed(4)
    model = Sprc(replace(start.config, query_heads={old.card.space.id: 16}))
    model.load_state_dict(start.state_dict(), strict=False)
    vocabulary = (folder / "start-1" / weights.VOCABULARY).read_bytes()
    weights.save(folder / "new-1", model, weights.ModelDescription("new-1", preprocess, vocabulary))
    return load_model(folder / "new-1")


@pytest.fixture
def index(request: pytest.FixtureRequest, old: SprcEncoder, new: SprcEncoder, wardrobe_folder: Path, tmp_path: Path):
    """An index of the old model, served by the new one over the route that the test names."""
    path, route = tmp_path / "my.index", request.param
    build_index(scan([wardrobe_folder]), path, old, tokens=False)
    matrix = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0].astype(np.float32)
    carries = {
        "procrustes": (matrix, None),
        "simplex": (np.diag(np.arange(16) < 12).astype(np.float32), None),
        "transform": (matrix, np.full(16, 0.1, np.float32)),
        "fitted": (np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32), np.ones(16, np.float32)),
    }
    mapping = SpaceMapping(new.card.digest, old.card.space.id, route, *carries.get(route, (None, None)), 0.9, 0.05)
    mapping = replace(mapping, slope=1.0, intercept=0.0) if route == "transform" else mapping
    found = Replacement(
        old.card.space.id, old.card.name, 40, 400, Verdict(route, {}), Cost(40, 1.0, 1), mappings={route: mapping}
    )
    apply(path, new, [found], read_manifest(path).generation)
    dirs = [new.directory.parent, old.directory.parent] if route == "encoder" else [new.directory.parent]
    return open_index(path, model_dirs=dirs), mapping


def own_scores(index: Searcher, mapping: SpaceMapping, old: SprcEncoder, new: SprcEncoder, query: Query) -> np.ndarray:
    """(N,) the scores, written out."""
    gallery = index.gallery
    stored = np.stack([gallery.stored_values(image_id) for image_id in gallery.ids]).astype(np.float32)
    pixels = new.preprocess(index.picture(query.references[0]))[None]
    native = new.encode_queries(pixels, [query.text])
    if mapping.route == "transform":
        return (mapping.carry(stored) @ native[0]).astype(np.float32)
    asked = {
        "head": lambda: new.encode_queries(pixels, [query.text], mapping.space),
        "encoder": lambda: old.encode_queries(old.preprocess(index.picture(query.references[0]))[None], [query.text]),
        "fitted": lambda: mapping.carry(new.query_states(pixels, [query.text])),
        "procrustes": lambda: mapping.carry(native),
        "simplex": lambda: mapping.carry(native),
    }[mapping.route]()
    return mapping.slope * (stored @ asked[0]) + mapping.intercept


@pytest.mark.parametrize("index", ROUTES, indirect=True)
def test_composed_queries(index, old: SprcEncoder, new: SprcEncoder) -> None:
    index, mapping = index
    query = Query((index.ids[3],), "red with long sleeves", k=39)
    result = index.search(query)
    assert (result.model, result.searched, result.unsearched, len(result.hits)) == ("new-1", 40, 0, 39)
    wanted = dict(zip(index.ids, own_scores(index, mapping, old, new, query), strict=True))
    del wanted[index.ids[3]]
    for hit in result.hits:
        assert hit.score == pytest.approx(wanted[hit.id], abs=2e-3)
    assert result.hits[0].id == max(wanted, key=wanted.__getitem__)


@pytest.mark.parametrize("index", ROUTES, indirect=True)
def test_pictures_texts_and_negatives_alone(index) -> None:
    index, _ = index
    asked = [Query((index.ids[0],)), Query((), "blue"), Query((index.ids[0],), "red", negatives=("blue",))]
    for query, result in zip(asked, index.search_many(asked), strict=True):
        assert len(result.hits) == 10
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)
        assert index.ids[0] not in {hit.id for hit in result.hits} or not query.references


@pytest.mark.parametrize("index", ROUTES, indirect=True)
def test_ranking_by_vectors_is_searching(index) -> None:
    """Evaluation asks with vectors it has made before: every space gets its own, and what is added is unit again."""
    index, _ = index
    vectors = index.query_vectors([Query((), "blue")])
    hits = index.search(Query((), "blue", k=5)).hits
    for given in (vectors, 3 * vectors):
        assert [image_id for image_id, _ in index.rank(given, 5)[0]] == [hit.id for hit in hits]


@pytest.mark.parametrize("index", ["head", "encoder"], indirect=True)
def test_what_an_older_space_makes_itself(index, old: SprcEncoder) -> None:
    """`made` asks the model that spans a space, also where another one's head asks there now."""
    index, mapping = index
    made = index.made(mapping.space, [Query((), "blue")])
    assert np.allclose(made, old.encode_texts(["blue"]), atol=1e-6)


@pytest.mark.parametrize("index", ROUTES, indirect=True)
def test_more_like_this_needs_no_photo(index, tmp_path: Path) -> None:
    index, mapping = index
    with_photos = index.search_many([Query((index.ids[4],)), Query((), "blue")])
    index.gallery.file = lambda image_id: pytest.fail("a stored vector is enough")
    index.gallery.photo = index.gallery.file
    assert [one.hits for one in index.search_many([Query((index.ids[4],)), Query((), "blue")])] == [
        one.hits for one in with_photos
    ]
    stored = np.stack([index.gallery.vector(image_id) for image_id in index.ids])
    wanted = mapping.slope * (stored @ stored[4]) + mapping.intercept
    for hit in index.search(Query((index.ids[4],))).hits:
        assert hit.score == pytest.approx(wanted[index.ids.index(hit.id)], abs=2e-3)


@pytest.mark.parametrize("index", ["encoder"], indirect=True)
def test_an_old_model_that_has_gone_is_named(index, new: SprcEncoder) -> None:
    index, _ = index
    alone = open_index(index.gallery.path, model_dirs=[new.directory.parent])
    hint = Path(alone.gallery.manifest.model_paths[alone.gallery.manifest.segments[0].model])
    moved = hint.rename(hint.with_name("moved-away"))
    try:
        with pytest.raises(WeightsError, match="tiny-1"):
            alone.search(Query((), "blue"))
    finally:
        moved.rename(hint)
