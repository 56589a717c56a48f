"""Searching vectors of an older model by every route, with real (tiny, random) models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cir import Query, build_index, load_model, open_index
from cir.arrays import Floats
from cir.errors import SpaceMismatchError, WeightsError
from cir.explain import explain
from cir.images import scan
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.reading.usage import read_usage
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.build import BuildOptions
from cir.indexer.writing.serve import serve_model
from cir.known import remember_model, remember_roots
from cir.mappings import Maps, Route, SpaceMapping
from cir.models import weights
from cir.models.encoder import SprcEncoder
from cir.models.sprc import Sprc
from cir.search import Searcher
from cir.search.encoding import BATCH, SpaceEncoder


@dataclass(frozen=True)
class Replaced:
    """An index of the old model that the new one serves by a route."""

    searcher: Searcher
    mapping: SpaceMapping
    old: SprcEncoder
    new: SprcEncoder

    def expected_scores(self, query: Query) -> Floats:
        """(N,) the scores of a query of one reference and a caption, written out."""
        images = [self.searcher.gallery.image(image_id) for image_id in self.searcher.ids]
        stored = np.stack([image.stored for image in images]).astype(np.float32)
        pixels = self.new.preprocess(self.searcher.picture(query.references[0]))[None]
        native = self.new.encode_queries(pixels, [query.text])
        if self.mapping.maps is Maps.GALLERY:
            mapped: Floats = self.mapping.map(stored) @ native[0]
            return mapped
        vectors = {
            Maps.NOTHING: lambda: self.new.encode_queries(pixels, [query.text], self.mapping.space),
            Maps.STATES: lambda: self.mapping.map(self.new.query_states(pixels, [query.text])),
            Maps.QUERIES: lambda: self.mapping.map(native),
        }[self.mapping.maps]()
        scores: Floats = self.mapping.slope * (stored @ vectors[0]) + self.mapping.intercept
        return scores


@pytest.fixture(scope="module")
def old(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> SprcEncoder:
    """The model that made the stored vectors, in a folder of its own, because a test moves it."""
    return load_model(make_model(tmp_path_factory.mktemp("old") / "tiny-1", seed=0))


@pytest.fixture(scope="module")
def new(old: SprcEncoder, make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> SprcEncoder:
    """A model with a query head for the old model's space."""
    folder = tmp_path_factory.mktemp("new")
    start, _, preprocess = weights.load(make_model(folder / "start-1", seed=9))
    torch.manual_seed(4)
    model = Sprc(replace(start.config, query_heads={old.card.space.id: 16}))
    model.load_state_dict(start.state_dict(), strict=False)
    vocabulary = (folder / "start-1" / weights.VOCABULARY).read_bytes()
    weights.save(folder / "new-1", model, weights.ModelDescription("new-1", preprocess, vocabulary))
    return load_model(folder / "new-1")


def mapping_of(route: Route, old: SprcEncoder, new: SprcEncoder) -> SpaceMapping:
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0].astype(np.float32)
    arrays: dict[Route, tuple[Floats, Floats | None]] = {
        Route.PROCRUSTES: (rotation, None),
        Route.SIMPLEX: (np.diag(np.arange(16) < 12).astype(np.float32), None),
        Route.RIDGE: (rotation, np.full(16, 0.1, np.float32)),
        Route.QUERY_RIDGE: (rotation, np.full(16, 0.1, np.float32)),
        Route.LOW_RANK: (rotation @ np.diag(np.arange(16) < 8).astype(np.float32), np.full(16, 0.1, np.float32)),
        Route.FITTED_HEAD: (
            np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32),
            np.ones(16, np.float32),
        ),
    }
    matrix, bias = arrays.get(route, (None, None))
    slope, intercept = (1.0, 0.0) if route.maps is Maps.GALLERY else (0.9, 0.05)
    if route.value.endswith("mlp"):
        rng = np.random.default_rng(3)
        hidden = {"inner": (5, 16), "inner_bias": (5,), "outer": (16, 5)}
        layer = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in hidden.items()}
        return SpaceMapping(new.card.digest, old.card.space.id, route, rotation, None, slope, intercept, **layer)
    return SpaceMapping(new.card.digest, old.card.space.id, route, matrix, bias, slope, intercept)


@pytest.fixture(scope="module", params=list(Route))
def replaced(
    request: pytest.FixtureRequest,
    old: SprcEncoder,
    new: SprcEncoder,
    wardrobe_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Replaced:
    path, route = tmp_path_factory.mktemp("replaced") / "my.index", request.param
    build_index(scan([wardrobe_folder]), path, old, options=BuildOptions(tokens=False))
    mapping = mapping_of(route, old, new)
    generation = read_manifest(IndexFolder(path)).generation
    serve_model(path, new, {old.card.space.id: mapping}, generation=generation)
    return Replaced(open_index(path), mapping, old, new)


def test_composed_queries(replaced: Replaced) -> None:
    searcher = replaced.searcher
    query = Query((searcher.ids[3],), "red with long sleeves", k=39)
    result = searcher.search(query)
    assert (result.model, result.searched, result.unsearched, len(result.hits)) == ("new-1", 40, 0, 39)
    expected = dict(zip(searcher.ids, replaced.expected_scores(query), strict=True))
    del expected[searcher.ids[3]]
    for hit in result.hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=2e-3)
    assert result.hits[0].id == max(expected, key=expected.__getitem__)


@pytest.mark.parametrize("method", ["gradients", "occlusion"])
def test_an_explanation_is_of_the_score_that_a_search_gives(replaced: Replaced, method: str) -> None:
    searcher = replaced.searcher
    composed = Query((searcher.ids[3], searcher.ids[5]), "red with long sleeves", negatives=("blue",), k=3)
    for query in (composed, Query((), "red", k=3), Query((searcher.ids[3],), negatives=("blue",), k=3)):
        best = searcher.search(query).hits[0]
        explained = explain(searcher, query, best.id, method=method, grid=2)
        assert explained.measured.score == pytest.approx(best.score, abs=1e-6)
        assert (explained.made_by, explained.method) == ("tiny-1", method)
        heats = [explained.hit]
        if query.text:  # else the search takes the stored vector of the reference, by the old model
            heats += explained.references
            assert explained.notes == ()
        for heat in heats:
            assert heat is not None
            assert heat.score == pytest.approx(best.score, abs=3e-3)


def test_images_and_texts_alone_and_negatives(replaced: Replaced) -> None:
    searcher = replaced.searcher
    queries = [Query((searcher.ids[0],)), Query((), "blue"), Query((searcher.ids[0],), "red", negatives=("blue",))]
    for query, result in zip(queries, searcher.search_many(queries), strict=True):
        assert len(result.hits) == 10
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)
        assert searcher.ids[0] not in {hit.id for hit in result.hits} or not query.references


def test_ranking_by_vectors_is_searching(replaced: Replaced) -> None:
    """Evaluation ranks vectors that it has encoded before, in every space, and normalises their sums."""
    vectors = replaced.searcher.encode([Query((), "blue")])
    assert set(vectors.by_space) == set(replaced.searcher.gallery.query_spaces)
    hits = replaced.searcher.search(Query((), "blue", k=5)).hits
    for given in (vectors, 3 * vectors):
        assert [image_id for image_id, _ in replaced.searcher.rank(given, 5)[0]] == [hit.id for hit in hits]


def test_threads_encode_what_single_queries_encode(replaced: Replaced, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = replaced.searcher
    monkeypatch.setattr("cir.threads.default_workers", lambda: 3)
    queries = [Query((searcher.ids[n],), "red with long sleeves") for n in range(2 * BATCH)]
    queries += [Query((), "blue"), Query((searcher.ids[0],), "red", negatives=("blue",)), Query((searcher.ids[1],))]
    together = searcher.encode(queries)
    for row, query in enumerate(queries):
        for space, vectors in searcher.encode([query]).by_space.items():
            assert np.abs(together.by_space[space][row] - vectors[0]).max() < 1e-5


def test_the_maker_of_a_space_encodes_natively(replaced: Replaced) -> None:
    """`encode_native` uses the model that made a space, also where another model's head is in use."""
    queries = [Query((), "blue"), Query((replaced.searcher.ids[0],))]
    vectors = replaced.searcher.encode_native(replaced.mapping.space, queries)
    assert vectors[0] == pytest.approx(replaced.old.encode_texts(["blue"])[0], abs=1e-5)
    photo = replaced.old.preprocess(replaced.searcher.picture(replaced.searcher.ids[0]))[None]
    encoded = replaced.old.encode_images(photo).vectors
    assert encoded is not None
    assert vectors[1] == pytest.approx(encoded[0], abs=2e-3)


def test_more_like_this_needs_no_photo(replaced: Replaced, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher, mapping = replaced.searcher, replaced.mapping
    queries = [Query((searcher.ids[4],)), Query((), "blue")]
    with_photos = searcher.search_many(queries)
    for read in ("read", "read_current"):
        monkeypatch.setattr(StoredImage, read, lambda image: pytest.fail(f"{image.id}: a stored vector is enough"))
    assert [result.hits for result in searcher.search_many(queries)] == [result.hits for result in with_photos]
    stored = np.stack([searcher.gallery.image(image_id).vector for image_id in searcher.ids])
    expected = mapping.slope * (stored @ stored[4]) + mapping.intercept
    for hit in searcher.search(Query((searcher.ids[4],))).hits:
        assert hit.score == pytest.approx(expected[searcher.ids.index(hit.id)], abs=2e-3)


def test_an_old_model_that_is_missing(replaced: Replaced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old model is needed only where a mapping has to be measured: no route of a search loads it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # other tests have the same model elsewhere
    remember_roots(replaced.searcher.gallery.manifest.roots)
    for encoder in (replaced.old, replaced.new):
        assert encoder.directory is not None
        remember_model(encoder.card.digest, encoder.directory)
    searcher = open_index(replaced.searcher.gallery.folder.root)
    folder = replaced.old.directory
    assert folder is not None
    moved = folder.rename(folder.with_name("moved-away"))
    try:
        blank = Query((searcher.ids[2],), " ")  # composed with an empty caption, not "more like this"
        for query in (Query((searcher.ids[2],), "red"), Query((searcher.ids[2],)), Query((), "blue"), blank):
            assert len(searcher.search(query).hits) == 10
        with pytest.raises(WeightsError, match="tiny-1"):
            searcher.encode_native(replaced.mapping.space, [Query((), "blue")])
    finally:
        moved.rename(folder)


def test_retrieved_images_of_an_older_model_are_logged(replaced: Replaced) -> None:
    """A backfill encodes the most retrieved images first; a `Searcher` made by hand logs nothing."""
    searcher, folder = replaced.searcher, replaced.searcher.gallery.folder
    before = read_usage(folder)
    hits = searcher.search(Query((), "red", k=3)).hits
    assert read_usage(folder) - before == dict.fromkeys([hit.id for hit in hits], 1)
    Searcher(searcher.gallery, searcher.encoder_of).search(Query((), "red", k=3))
    assert sum(read_usage(folder).values()) == sum(before.values()) + 3


def test_a_fitted_head_needs_query_states(old: SprcEncoder, new: SprcEncoder) -> None:
    class Plain:
        """An encoder without the states of its queries."""

        card, preprocess, shared_by = new.card, new.preprocess, new.shared_by

    encoder = SpaceEncoder(lambda: Plain(), fitted_head=mapping_of(Route.FITTED_HEAD, old, new))  # type: ignore[arg-type,return-value]
    with pytest.raises(SpaceMismatchError, match="new-1 does not expose the query states"):
        encoder.texts(["blue"])
