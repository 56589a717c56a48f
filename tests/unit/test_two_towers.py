"""The tasks `dual` and `combiner` in small: they teach, and what they write is a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cir
from cir.arrays import Floats
from cir.data.judged_query import JudgedQuery
from cir.errors import UsageError, WeightsError
from cir.images import Preprocess
from cir.models import combiner_folder, find_for
from cir.models.combiner import Combiner, CombinerEncoder
from cir.models.dual_encoder import DualEncoder
from cir.models.kinds import check, read_card
from cir.models.small_dual import DualSizes, SmallDual, SmallDualEncoder
from cir.replacement.study import study_replacement
from cir.testing.fakes import folder_of
from cir.testing.hub_models import save_clip
from cir.text import Tokenizer
from cir.training import loop
from cir.training.combiner_task import CombinerTask
from cir.training.dual_task import DualTask
from cir.training.photo_source import AttributeData, HeldOut, PhotoSource
from cir.training.sources import AttributeBatches
from cir.training.tasks import make_task
from cir.training.triplet_sampling import AttributeTable

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "long", "short", "in", "but", "the", "same", "shirt"]
TEXT = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BATCHES = AttributeBatches(batch=16, sources={"toy": 1.0}, kinds={}, descriptions=0, cached_triplets=200)
CPU = torch.device("cpu")


def toy_data(width: int) -> AttributeData:
    """Items whose features show their attributes plainly, and queries about them."""
    numbers = np.random.default_rng(0)
    looks = {value: numbers.standard_normal(width) for value in ("red", "blue", "long", "short")}
    items, maps = [], []
    for number in range(40):
        colour, length = ("red", "blue")[number % 2], ("long", "short")[number // 2 % 2]
        items.append({"colour": colour, "type": length, "pattern": "plain"})
        maps.append([looks[colour] + looks[length] + 0.1 * numbers.standard_normal(width)])
    every = np.arange(40)
    table = AttributeTable("toy", items, ("colour", "type"))
    source = PhotoSource("toy", table, np.array(maps, np.float16), every, every >= 0, {("colour",): 1.0})
    queries = [
        JudgedQuery(
            id=str(row),
            reference=str(row),
            caption=f"in {('blue', 'red')[row % 2]}",
            targets=frozenset(str(i) for i in range(40) if i % 2 != row % 2 and i // 2 % 2 == row // 2 % 2),
        )
        for row in range(20)
    ]
    return AttributeData([source], [HeldOut(source, [str(row) for row in range(40)], every, queries)])


def dual_task(tmp_path: Path) -> DualTask:
    torch.manual_seed(0)
    network = SmallDual(DualSizes(projection_dim=16, stages=(0,), text_length=12, text_config=TEXT))
    vocabulary = "".join(f"{word}\n" for word in WORDS).encode()
    data = toy_data(network.vision_model.width)
    return DualTask(network, "dual-toy", Preprocess(size=32), vocabulary, Tokenizer(WORDS), data, BATCHES, 0, CPU)


@pytest.fixture
def dual(tmp_path: Path) -> Path:
    """The folder of a dual encoder that was trained for a few steps."""
    task = dual_task(tmp_path)
    before = task.validate()
    recipe = loop.Recipe(steps=60, learning_rate=3e-3, warmup=5, evaluate_every=60)
    loop.train(task, recipe, work=tmp_path / "work", out=tmp_path / "dual", facts={"config": "toy"})
    after = task.validate()
    assert after.recalls["toy text"].at10 >= before.recalls["toy text"].at10
    terms = task.losses(0)
    assert set(terms) == {"text to picture", "picture to text"}
    return tmp_path / "dual"


def test_a_dual_encoder_is_trained_and_loaded(dual: Path) -> None:
    encoder = cir.load_model(dual)
    assert isinstance(encoder, SmallDualEncoder)
    card = encoder.card
    assert (card.architecture, card.composition, card.dims) == ("cir-dual", "sum", 16)
    assert card.training["config"] == "toy"
    assert card.sum_weight == json.loads((dual / "config.json").read_text())["sum_weight"]
    assert check(dual) == []
    pixels = np.stack([encoder.preprocess(Image.new("RGB", (50, 40), colour)) for colour in ("red", "blue")])
    together = encoder.encode_queries(pixels, ["in red", "in blue"])
    np.testing.assert_allclose(encoder.encode_queries(pixels[:1], ["in red"]), together[:1], atol=1e-5)
    (dual / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        cir.load_model(dual)


def combiner_task(base: DualEncoder) -> CombinerTask:
    class Spread(type(base)):  # type: ignore[misc]
        """Captions as far apart as real ones; a random text tower tells few of them apart."""

        def text_features(self, captions: list[str]) -> Floats:
            return np.stack([np.random.default_rng(len(text)).standard_normal(16) for text in captions]).astype("f4")

    spread = object.__new__(Spread)
    vars(spread).update(vars(base))
    torch.manual_seed(0)
    return CombinerTask(spread, Combiner(16, 32, 32), "combiner-toy", toy_data(16), BATCHES, 0, CPU)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    encoder = cir.load_model(save_clip(tmp_path_factory.mktemp("base") / "clip"))
    assert isinstance(encoder, DualEncoder)
    return encoder


@pytest.fixture(scope="module")
def combiner(base: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("combiner")
    task = combiner_task(base)
    before = task.validate()
    recipe = loop.Recipe(steps=80, learning_rate=3e-3, warmup=5, evaluate_every=40)
    loop.train(task, recipe, work=folder / "work", out=folder / "combiner", facts={"config": "toy"})
    after = task.validate()
    assert after.recalls["toy composed"].at1 > before.recalls["toy composed"].at1 + 0.5
    return folder / "combiner"


def test_a_combiner_is_trained_and_loaded(combiner: Path, base: DualEncoder) -> None:
    encoder = cir.load_model(combiner)
    assert isinstance(encoder, CombinerEncoder)
    card = encoder.card
    assert (card.composition, card.architecture, card.dims) == ("combiner", "clip", 16)
    assert card.space.id != base.card.space.id
    assert card.query_heads == {base.card.space.id: 16}
    assert find_for(card, [combiner]) == combiner
    picture = Image.new("RGB", (50, 40), "red")
    pixels = encoder.preprocess(picture)[None]
    np.testing.assert_array_equal(encoder.encode_images(pixels).vectors, base.encode_images(pixels).vectors)
    np.testing.assert_array_equal(encoder.encode_texts(["in red"]), base.encode_texts(["in red"]))
    composed = encoder.encode_queries(pixels, ["in red"])
    np.testing.assert_array_equal(encoder.encode_queries(pixels, ["in red"], base.card.space.id), composed)
    assert np.abs(composed - base.encode_queries(pixels, ["in red"])).max() > 1e-3


def test_a_combiner_serves_an_index_of_its_dual_encoder(combiner: Path, base: DualEncoder, tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 220)
    cir.build_index(tmp_path / "photos", tmp_path / "x.index", base)
    searcher = cir.open_index(tmp_path / "x.index")
    (study,) = study_replacement(searcher, cir.load_model(combiner), [])
    figures = study.evidence.fidelity["trained head"]
    assert (figures["image"].first, figures["text"].first) == (1, 1)
    assert study.evidence.verdict.route == "trained head"
    assert "both models store the same vectors, so there is nothing to re-index" in study.evidence.verdict.advice


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / combiner_folder.WEIGHTS).write_bytes(b"x"), "not the weights of combiner-toy"),
        (lambda folder: (folder / combiner_folder.WEIGHTS).unlink(), "cannot be read"),
        (lambda folder: (folder / combiner_folder.CARD).write_text("{}"), "not a combiner of this version"),
    ],
)
def test_a_damaged_combiner_is_named(damage: object, message: str, combiner: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(combiner, tmp_path / "combiner"))
    assert check(folder) == []
    damage(folder)  # type: ignore[operator]
    (problem,) = check(folder)
    assert message in problem
    with pytest.raises(WeightsError, match=message):
        read_card(folder)


def test_what_cannot_be_combined_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from cir.training.config import read_config

    config = read_config("combiner")
    with pytest.raises(UsageError, match="is no dual encoder"):
        make_task(config, tmp_path, tmp_path, start=tiny_model)
    with pytest.raises(UsageError, match="--start MODEL"):
        make_task(config, tmp_path, tmp_path)
    with pytest.raises(UsageError, match="only the task attributes"):
        make_task(config, tmp_path, tmp_path, start=tiny_model, replaces=[tiny_model])
    with pytest.raises(UsageError, match="leave out --start"):
        make_task(read_config("dual"), tmp_path, tmp_path, start=tiny_model)
