"""Training in small: wishes name right answers, the loop teaches, and a killed training continues as if it was not."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from cir.data import captions
from cir.data import wardrobe
from cir.data.items import Change
from cir.errors import DataError, UsageError, WeightsError
from cir.images import scan
from cir.models import load_model, weights
from cir.models.sprc import Sprc
from cir.training import loop
from cir.training.attributes import AttributeTask
from cir.training.config import name_apart, read_config
from cir.training.features import cached
from cir.training.schedule import OneCycle
from cir.training.sources import HeldOut, OldGallery, Settings, Source
from cir.training.triplet_sampling import Table

KINDS = ("colour", "type")


@pytest.fixture
def source() -> Source:
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
    kinds = {("colour",): 0.5, ("type",): 0.5}
    return Source("toy", Table("toy", items, KINDS), np.array(maps, np.float16), every, every >= 0, kinds)


@pytest.fixture
def task(source: Source, tmp_path: Path, make_model: Callable[..., Path]) -> AttributeTask:
    """A tiny model to be taught by the toy source."""
    directory = make_model(tmp_path / "toy-1", seed=0)
    model, _, preprocess = weights.load(directory)
    model.requires_grad_(True)
    order = [str(row) for row in range(40)]
    changes = [
        Change(
            str(row),
            (("colour", old, new),),
            tuple(str(i) for i in range(40) if i % 2 != row % 2 and i // 2 % 2 == row // 2 % 2),
        )
        for row in range(20)
        for old, new in [(("red", "blue"), ("blue", "red"))[row % 2]]
    ]
    held_out = HeldOut(source, order, np.arange(40), changes)
    settings = Settings(batch=16, sources={"toy": 1.0}, kinds={}, described=8)
    return AttributeTask(model, "toy-2", settings, 0, [source], [held_out], preprocess, directory / weights.VOCABULARY)


def test_the_loop_teaches_and_keeps_the_best(
    task: AttributeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny model knows five words.
    monkeypatch.setattr(captions, "change_caption", lambda changes, rng, **_: " ".join(new for _, _, new in changes))
    monkeypatch.setattr(captions, "as_typed", lambda caption, rng: caption)
    before = task.validate()
    recipe = loop.Recipe(steps=200, learning_rate=3e-3, warmup=20, evaluate_every=100)
    loop.train(task, recipe, work=tmp_path / "work", out=tmp_path / "out", facts={"config": "toy"})
    after = task.validate()
    assert after["toy R@1"] > before["toy R@1"] + 0.3
    card = weights.read_card(tmp_path / "out")
    assert card.name == "toy-2"
    assert card.training["config"] == "toy"
    assert set(card.min_scores) == {"composed", "text"}
    lines = (tmp_path / "work" / loop.LOG).read_text().splitlines()
    assert lines[0] == "step,part,name,value"
    steps = {(step, part) for step, part, *_ in (line.split(",") for line in lines[1:])}
    assert steps == {*((str(step), "train") for step in range(200)), ("99", "validation"), ("199", "validation")}
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(WeightsError, match=r"does not hold the best model of the training .* step 200"):
        loop.train(task, recipe, work=tmp_path / "work", out=tmp_path / "out", facts={"config": "toy"})


class Stopped(Exception):
    """Stands for a kill."""


def test_a_stopped_training_continues_as_if_it_had_not(
    source: Source, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    def fresh() -> AttributeTask:
        model, _, preprocess = weights.load(make_model(tmp_path / "start", seed=0))
        model.requires_grad_(True)
        settings = Settings(batch=8, sources={"toy": 1.0}, kinds={}, described=4)
        return AttributeTask(
            model, "toy-2", settings, 0, [source], [], preprocess, tmp_path / "start" / weights.VOCABULARY
        )

    recipe = loop.Recipe(steps=12, learning_rate=1e-3, checkpoint_every=3, evaluate_every=100)
    whole = fresh()
    loop.train(whole, recipe, work=tmp_path / "whole", out=tmp_path / "a", facts={})
    for stop in (4, 8):

        def stopping(step: int, figures: Mapping[str, float], stop: int = stop) -> None:
            if step == stop:
                raise Stopped

        with pytest.raises(Stopped):
            loop.train(fresh(), recipe, work=tmp_path / "parts", out=tmp_path / "b", facts={}, report=stopping)
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

        def losses(self, step: int) -> dict[str, Tensor]:
            return {"square": (self.module.slope - 1).square().sum()}

        def validate(self) -> dict[str, float]:
            return {"headline": self.module.slope.sum().item()}

        def save(self, directory: Path, training: Mapping[str, Any], figures: Mapping[str, float]) -> None:
            directory.mkdir(exist_ok=True)
            (directory / weights.CARD).touch()

    fit = Fit()
    loop.train(fit, loop.Recipe(steps=40, learning_rate=0.1), work=tmp_path, out=tmp_path / "out", facts={})
    assert torch.allclose(fit.module.slope, torch.ones(3), atol=0.2)
    assert "parameter.slope" in load_file(tmp_path / loop.CHECKPOINT)
    with pytest.raises(WeightsError, match="not a checkpoint of this training"):
        loop.train(task, loop.Recipe(steps=41, learning_rate=0.1), work=tmp_path, out=tmp_path / "out", facts={})
    with pytest.raises(WeightsError, match="of another configuration"):
        loop.train(task, loop.Recipe(steps=41, learning_rate=0.1), work=tmp_path, out=tmp_path, facts={"config": "b"})


def test_a_head_learns_to_ask_vectors_that_stay(
    source: Source, task: AttributeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space of fixed vectors that only the head can learn: nothing moves them, and nothing tells them apart else."""
    monkeypatch.setattr(captions, "change_caption", lambda changes, rng, **_: " ".join(new for _, _, new in changes))
    monkeypatch.setattr(captions, "as_typed", lambda caption, rng: caption)
    numbers = np.random.default_rng(7)
    looks = {value: numbers.standard_normal(12) for value in ("red", "blue", "long", "sleeves")}
    stored = np.array([looks[item["colour"]] + looks[item["type"]] for item in source.table.items])
    stored = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).astype(np.float16)[:, None]
    old = replace(source, old={"0123456789abcdef": stored})
    held_out = replace(task.held_out[0], source=old)
    config = replace(task.model.config, query_heads={"0123456789abcdef": 12})
    torch.manual_seed(0)
    model = Sprc(config, task.model.tokenizer)
    model.load_state_dict(task.model.state_dict(), strict=False)
    made = AttributeTask(model, "toy-3", task.settings, 0, [old], [held_out], task.preprocess, task.vocabulary)
    before = made.validate()
    recipe = loop.Recipe(steps=200, learning_rate=3e-3, warmup=20, evaluate_every=100)
    loop.train(made, recipe, work=tmp_path / "work", out=tmp_path / "out", facts={})
    after = made.validate()
    assert after["older 012345 R@1"] > before["older 012345 R@1"] + 0.3
    assert after["toy R@1"] > before["toy R@1"] + 0.3
    card = weights.read_card(tmp_path / "out")
    assert card.query_heads == {"0123456789abcdef": 12}
    encoder = load_model(tmp_path / "out", device="cpu")
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    for asked in (
        encoder.encode_queries(pixels, ["red", "blue"], "0123456789abcdef"),
        encoder.encode_texts(["red", "blue"], "0123456789abcdef"),
    ):
        assert asked.shape == (2, 12)
        assert np.abs(np.linalg.norm(asked, axis=1) - 1).max() < 1e-5


def test_what_an_older_model_stores(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model, _, _ = weights.load(make_model(tmp_path / "old-1", seed=0))
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        vectors = OldGallery(model)(pixels)
        assert vectors.shape == (3, 1, 16)
        assert torch.allclose(vectors[:, 0], model.project_vector(model.target_states(model.image_features(pixels))))
        tokens_only, _, _ = weights.load(make_model(tmp_path / "old-2", seed=0, vector=False))
        assert torch.allclose(OldGallery(tokens_only)(pixels), tokens_only.gallery_tokens(pixels))


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


def test_half_of_the_maps_are_mirrored_column_by_column(task: AttributeTask, source: Source) -> None:
    plain = np.arange(4, dtype=np.float16).reshape(1, 4, 1) + 10 * np.arange(40, dtype=np.float16)[:, None, None]
    numbered = Source("n", source.table, plain, source.places, source.among, source.kinds)
    stacked = task._maps([(numbered, row) for row in range(40)], np.random.default_rng(0)).numpy()[:, :, 0]
    mirrored = 0
    for row, out in enumerate(stacked):
        grid = plain[row, :, 0].reshape(2, 2)
        if np.array_equal(out.reshape(2, 2), grid[:, ::-1]):
            mirrored += 1
        else:
            assert np.array_equal(out.reshape(2, 2), grid)
    assert 8 < mirrored < 32


GARMENTS = wardrobe.garments(400, seed=5)


@pytest.fixture(scope="module")
def garments() -> Table:
    """A wardrobe as a table."""
    return Table("wardrobe", [garment.attributes for garment in GARMENTS], wardrobe.KINDS)


def wishes(table: Table, kinds: tuple[str, ...], count: int) -> list[Any]:
    rng, everything, made = random.Random(1), np.ones(len(table.items), bool), []
    for _ in range(3000):
        wish = table.wish(rng.randrange(len(table.items)), kinds, everything, rng)
        made += [wish] if wish is not None else []
        if len(made) == count:
            return made
    raise AssertionError(f"{kinds} is hardly ever asked")


@pytest.mark.parametrize("kinds", [("colour",), ("pattern",), ("sleeves",), ("colour", "pattern"), ("same",)])
def test_a_change_changes_what_it_names_and_keeps_the_rest(garments: Table, kinds: tuple[str, ...]) -> None:
    for wish in wishes(garments, kinds, 30):
        before, after = garments.items[wish.reference], garments.items[wish.target]
        changed = {kind for kind in wardrobe.KINDS if before[kind] != after[kind]}
        assert changed == set(kinds) - {"same"}
        answered = wish.answered_by(np.arange(len(garments.items)))
        assert answered[wish.target]
        assert answered[wish.reference] == (kinds == ("same",))
        for row in np.flatnonzero(answered):
            assert garments.items[row] == after


def test_a_negation_accepts_everything_else(garments: Table) -> None:
    for wish in wishes(garments, ("not colour",), 30):
        before = garments.items[wish.reference]
        for row in np.flatnonzero(wish.answered_by(np.arange(len(garments.items)))):
            assert garments.items[row]["colour"] != before["colour"]
            assert garments.items[row]["type"] == before["type"]


@pytest.mark.parametrize(("kind", "shade"), [("darker colour", "darker"), ("lighter colour", "lighter")])
def test_a_shade_is_asked_of_what_has_it_not(garments: Table, kind: str, shade: str) -> None:
    shades = captions.bank()["shades"][shade]
    for wish in wishes(garments, (kind,), 20):
        assert garments.items[wish.reference]["colour"] not in shades
        assert garments.items[wish.target]["colour"] in shades


def test_a_described_target_owes_nothing_to_the_reference(garments: Table) -> None:
    made = wishes(garments, ("described",), 60)
    assert len({garments.items[wish.target]["type"] for wish in made}) > 4
    for wish in made[:10]:
        for row in np.flatnonzero(wish.answered_by(np.arange(len(garments.items)))):
            assert garments.items[row] == garments.items[wish.target]


def test_an_unknown_value_is_never_called_wrong() -> None:
    looks = [("red", "striped"), ("red", ""), ("red", "plain"), ("blue", "")]
    known = [{"colour": colour, "pattern": pattern, "type": "dress", "gender": "Women"} for colour, pattern in looks]
    table = Table("some", known, ("colour",))
    (wish, *_) = wishes(table, ("pattern",), 1)
    asked = table.items[wish.target]["pattern"]
    answered = wish.answered_by(np.arange(4))
    assert asked in ("striped", "plain")
    assert answered[1]
    assert answered[wish.target]
    assert not answered[{"striped": 2, "plain": 0}[asked]]


def test_features_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def pixels(number: int) -> np.ndarray:
        calls.append(number)
        return np.full((3, 2, 2), number, np.float32)

    trunk = torch.nn.Flatten(2)  # (B, 3, 2, 2) -> (B, 3, 4)
    first = cached(tmp_path / "toy.npy", 5, pixels, trunk, batch_size=2)
    assert first.shape == (5, 3, 4)
    assert first[4].max() == 4
    assert sorted(calls) == [0, 1, 2, 3, 4]
    assert np.array_equal(cached(tmp_path / "toy.npy", 5, pixels, trunk), first)
    assert len(calls) == 5
    with pytest.raises(ValueError, match="holds 5 images, not 6"):
        cached(tmp_path / "toy.npy", 6, pixels, trunk)


def test_the_embedded_models_are_of_one_line() -> None:
    lite, small = read_config("small-lite").model, read_config("small").model
    assert lite is not None
    assert small is not None
    assert lite.simplex is not None
    assert lite.simplex == small.simplex
    assert lite.simplex.dims < lite.dims == small.dims <= 512


@pytest.mark.parametrize("name", ["small", "small-lite", "small-2"])
def test_the_shipped_configuration_is_whole(tmp_path: Path, name: str) -> None:
    config = read_config(name)
    assert config.name == {"small": "small-3", "small-lite": "small-lite-1", "small-2": "small-2"}[name]
    assert sum(config.batches.sources.values()) == pytest.approx(1)
    for source, kinds in config.batches.kinds.items():
        for kind in {part for kinds_ in kinds for part in kinds_.split("+")} - {"described"}:
            assert kind in captions.bank()["train"], (source, kind)
    broken = tmp_path / "broken.toml"
    broken.write_text(config.text.replace("steps = ", "stops = "))
    with pytest.raises(UsageError, match="not a training configuration"):
        read_config(broken)
    with pytest.raises(UsageError, match=r"no configuration 'large'.*small"):
        read_config("large")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("epochs = 30\nlearning", "epochs = 30\nsteps = 4\nlearning"), "either steps or epochs"),
        (("epochs = 30\nlearning", "steps = 30\nlearning"), "one_cycle counts epochs"),
        (("start_divisor = 100\nepochs = 30", "start_divisor = 100\nepochs = 20"), "ends before the 30"),
        (("rise = 0.05", "rise = 1.0"), "a rise in"),
        (("batch = 128", "batch = 0"), "batch and workers are 1 or more"),
        (("checkpoint_every = 140", "checkpoint_every = 0"), "checkpoint_every are 1 or more"),
        (('"fashioniq"\nbatch', '"imagenet"\nbatch'), "no data set 'imagenet'"),
        (('task = "triplets"', 'task = "cats"'), "cats"),
    ],
)
def test_a_configuration_that_cannot_work_says_why(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    text = read_config("fashioniq").text
    assert change[0] in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(UsageError, match=f"not a training configuration.*{says}"):
        read_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a training configuration"):
        read_config(path)


def test_a_cycle_of_one_step_has_no_way_up() -> None:
    for rise in (0.0, 0.1):
        cycle = OneCycle(rise=rise, start_divisor=10, epochs=10)
        rates = [cycle.at(step, 10, 1.0)[0] for step in range(10)]
        assert rates[0] == pytest.approx(1.0)
        assert rates == sorted(rates, reverse=True)


def test_a_successor_takes_the_next_name() -> None:
    assert name_apart("small-4", {"small-3"}) == "small-4"
    assert name_apart("small-3", {"small-3", "small-4"}) == "small-5"
    assert name_apart("mine", {"mine"}) == "mine-2"


def test_what_an_index_holds_is_replaced(tiny_model: Path, make_model: Callable[..., Path], tmp_path: Path) -> None:
    """The models of its segments get heads; every name it knows is taken."""
    from cir import build_index, load_model
    from cir.cli.train import _older
    from cir.indexer.storage.manifest import publish, read_manifest

    Image.new("RGB", (32, 32), "red").save(tmp_path / "one.png")
    build_index(scan([tmp_path / "one.png"]), tmp_path / "my.index", load_model(tiny_model))
    manifest = read_manifest(tmp_path / "my.index")
    other = make_model(tmp_path / "other-1", seed=5)
    card = load_model(other).card
    models = {**manifest.models, card.digest: card.to_json()}
    publish(tmp_path / "my.index", replace(manifest, models=models, generation=2))
    directories, names = _older([tmp_path / "my.index", other], [])
    assert directories == [tiny_model, other]
    assert names == {"tiny-1", "other-1"}
