"""`bench/everyday.py` and `bench/paraphrases.py`: what they ask, and that every figure and sheet is written."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cir.data import products
from cir.data.attribute_benchmarks import load_wardrobe
from cir.data.benchmark import Benchmark
from cir.data.captioned_benchmarks import MINED_MEASURES, load_captioned
from cir.data.judged_query import JudgedQuery
from cir.testing.fakes import FakeEncoder, folder_of, paint

ROOT = Path(__file__).parents[2]
Bench = Callable[[str], ModuleType]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Imports a script of `bench/` by name."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module


@pytest.fixture
def product_photos(tmp_path: Path) -> Path:
    """Sixty products of any split; every third title is written twice."""
    folder = tmp_path / "products"
    rows = ["id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"]
    for number in range(60):
        paint(folder / "images" / f"{number}.png", number)
        colour, kind = ("Red", "Blue")[number % 2], ("Shirts", "Jeans")[number % 3 == 0]
        rows.append(f"{number},Men,Apparel,Topwear,{kind},{colour},Fall,2011,Casual,title  {number % 3 * (number % 7)}")
    (folder / "styles.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    """Thirty photos of the split val."""
    folder = tmp_path / "flickr8k"
    folder_of(folder / "images", 30)
    names = [f"{number:04d}.png" for number in range(30)]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *(f"{name},photo {name}" for name in names)]))
    (folder / "val.txt").write_text("\n".join(names))
    return folder


def test_titles_are_those_of_val_and_find_all_their_photos(bench: Bench, product_photos: Path) -> None:
    styles = products.read_styles(product_photos)
    benchmark = bench("everyday").load_titles(product_photos)
    val = {product for product in styles if products.split_of(product) == "val"}
    assert {image.removesuffix(".png") for image in benchmark.gallery} == val
    assert len(val) > 3
    for query in benchmark.queries:
        named = {p for p in val if " ".join(styles[p]["productDisplayName"].split()) == query.caption}
        assert query.targets == {f"{product}.png" for product in named}
    assert sum(len(query.targets) for query in benchmark.queries) == len(val)
    assert (benchmark.protocol, benchmark.form) == ("products-val/images/titles", "text")


def test_every_figure_and_sheet_is_written(
    bench: Bench, flickr8k: Path, product_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyday = bench("everyday")
    encoder = FakeEncoder(tokens=0)

    def mined(root: Path, *, split: str) -> Benchmark:
        """A colour of every photo but the first, which is the target."""
        change, first = ("colour", "red", "blue"), "0000.png"
        photos = load_captioned(root, split=split)
        queries = [
            JudgedQuery(f"m{number}", image, "in blue", frozenset({first}), changes=(change,), groups=("colour",))
            for number, image in enumerate(photos.gallery)
            if image != first
        ]
        return replace(
            photos,
            name="flickr8k-mined",
            protocol=f"flickr8k-mined-{split}",
            queries=tuple(queries),
            measures=MINED_MEASURES,
        )

    monkeypatch.setattr(everyday, "load_mined", mined)
    monkeypatch.setattr(everyday, "load_wardrobe", lambda folder: small_wardrobe(folder))
    monkeypatch.setattr(everyday.models, "load_model", lambda name: encoder)
    sheets, output = tmp_path / "sheets", tmp_path / "figures.json"
    words = [flickr8k, product_photos, "--sheets", sheets, "--output", output]
    done = CliRunner().invoke(everyday.main, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = json.loads(output.read_text())
    assert (written["model"], written["digest"]) == ("fake-1", encoder.card.digest)
    figures = written["figures"]
    assert list(figures) == [
        "flickr8k-val/text-to-image",
        "flickr8k-mined-val",
        "products-val/images",
        "products-val/images/titles",
        "wardrobe-40",
    ]
    assert figures["flickr8k-mined-val"]["kinds"]["colour"]["queries"] == 29
    assert figures["flickr8k-mined-val"]["comparison"]["R@10"]["baseline"] in ("image", "text", "sum")
    assert "kinds" not in figures["flickr8k-val/text-to-image"]
    for report in figures.values():
        assert "model" not in report
        assert report["queries_sha256"]
        assert 0 <= report["metrics"]["R@1"]["value"] <= 1
    assert sorted(path.name for path in (sheets / "val").iterdir()) == [f"{number:02}.png" for number in range(1, 11)]
    galleries = {report["gallery"]["sha256"]: report["gallery"]["images"] for report in figures.values()}
    assert encoder.encoded == sum(galleries.values())  # once, although two of them serve two benchmarks


def small_wardrobe(folder: Path) -> Benchmark:
    from cir.data import wardrobe

    wardrobe.write(folder, 40, seed=3)
    return load_wardrobe(folder, queries=20)


def test_the_paraphrases_are_about_what_no_training_is_about(bench: Bench) -> None:
    sentences = bench("paraphrases").pairs()
    assert len(set(sentences.texts)) == len(sentences.texts) == 180
    assert len(sentences.asked) == 120
    assert Counter(sentences.topics) == dict.fromkeys(("furniture", "food", "tools", "drawings", "travel"), 36)
    for text in sentences.texts:
        assert text == " ".join(text.split())
        assert not {"dress", "dog", "dogs", "shirt"} & set(text.split())
    for sentence, paraphrase, distractor in zip(*(iter(sentences.texts),) * 3, strict=True):
        shared = set(sentence.split()) & set(distractor.split())
        assert len(shared) >= len(set(sentence.split()) & set(paraphrase.split())) or len(shared) > 1, sentence


def test_scores_count_others_of_the_same_meaning_alone(bench: Bench) -> None:
    paraphrases = bench("paraphrases")
    angles = np.radians([0, 10, 12, 90, 100, 104, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    sentences = paraphrases.Sentences(
        [*"abcdefg"], np.array([0, 0, 5, 1, 6, 1, 7]), ["x", "x", "x", "y", "y", "y", "y"]
    )
    assert list(sentences.asked) == [0, 1, 3, 5]
    found = paraphrases.scores(vectors, sentences)
    assert {measure: list(values) for measure, values in found.items()} == {
        "R@1": [1.0, 0.0, 0.0, 0.0],  # b is nearer to c than to a; between d and f lies e
        "R@10": [1.0, 1.0, 1.0, 1.0],
    }
    worse = {measure: np.zeros(4) for measure in found}
    figures = paraphrases.compared(found, worse, sentences)
    assert (figures["sentences"], figures["asked"]) == (7, 4)
    assert figures["R@1"]["topics"]["model"] == {"x": 0.5, "y": 0.0}
    assert (figures["R@1"]["model"], figures["R@1"]["MiniLM"], figures["R@1"]["difference"]) == (0.25, 0.0, 0.25)


def test_captions_of_a_photo_mean_the_same(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\na,x\na,y\nb,z\nc,v\nc,w\nc,u\n")
    (tmp_path / "val.txt").write_text("c\nb\na\n")
    sentences = bench("paraphrases").captions(tmp_path)
    assert list(sentences.texts) == ["v", "w", "u", "z", "x", "y"]
    assert list(sentences.meaning) == [0, 0, 0, 1, 2, 2]
    assert list(sentences.asked) == [0, 1, 2, 4, 5]


def test_every_text_is_encoded_in_order(bench: Bench) -> None:
    encoder = FakeEncoder(tokens=0)
    texts = [f"text {number}" for number in range(300)]
    encoded: list[Any] = []

    def encode(batch: list[str]) -> Any:
        encoded.append(len(batch))
        return encoder.encode_texts(batch)

    vectors = bench("paraphrases").in_batches(encode, texts)
    assert encoded == [128, 128, 44]
    assert np.array_equal(vectors, encoder.encode_texts(texts))
