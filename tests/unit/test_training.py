"""Training in small: the loop teaches, and a killed training continues as if it had not been killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from cir.data import captions
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, WeightsError
from cir.images import Preprocess, scan
from cir.model_card import GalleryKind
from cir.models import folder, load_model, weights
from cir.models.sprc import Sprc
from cir.training import features, loop
from cir.training.attribute_validation import AttributeValidation
from cir.training.attributes import AttributeTask
from cir.training.checkpoint import CHECKPOINT
from cir.training.encoded_triplets import TripletEncoder
from cir.training.features import OlderGallery, cached
from cir.training.photo_source import AttributeData, HeldOut, PhotoSource
from cir.training.sources import AttributeBatches
from cir.training.triplet_sampling import AttributeTable
from cir.training.validation import Validation

KINDS = ("colour", "type")


@pytest.fixture
def source() -> PhotoSource:
    """Items whose maps show their attributes plainly."""
    numbers = np.random.default_rng(0)
    values = {"colour": ["red", "blue"], "type": ["long", "sleeves"]}
    items, maps = [], []
    looks = {value: numbers.standard_normal(32) for kind in values.values() for value in kind}
    for number in range(40):
        colour, kind = values["colour"][number % 2], values["type"][number // 2 % 2]
        items.append({"colour": colour, "type": kind, "pattern": "plain"})
        maps.append(looks[colour] + looks[kind] + 0.1 * numbers.standard_normal((4, 32)))
    every = np.arange(40)
    kinds: dict[tuple[str, ...], float] = {("colour",): 0.5, ("type",): 0.5}
    table = AttributeTable("toy", items, KINDS)
    return PhotoSource("toy", table, np.array(maps, np.float16), every, every >= 0, kinds)


def described(name: str, directory: Path) -> weights.ModelDescription:
    """A new name for a model's preprocessing and vocabulary."""
    _, _, preprocess = weights.load(directory)
    return weights.ModelDescription(name, preprocess, (directory / weights.VOCABULARY).read_bytes())


@pytest.fixture
def task(source: PhotoSource, tmp_path: Path, make_model: Callable[..., Path]) -> AttributeTask:
    """A tiny model to be trained on the toy source."""
    directory = make_model(tmp_path / "toy-1", seed=0)
    model, _, _ = weights.load(directory)
    model.requires_grad_(True)
    queries = [
        JudgedQuery(
            id=str(row),
            reference=str(row),
            caption=new,
            targets=frozenset(str(i) for i in range(40) if i % 2 != row % 2 and i // 2 % 2 == row // 2 % 2),
            changes=(("colour", old, new),),
        )
        for row in range(20)
        for old, new in [(("red", "blue"), ("blue", "red"))[row % 2]]
    ]
    held_out = HeldOut(source, [str(row) for row in range(40)], np.arange(40), queries)
    batches = AttributeBatches(batch=16, sources={"toy": 1.0}, kinds={}, descriptions=8)
    return AttributeTask(model, described("toy-2", directory), batches, 0, AttributeData([source], [held_out]))


@pytest.fixture
def plain_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training captions of the new values alone: the tiny model knows five words."""
    monkeypatch.setattr(captions, "change_caption", lambda changes, rng, **_: " ".join(new for _, _, new in changes))
    monkeypatch.setattr(captions, "augment", lambda caption, rng: caption)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_captions")
def test_the_loop_teaches_and_keeps_the_best(task: AttributeTask, tmp_path: Path) -> None:
    before = task.validate()
    recipe = loop.Recipe(steps=200, learning_rate=3e-3, warmup=20, evaluate_every=100)
    loop.train(task, recipe, work=tmp_path / "work", out=tmp_path / "out", facts={"config": "toy"})
    after = task.validate()
    assert after.galleries["toy"].at1 > before.galleries["toy"].at1 + 0.3
    card = folder.read_card(tmp_path / "out")
    assert card.name == "toy-2"
    assert card.training["config"] == "toy"
    assert set(card.min_scores) == {"composed", "text"}
    assert card.sum_weight == after.sum_weight
    assert card.training["held-out"] == after.to_json()
    lines = [line.split(",") for line in (tmp_path / "work" / loop.LOG).read_text().splitlines()]
    assert lines[0] == ["step", "part", "name", "value"]
    steps = {(step, part) for step, part, *_ in lines[1:]}
    assert steps == {*((str(step), "train") for step in range(200)), ("99", "validation"), ("199", "validation")}
    assert {name for step, part, name, _ in lines if (step, part) == ("199", "validation")} == set(after.figures)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(WeightsError, match=r"does not hold the best model of the training .* step 200"):
        loop.train(task, recipe, work=tmp_path / "work", out=tmp_path / "out", facts={"config": "toy"})


def test_figures_are_named_once_and_never_read_back() -> None:
    toys = GalleryKind.of("toy", np.ones(1, np.float32), 0.1, {"text": 0.2})
    found = AttributeValidation(1.5, sum_curve={0.0: 0.1, 0.35: 0.4, 0.7: 0.4}, gallery_kinds=(toys,))
    assert found.sum_weight == 0.35  # the first of equals
    assert AttributeValidation(0.0).sum_weight == 0.5
    assert found.figures == {
        "sum 0.00 R@10": 0.1,
        "sum 0.35 R@10": 0.4,
        "sum 0.70 R@10": 0.4,
        "min score text": 0.2,
        "headline": 1.5,
    }
    assert found.summary == {"min score text": 0.2, "headline": 1.5}


class Stopped(Exception):
    """Stands for a kill."""


@pytest.mark.slow
def test_a_stopped_training_continues_as_if_it_had_not(
    source: PhotoSource, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    def fresh() -> AttributeTask:
        directory = make_model(tmp_path / "start", seed=0)
        model, _, _ = weights.load(directory)
        model.requires_grad_(True)
        batches = AttributeBatches(batch=8, sources={"toy": 1.0}, kinds={}, descriptions=4)
        return AttributeTask(model, described("toy-2", directory), batches, 0, AttributeData([source], []))

    recipe = loop.Recipe(steps=12, learning_rate=1e-3, checkpoint_every=3, evaluate_every=100)
    whole = fresh()
    loop.train(whole, recipe, work=tmp_path / "whole", out=tmp_path / "a", facts={})
    for stop in (4, 8):

        def stopping(step: int, terms: Mapping[str, float], stop: int = stop) -> None:
            if step == stop:
                raise Stopped

        with pytest.raises(Stopped):
            loop.train(fresh(), recipe, work=tmp_path / "parts", out=tmp_path / "b", facts={}, on_step=stopping)
    last = fresh()
    loop.train(last, recipe, work=tmp_path / "parts", out=tmp_path / "b", facts={})
    ours, theirs = last.module.state_dict(), whole.module.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    logs = [(tmp_path / name / loop.LOG).read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_checkpoint_of_another_training_is_refused(task: AttributeTask, tmp_path: Path) -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.zeros(3))

    class Fit:
        module = Line()
        left_out = 0
        rates: ClassVar[dict[str, float]] = {}

        def losses(self, step: int) -> dict[str, Tensor]:
            return {"square": (self.module.slope - 1).square().sum()}

        def validate(self) -> Validation:
            return Validation(self.module.slope.sum().item())

        def save(self, directory: Path, training: Mapping[str, Any], validation: Validation) -> None:
            directory.mkdir(exist_ok=True)
            (directory / weights.CARD).touch()

    fit = Fit()
    loop.train(fit, loop.Recipe(steps=40, learning_rate=0.1), work=tmp_path, out=tmp_path / "out", facts={})
    assert torch.allclose(fit.module.slope, torch.ones(3), atol=0.2)
    assert "parameter.slope" in load_file(tmp_path / CHECKPOINT)
    with pytest.raises(WeightsError, match="not a checkpoint of this training"):
        loop.train(task, loop.Recipe(steps=41, learning_rate=0.1), work=tmp_path, out=tmp_path / "out", facts={})
    with pytest.raises(WeightsError, match="of another configuration"):
        loop.train(task, loop.Recipe(steps=41, learning_rate=0.1), work=tmp_path, out=tmp_path, facts={"config": "b"})


@pytest.mark.slow
@pytest.mark.usefixtures("plain_captions")
def test_a_head_learns_the_vectors_of_an_older_gallery(
    source: PhotoSource, task: AttributeTask, tmp_path: Path
) -> None:
    """A gallery of fixed vectors that only the head can learn, and that nothing else tells apart."""
    numbers = np.random.default_rng(7)
    looks = {value: numbers.standard_normal(12) for value in ("red", "blue", "long", "sleeves")}
    stored = np.array([looks[item["colour"]] + looks[item["type"]] for item in source.table.items])
    stored = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).astype(np.float16)[:, None]
    older = replace(source, older={"0123456789abcdef": stored})
    held_out = replace(task.data.held_out[0], source=older)
    config = replace(task.model.config, query_heads={"0123456789abcdef": 12})
    torch.manual_seed(0)
    model = Sprc(config, task.model.tokenizer)
    model.load_state_dict(task.model.state_dict(), strict=False)
    description = replace(task.description, name="toy-3")
    with_head = AttributeTask(model, description, task.batches, 0, AttributeData([older], [held_out]))
    before = with_head.validate()
    recipe = loop.Recipe(steps=200, learning_rate=3e-3, warmup=20, evaluate_every=100)
    loop.train(with_head, recipe, work=tmp_path / "work", out=tmp_path / "out", facts={})
    after = with_head.validate()
    assert after.older["0123456789abcdef"].at1 > before.older["0123456789abcdef"].at1 + 0.3
    assert after.galleries["toy"].at1 > before.galleries["toy"].at1 + 0.3
    card = folder.read_card(tmp_path / "out")
    assert card.query_heads == {"0123456789abcdef": 12}
    encoder = load_model(tmp_path / "out", device="cpu")
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    for queries in (
        encoder.encode_queries(pixels, ["red", "blue"], "0123456789abcdef"),
        encoder.encode_texts(["red", "blue"], "0123456789abcdef"),
    ):
        assert queries.shape == (2, 12)
        assert np.abs(np.linalg.norm(queries, axis=1) - 1).max() < 1e-5


def test_what_an_older_model_stores(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model, _, _ = weights.load(make_model(tmp_path / "old-1", seed=0))
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        vectors = OlderGallery(model)(pixels)
        assert vectors.shape == (3, 1, 16)
        assert torch.allclose(vectors[:, 0], model.project_vector(model.target_states(model.image_features(pixels))))
        tokens_only, _, _ = weights.load(make_model(tmp_path / "old-2", seed=0, vector=False))
        assert torch.allclose(OlderGallery(tokens_only)(pixels), tokens_only.gallery_tokens(pixels))


def test_a_loss_that_is_no_number_stops_the_training(task: AttributeTask, tmp_path: Path) -> None:
    with torch.no_grad():
        task.model.temp.fill_(float("nan"))
    with pytest.raises(DataError, match="step 0: the loss is nan"):
        loop.train(task, loop.Recipe(steps=2, learning_rate=0.1), work=tmp_path, out=tmp_path / "out", facts={})


def test_the_rate_warms_up_and_falls() -> None:
    recipe = loop.Recipe(steps=100, learning_rate=1.0, warmup=10)
    rates = [recipe.pace(step)[0] for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) <= 1.01
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02


def test_half_of_the_maps_are_mirrored_column_by_column(task: AttributeTask, source: PhotoSource) -> None:
    plain = np.arange(4, dtype=np.float16).reshape(1, 4, 1) + 10 * np.arange(40, dtype=np.float16)[:, None, None]
    numbered = replace(source, maps=plain)
    encoder = TripletEncoder(task.model)
    stacked = encoder.maps([(numbered, row) for row in range(40)], np.random.default_rng(0)).numpy()[:, :, 0]
    mirrored = 0
    for row, out in enumerate(stacked):
        grid = plain[row, :, 0].reshape(2, 2)
        if np.array_equal(out.reshape(2, 2), grid[:, ::-1]):
            mirrored += 1
        else:
            assert np.array_equal(out.reshape(2, 2), grid)
    assert 8 < mirrored < 32


def test_an_older_model_over_the_same_backbone_takes_the_stored_features(
    tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    model, _, preprocess = weights.load(make_model(tmp_path / "toy", seed=0))
    numbers = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    read: list[int] = []

    def pixels(_: Preprocess, number: int) -> np.ndarray:
        read.append(number)
        return numbers[number]

    store = features.FeatureStore(tmp_path, model.vision, preprocess, {"same": (model, preprocess)})
    _, older = store.compute("toy", 3, pixels)
    assert sorted(read) == [0, 1, 2]
    another, _, _ = weights.load(make_model(tmp_path / "other", seed=1))
    wanted = OlderGallery(model)(torch.from_numpy(numbers)).detach().numpy()
    np.testing.assert_allclose(older["same"], wanted, atol=2e-3)
    store = features.FeatureStore(tmp_path, model.vision, preprocess, {"other": (another, preprocess)}, key="2")
    store.compute("toy", 3, pixels)
    assert sorted(read) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def pixels(number: int) -> np.ndarray:
        calls.append(number)
        return np.full((3, 2, 2), number, np.float32)

    backbone = torch.nn.Flatten(2)  # (B, 3, 2, 2) -> (B, 3, 4)
    monkeypatch.setattr(features, "CPU_BATCH", 2)
    first = cached(tmp_path / "toy.npy", 5, pixels, backbone)
    assert first.shape == (5, 3, 4)
    assert first[4].max() == 4
    assert sorted(calls) == [0, 1, 2, 3, 4]
    assert np.array_equal(cached(tmp_path / "toy.npy", 5, pixels, backbone), first)
    assert len(calls) == 5
    with pytest.raises(DataError, match="holds 5 images of float16, not 6"):
        cached(tmp_path / "toy.npy", 6, pixels, backbone)


def test_the_models_of_an_index_are_replaced(tiny_model: Path, make_model: Callable[..., Path], tmp_path: Path) -> None:
    """The models of its segments get heads; every name in its manifest is taken."""
    from cir import build_index
    from cir.cli.train import _older
    from cir.indexer.storage.folder import IndexFolder
    from cir.indexer.storage.generations import read_manifest
    from cir.indexer.storage.writer import writing

    Image.new("RGB", (32, 32), "red").save(tmp_path / "one.png")
    build_index(scan([tmp_path / "one.png"]), tmp_path / "my.index", load_model(tiny_model))
    folder = IndexFolder(tmp_path / "my.index")
    other = make_model(tmp_path / "other-1", seed=5)
    card = load_model(other).card
    with writing(folder) as writer:
        manifest = read_manifest(folder)
        writer.publish(replace(manifest, models={**manifest.models, card.digest: card}))
    directories, names = _older([tmp_path / "my.index", other], [])
    assert directories == [tiny_model, other]
    assert names == {"tiny-1", "other-1"}
