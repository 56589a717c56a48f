"""The packaged models: size, card, and the quality that the README states."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cir import load_model, models
from cir.data import wardrobe
from cir.data.attribute_benchmarks import load_wardrobe
from cir.eval.engine import evaluate
from cir.files import sha256_file
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import build_index
from cir.models import folder, weights
from cir.models.base_encoder import BaseEncoder
from cir.replacement.precheck import incompatibilities
from cir.search.searcher import Searcher
from cir.types import Query

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder() -> BaseEncoder:
    return load_model("small")


def test_it_is_small_safe_and_what_its_card_says(encoder: BaseEncoder) -> None:
    directory = models.find("small")
    assert {path.name for path in directory.iterdir()} == {"card.json", "model.safetensors", "onnx"}
    assert sha256_file(directory / weights.WEIGHTS) == encoder.card.weights_sha256
    assert encoder.card.name == "small-4"
    assert encoder.card.training["held-out"]["images-224.zip R@10"] > 0.85
    assert (encoder.card.vector, encoder.card.tokens) == (True, 0)


def test_two_generations_of_one_line_share_what_is_frozen(encoder: BaseEncoder) -> None:
    lite = load_model("small-lite")
    (frozen,) = models.PACKAGED.glob("frozen-*.safetensors")
    vocabulary = models.PACKAGED / "vocab.txt"
    shared = [set(folder.files_of(models.find(name))) for name in ("small", "small-lite")]
    assert shared[0] & shared[1] == {frozen, vocabulary}
    assert sum(path.stat().st_size for path in shared[0] | shared[1]) <= 100_000_000
    assert sum(path.stat().st_size for path in shared[0] - shared[1]) <= 60_000_000
    assert encoder.card.query_heads[lite.card.space.id] == lite.card.dims
    assert lite.card.query_heads == {encoder.card.space.id: encoder.card.dims}
    assert incompatibilities(lite.card, encoder.card) == []
    assert encoder.card.simplex == lite.card.simplex is not None
    assert "its class map does not extend that of small-4" in incompatibilities(encoder.card, lite.card)[0]
    colours = encoder.card.classes["colour"]
    assert colours[: len(lite.card.classes["colour"])] == lite.card.classes["colour"]


def test_one_garment_in_two_pictures_is_closer_than_two_garments(encoder: BaseEncoder) -> None:
    pair = [wardrobe.Garment("dress", colour, "plain", "long", "round") for colour in ("red", "blue")]
    pictures = [wardrobe.draw(garment, seed=seed) for garment in pair for seed in (1, 2)]
    vectors = encoder.encode_images(np.stack([encoder.preprocess(picture) for picture in pictures])).vectors
    assert vectors is not None
    similar = vectors @ vectors.T
    assert min(similar[0, 1], similar[2, 3]) > max(similar[0, 2], similar[0, 3], similar[1, 2], similar[1, 3])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encoder: BaseEncoder) -> Searcher:
    """300 garments, drawn with the seed of the benchmark."""
    folder = tmp_path_factory.mktemp("small") / "wardrobe"
    garments = wardrobe.write(folder, 300, seed=2)
    table = {image_id: garment.attributes for image_id, garment in garments}
    build_index(scan([folder]), folder.parent / "w.index", encoder, metadata=table)
    return Searcher(Gallery.open(folder.parent / "w.index"), lambda card: encoder)


def test_it_finds_the_targets(index: Searcher) -> None:
    benchmark = load_wardrobe(Path(index.gallery.image(index.ids[0]).root), queries=150)
    report = evaluate(benchmark, index).report
    assert report.metrics["R@10"].value >= 0.95
    best = max(figures["R@1"].value for figures in report.baselines.values())
    assert report.metrics["R@1"].value >= best + 0.05


def test_a_text_query_finds_garments_of_that_colour_and_type(index: Searcher) -> None:
    items = [index.gallery.image(image_id).metadata for image_id in index.ids]
    common = Counter((item["colour"], item["type"]) for item in items).most_common(12)
    found = 0
    for (colour, kind), count in common:
        hits = index.search(Query((), f"a {colour} {kind}", k=count)).hits
        found += sum((hit.metadata["colour"], hit.metadata["type"]) == (colour, kind) for hit in hits)
    assert found >= 0.6 * sum(count for _, count in common)


def test_a_query_without_an_answer_is_not_confident(index: Searcher) -> None:
    assert index.search(Query((), "a striped sweater")).confident
    assert index.search(Query((), "lipstick")).confident is False
    assert index.search(Query((index.ids[0],))).confident is None
