"""The embedded model: its size, its contract, and that it has learned what the README says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cir import load_model, models
from cir.data import wardrobe
from cir.data.attribute_benchmarks import load_wardrobe
from cir.eval.engine import evaluate
from cir.images import scan
from cir.indexer.writing.build import build_index
from cir.indexer.reading.gallery import Gallery
from cir.models import weights
from cir.models.encoder import SprcEncoder
from cir.replacement.precheck import objections
from cir.search.searcher import Searcher
from cir.types import Query


@pytest.fixture(scope="module")
def encoder() -> SprcEncoder:
    return load_model("small")


def test_it_is_small_safe_and_what_its_card_says(encoder: SprcEncoder) -> None:
    directory = models.find("small")
    assert {path.name for path in directory.iterdir()} == {"card.json", "model.safetensors", "vocab.txt"}
    assert weights.sha256(directory / weights.WEIGHTS) == encoder.card.weights_sha256
    assert encoder.card.name == "small-3"
    assert encoder.card.training["held-out"]["images-224.zip R@10"] > 0.85
    assert (encoder.card.vector, encoder.card.tokens) == (True, 0)


def test_two_generations_of_one_line_share_what_is_frozen(encoder: SprcEncoder) -> None:
    lite = load_model("small-lite")
    (frozen,) = models.PACKAGED.glob("frozen-*.safetensors")
    whole = [frozen, *models.find("small").iterdir(), *models.find("small-lite").iterdir()]
    assert sum(path.stat().st_size for path in whole) <= 90_000_000
    assert encoder.card.query_heads == {lite.card.space.id: lite.card.dims}
    assert objections(lite.card, encoder.card) == []
    assert encoder.card.simplex == lite.card.simplex is not None
    assert objections(encoder.card, lite.card) == []  # measured, and then refused: it is worse
    colours = encoder.card.classes["colour"]
    assert colours[: len(lite.card.classes["colour"])] == list(lite.card.classes["colour"])


def test_one_garment_in_two_pictures_is_closer_than_two_garments(encoder: SprcEncoder) -> None:
    pair = [wardrobe.Garment("dress", colour, "plain", "long", "round") for colour in ("red", "blue")]
    pictures = [wardrobe.draw(garment, seed=seed) for garment in pair for seed in (1, 2)]
    vectors = encoder.encode_images(np.stack([encoder.preprocess(picture) for picture in pictures])).vectors
    assert vectors is not None
    similar = vectors @ vectors.T
    assert min(similar[0, 1], similar[2, 3]) > max(similar[0, 2], similar[0, 3], similar[1, 2], similar[1, 3])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encoder: SprcEncoder) -> Searcher:
    """300 garments, drawn with the seed of the benchmark."""
    folder = tmp_path_factory.mktemp("small") / "wardrobe"
    garments = wardrobe.write(folder, 300, seed=2)
    table = {image_id: garment.attributes for image_id, garment in garments}
    build_index(scan([folder]), folder.parent / "w.index", encoder, metadata=table)
    return Searcher(Gallery.open(folder.parent / "w.index"), lambda card: encoder)


def test_it_finds_what_was_asked_for(index: Index) -> None:
    benchmark = load_wardrobe(Path(index.gallery.root(index.ids[0])), queries=150)
    report = evaluate(benchmark, index).report
    assert report.metrics["R@10"].value >= 0.95
    best = max(figures["R@1"].value for figures in report.baselines.values())
    assert report.metrics["R@1"].value >= best + 0.05


def test_text_alone_names_things(index: Index) -> None:
    known = Counter((item["colour"], item["type"]) for item in map(index.gallery.metadata, index.ids)).most_common(12)
    found = 0
    for (colour, kind), count in known:
        hits = index.search(Query((), f"a {colour} {kind}", k=count)).hits
        found += sum((hit.metadata["colour"], hit.metadata["type"]) == (colour, kind) for hit in hits)
    assert found >= 0.6 * sum(count for _, count in known)


def test_it_says_when_nothing_fits(index: Index) -> None:
    assert index.search(Query((), "a red dress")).fits
    assert index.search(Query((), "lipstick")).fits is False
    assert index.search(Query((index.ids[0],))).fits is None
