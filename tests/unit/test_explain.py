"""Explanations: maps find what a score depends on, parts are exact, and the score is the one that the search gave."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cir import ModelCard, Query, build_index, load_model, open_index
from cir.arrays import Floats, unit
from cir.compositions import compose
from cir.errors import UsageError
from cir.explain import HeatMap, explain, explain_many
from cir.explain.maps import MOST_REFERENCES
from cir.explain.occlusion import covered
from cir.explain.parts import SAMPLE, sample_of
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.compose import set_composition
from cir.search import Searcher
from cir.testing.fakes import DIMS, FakeEncoder, build, folder_of, make_index, paint, random_rows
from cir.testing.hub_models import save_clip
from cir.testing.two_models import MAPPINGS, NEW, OLD, serve_new
from cir.types import Encoded

SIDE = 56
SPOT = (5, 1)  # row and column of the cell that decides, of 7 x 7


class SpotEncoder:
    """Sees nothing but how light one cell of a picture is; the words count as nothing beside a picture."""

    directory = None
    min_side = SIDE

    def __init__(self, spot: tuple[int, int] = SPOT) -> None:
        self.card = ModelCard("spot-1", *["0" * 64] * 4, dims=2, tokens=0, vector=True)
        self._spot = spot
        self.batches: list[int] = []

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        return nullcontext()

    def preprocess(self, image: Image.Image) -> Floats:
        pixels: Floats = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float32).transpose(2, 0, 1) / 255
        return pixels

    def encode_images(self, pixels: Floats) -> Encoded:
        self.batches.append(len(pixels))
        (row, column), cell = self._spot, SIDE // 7
        seen = pixels[:, :, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].mean(axis=(1, 2, 3))
        return Encoded(unit(np.stack([seen, 1 - seen], axis=1)), None)

    def encode_queries(self, pixels: Floats, captions: Any, space: str | None = None) -> Floats:
        vectors = self.encode_images(pixels).vectors
        assert vectors is not None
        return vectors

    def encode_texts(self, captions: Any, space: str | None = None) -> Floats:
        return np.tile(np.array([[1, 0]], np.float32), (len(captions), 1))


def spotted(path: Path, light: int, seed: int) -> Path:
    """A picture of noise, dark or light in one cell, half of that in the cells around it."""
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    cell = SIDE // 7
    top, left = SPOT[0] * cell, SPOT[1] * cell
    pixels[top : top + cell, left : left + cell] = light
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("spots")
    for number, light in enumerate((255, 250, 0, 5, 128)):
        spotted(folder / "photos" / f"{number}.png", light, number)
    encoder = SpotEncoder()
    build_index(folder / "photos", folder / "x.index", encoder)
    return SimpleNamespace(
        folder=folder, encoder=encoder, s=Searcher(Gallery.open(folder / "x.index"), lambda card: encoder)
    )


def assert_finds_the_spot(heat: HeatMap | None) -> None:
    assert heat is not None
    assert heat.values.dtype == np.float32
    assert (heat.values.min(), heat.values.max()) == (0, 1)
    assert np.unravel_index(heat.values.argmax(), heat.values.shape) == SPOT
    others = heat.values.copy()
    others[SPOT] = 0
    around = (slice(SPOT[0] - 1, SPOT[0] + 2), slice(SPOT[1] - 1, SPOT[1] + 2))
    assert others[around].max() < 0.7  # coverings reach into their neighbours
    others[around] = 0
    assert not others.any()


def test_maps_find_the_only_cell_that_counts(spots: SimpleNamespace) -> None:
    explained = explain(spots.s, Query("0.png", "with dots"), "1.png")
    assert_finds_the_spot(explained.hit)
    assert_finds_the_spot(explained.words)
    (over_reference,) = explained.references
    assert_finds_the_spot(over_reference)
    assert explained.method == "occlusion"
    assert explained.hit is not None
    assert explained.hit.strongest > 0.01
    assert explained.notes == ()


def test_a_map_of_nothing_is_empty(spots: SimpleNamespace) -> None:
    plain = Image.new("RGB", (70, 30), "white")  # whatever is covered, the picture stays as it is
    (heat,) = explain(spots.s, Query(plain, "with dots"), "1.png").references
    assert heat is not None
    assert (heat.values.any(), heat.strongest) == (False, 0)


def test_coverings_are_encoded_in_batches(spots: SimpleNamespace) -> None:
    spots.encoder.batches.clear()
    explain_many(spots.s, Query("0.png", "with dots"), ["1.png", "2.png"])
    assert sum(spots.encoder.batches) == 1 + 50 + 2 * 50  # of the reference they are encoded once for both hits
    assert len(spots.encoder.batches) <= 1 + 3 * 4


def test_a_grid_of_another_size(spots: SimpleNamespace) -> None:
    explained = explain(spots.s, Query("0.png", "with dots"), "1.png", grid=3)
    assert explained.hit is not None
    assert explained.hit.values.shape == (3, 3)
    assert explained.hit.values.argmax() == 6


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (700, 5), (5, 2000)])
def test_pictures_of_any_size_are_covered(size: tuple[int, int], spots: SimpleNamespace) -> None:
    picture = Image.new("RGB", size, "red")
    assert [copy.size for copy in covered(picture, 7)] == [size] * 49
    assert explain(spots.s, Query(picture, "x"), "1.png").references[0] is not None


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("explained")
    build(folder_of(folder / "photos", 12), folder / "x.index", FakeEncoder(tokens=0))
    return Searcher(Gallery.open(folder / "x.index"), lambda card: FakeEncoder(tokens=0))


def score_of(searcher: Searcher, query: Query, image_id: str) -> float:
    """What a search gives."""
    hits = searcher.search(replace(query, k=1000, exclude=())).hits
    return {hit.id: hit.score for hit in hits}[image_id]


QUERIES = [
    Query("0001.png", "red"),
    Query("0001.png"),
    Query(text="red"),
    Query(("0001.png", "0002.png"), "red", negatives=("blue", "long")),
    Query(("0001.png", "0002.png")),
    Query(text="red", negatives="blue"),
    Query("0001.png", negatives="blue"),
    Query("0001.png", "  "),
]


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_parts_are_what_searches_give_without_them(searcher: Searcher, query: Query) -> None:
    explained = explain(searcher, query, "0007.png")
    assert explained.measured.score == pytest.approx(score_of(searcher, query, "0007.png"), abs=1e-6)
    assert explained.query == query
    seen = {}
    for part in explained.parts:
        seen[part.kind, part.number] = part
        without = {
            "references": replace(query, references=()),
            "text": replace(query, text=""),
            "reference": replace(
                query, references=query.references[: part.number] + query.references[part.number + 1 :]
            ),
            "negative": replace(query, negatives=query.negatives[: part.number] + query.negatives[part.number + 1 :]),
        }[part.kind]
        if part.without is None:
            assert not without.references
            assert not without.text
            assert part.difference is None
        else:
            assert part.without.score == pytest.approx(score_of(searcher, without, "0007.png"), abs=1e-6)
            assert part.difference == explained.measured.score - part.without.score
        alone = {
            "references": Query(query.references),
            "text": Query(text=query.text),
            "reference": Query(query.references[part.number : part.number + 1]),
        }.get(part.kind)
        assert (part.alone is None) == (alone is None)
        if part.alone is not None and alone is not None:
            assert part.alone.score == pytest.approx(score_of(searcher, alone, "0007.png"), abs=1e-6)
    several = len(query.references) if len(query.references) > 1 else 0
    words = bool(query.text.strip())
    whole = bool(query.references) and (words or bool(query.negatives))
    spoken = words and bool(query.references or query.negatives)
    assert len(seen) == len(explained.parts) == several + whole + spoken + len(query.negatives)
    assert (explained.words is None) == (not (query.references and words))


def test_how_much_of_the_gallery_is_below(searcher: Searcher) -> None:
    query = Query("0001.png", "red")
    hits = searcher.search(replace(query, k=100)).hits
    for hit in hits:
        below = sum(other.score < hit.score for other in hits) / (len(hits) - 1)
        assert explain(searcher, query, hit.id).measured.above == pytest.approx(below)


def test_a_large_gallery_is_sampled(tmp_path: Path) -> None:
    rows = random_rows([f"{number:05d}" for number in range(3 * SAMPLE)], 1)
    gallery = Gallery.open(make_index(tmp_path / "x.index", [rows]))
    sample = sample_of(gallery, {"00000"})
    assert len(sample) == SAMPLE - 1
    assert sample == sorted(set(sample))
    assert sample[-1] == f"{3 * SAMPLE - 1:05d}"


def test_a_gallery_of_one_image(tmp_path: Path) -> None:
    build(folder_of(tmp_path / "photos", 1), tmp_path / "x.index")
    alone = Searcher(Gallery.open(tmp_path / "x.index"), lambda card: FakeEncoder())
    assert explain(alone, Query(text="red"), "0000.png").measured.above == 1


@pytest.mark.parametrize("mapping", [None, *MAPPINGS], ids=lambda mapping: str(mapping and mapping.route))
@pytest.mark.parametrize(
    "query", [Query("0001.png", "red", negatives="blue"), Query("0001.png")], ids=["composed", "image"]
)
def test_an_index_that_had_its_model_replaced(tmp_path: Path, mapping: Any, query: Query) -> None:
    """The score is the search's, and the hit is encoded by the model that made its vector."""
    build(folder_of(tmp_path / "photos", 12), tmp_path / "x.index", FakeEncoder("old-1", tokens=0))
    serve_new(tmp_path / "x.index", mapping)
    models = {OLD.card.digest: OLD, NEW.card.digest: NEW}
    searcher = Searcher(Gallery.open(tmp_path / "x.index"), lambda card: models[card.digest])
    if mapping is None:
        with pytest.raises(UsageError, match=r"0007.png is not searched: no validated mapping.*cir info"):
            explain(searcher, query, "0007.png")
        return
    if mapping.route.value == "trained head":
        pytest.skip("the fake model has no query head")
    explained = explain(searcher, query, "0007.png")
    assert explained.measured.score == pytest.approx(score_of(searcher, query, "0007.png"), abs=1e-6)
    assert (explained.model, explained.made_by) == ("new-1", "old-1")
    assert explained.hit is not None
    assert explained.hit.score == pytest.approx(explained.measured.score, abs=2e-3)


def test_tokens(sprc_model: Path, tmp_path: Path) -> None:
    build_index(folder_of(tmp_path / "photos", 6), tmp_path / "x.index", load_model(sprc_model))
    searcher = open_index(tmp_path / "x.index", model=sprc_model)
    for query in (Query("0001.png", "red"), Query(text="red"), Query("0001.png")):
        for method in ("occlusion", "gradients"):
            explained = explain(searcher, query, "0003.png", method=method)
            assert explained.measured.score == pytest.approx(score_of(searcher, query, "0003.png"), abs=1e-6)
            assert explained.method == method
            for heat in (explained.hit, *explained.references):
                assert heat is not None
                assert heat.score == pytest.approx(explained.measured.score, abs=2e-3)


@pytest.mark.parametrize("how", ["sum", "slerp", "product"])
def test_dual_encoders(tmp_path: Path, how: str) -> None:
    build_index(folder_of(tmp_path / "photos", 8), tmp_path / "x.index", load_model(save_clip(tmp_path / "clip")))
    set_composition(tmp_path / "x.index", how, 0.4)
    searcher = open_index(tmp_path / "x.index", model_dirs=tmp_path)
    query = Query(("0001.png", "0002.png"), "a red dress")
    explained = explain(searcher, query, "0005.png")
    assert explained.measured.score == pytest.approx(score_of(searcher, query, "0005.png"), abs=1e-6)
    assert explained.notes == ()
    for heat in (explained.hit, *explained.references):
        assert heat is not None
        assert heat.score == pytest.approx(explained.measured.score, abs=5e-3)
    with pytest.raises(UsageError, match="gives no gradients; explain it by occlusion"):
        explain(searcher, query, "0005.png", method="gradients")


def test_other_pictures_in_place_of_an_image(searcher: Searcher) -> None:
    gallery, encoder = searcher.gallery, FakeEncoder(tokens=0)
    queries = searcher.encode([Query(text="red"), Query("0001.png", "blue")])
    pixels = np.stack([encoder.preprocess(searcher.picture(name)) for name in gallery.ids])
    instead = gallery.scores(queries, "0003.png", instead=encoder.encode_images(pixels))
    np.testing.assert_allclose(instead, gallery.scores(queries, gallery.ids), atol=2e-3)
    with pytest.raises(UsageError, match="in place of 2 images; name one"):
        gallery.scores(queries, ["0003.png", "0004.png"], instead=encoder.encode_images(pixels))


def test_references_of_any_kind(searcher: Searcher, tmp_path: Path) -> None:
    path = paint(tmp_path / "own.png", 77)
    with Image.open(path) as picture:
        given = [path, path.read_bytes(), picture.copy(), np.asarray(picture)]
    made = [explain(searcher, Query(reference, "red"), "0003.png").references[0] for reference in given]
    for heat in made:
        assert heat is not None
        np.testing.assert_array_equal(heat.values, made[0].values)  # type: ignore[union-attr]


def test_many_references_get_a_few_maps(searcher: Searcher) -> None:
    explained = explain(searcher, Query(searcher.ids[:6], "red"), "0007.png")
    assert [heat is None for heat in explained.references] == [False] * MOST_REFERENCES + [True] * 2
    assert explained.notes == ("only the first 4 references get a map",)
    assert len([part for part in explained.parts if part.kind == "reference"]) == 6


def test_json(searcher: Searcher) -> None:
    query = Query(("0001.png", Image.new("RGB", (9, 9))), "red", negatives="blue")
    values = explain(searcher, query, "0003.png").to_json()
    assert values["references"] == ["0001.png", None]
    assert np.shape(values["maps"]["hit"]["values"]) == (7, 7)
    assert {part["kind"] for part in values["parts"]} == {"references", "reference", "text", "negative"}
    assert values["method"] == "occlusion"


def test_the_words_are_scored_by_what_the_composition_says(tmp_path: Path) -> None:
    """Of a sum, picture and words can be computed by hand."""
    build_index(folder_of(tmp_path / "photos", 8), tmp_path / "x.index", load_model(save_clip(tmp_path / "clip")))
    set_composition(tmp_path / "x.index", "sum", 0.25)
    searcher = open_index(tmp_path / "x.index", model_dirs=tmp_path)
    explained = explain(searcher, Query("0001.png", "a red dress"), "0005.png")
    image, hit = (searcher.gallery.image(name).vector[None] for name in ("0001.png", "0005.png"))
    text = searcher.encoder.encode_texts(["a red dress"])
    pictures, words = explained.parts
    assert pictures.without is not None
    assert words.without is not None
    assert pictures.without.score == pytest.approx(float((text @ hit.T)[0, 0]), abs=1e-3)
    assert words.without.score == pytest.approx(float((image @ hit.T)[0, 0]), abs=1e-3)
    both = compose(image, text, "sum", 0.25)
    assert explained.measured.score == pytest.approx(float((both @ hit.T)[0, 0]), abs=1e-3)


def test_an_index_that_was_moved(tmp_path: Path) -> None:
    build(folder_of(tmp_path / "photos", 6), tmp_path / "x.index", FakeEncoder(tokens=0))
    shutil.move(tmp_path / "x.index", tmp_path / "y.index")
    searcher = Searcher(Gallery.open(tmp_path / "y.index"), lambda card: FakeEncoder(tokens=0))
    assert explain(searcher, Query(text="red"), "0002.png").hit is not None
    assert searcher.gallery.card.dims == DIMS
