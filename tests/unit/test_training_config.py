"""Training configurations: the shipped ones are complete, and an invalid one names its mistake."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from cir.data import captions
from cir.errors import UsageError
from cir.training.config import read_config
from cir.training.schedule import OneCycle
from cir.training.sources import AttributeBatches
from cir.training.tasks import free_name


def test_the_embedded_models_are_of_one_line() -> None:
    lite, small = read_config("small-lite").model, read_config("small").model
    assert lite is not None
    assert small is not None
    assert lite.simplex is not None
    assert lite.simplex == small.simplex
    assert lite.simplex.dims < lite.dims <= small.dims <= 1024


ROOT = Path(__file__).parents[2]
NAMES = {
    "small": "small-4",
    "small-queries": "small-4",
    "small-heads": "small-4",
    "small-backbone": "small-4-0",
    "small-backbone-longer": "small-4-0",
    "small-3": "small-3",
    "small-2": "small-2",
    "small-lite": "small-lite-1",
    "small-lite-asker": "small-lite-2",
    "small-lite-backbone": "small-lite-0",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_configuration_is_complete(tmp_path: Path, name: str) -> None:
    config = read_config(name)
    assert config.name == NAMES[name]
    assert isinstance(config.batches, AttributeBatches)
    assert sum(config.batches.sources.values()) == pytest.approx(1)
    for source, kinds in config.batches.kinds.items():
        assert sum(kinds.values()) == pytest.approx(1, abs=0.06)
        for kind in {part for combined in kinds for part in combined.split("+")} - {"described"}:
            assert kind in captions.templates("train"), (source, kind)
    broken = tmp_path / "broken.toml"
    broken.write_text(config.text.replace("steps = ", "stops = "))
    with pytest.raises(UsageError, match="not a training configuration"):
        read_config(broken)
    with pytest.raises(UsageError, match=r"no configuration 'large'.*small"):
        read_config("large")


def test_the_text_for_the_card_includes_the_shared_shares(tmp_path: Path) -> None:
    config = read_config("small")
    assert "kinds" not in (ROOT / "cir/training/configs/small.toml").read_text()
    assert isinstance(config.batches, AttributeBatches)
    assert tomllib.loads(config.text)["batches"]["kinds"] == config.batches.kinds
    again = tmp_path / "again.toml"
    again.write_text(config.text)
    assert read_config(again) == config


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
    assert free_name("small-4", {"small-3"}) == "small-4"
    assert free_name("small-3", {"small-3", "small-4"}) == "small-5"
    assert free_name("mine", {"mine"}) == "mine-2"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("learning_rate = 2e-5", "learning_rate = -1"), "recipe.learning_rate: is -1.0"),
        (("learning_rate = 2e-5", "learning_rate = nan"), "recipe.learning_rate: not a finite number"),
        (("learning_rate = 2e-5", 'learning_rate = "high"'), "recipe.learning_rate: a text, not a number"),
        (("seed = 0", "seed = 2026-11-25"), "recipe.seed: a date, not a whole number"),
        (("epochs = 30\nlearning", "epochs = 3.5\nlearning"), "recipe.epochs: a number with a fraction"),
        (("batch = 128", f"batch = {'1' * 5000}"), "configuration: "),
        (("batch = 128", "batch = true"), "batches.batch: true or false, not a whole number"),
        (("[batches]", "[model]\nlayers = 1000000000\n[batches]"), "model.layers: is 1000000000"),
        (("[batches]", "[model]\nvision = 3\n[batches]"), "model.vision: a whole number"),
        (("[batches]", "[batch]\n[batches]"), "batch: unknown"),
        (("seed = 0", f"seed = {'[' * 5000}"), "configuration: "),
    ],
)
def test_absurd_values_are_one_line_that_names_them(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    text = read_config("fashioniq").text
    assert change[0] in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(UsageError, match=f"not a training configuration: .*{says}|{says}") as error:
        read_config(path)
    assert "\n" not in str(error.value)


def test_a_configuration_is_a_file_of_its_size(tmp_path: Path) -> None:
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(UsageError, match=r"large.toml: cannot be read: larger than 1 MB"):
        read_config(tmp_path / "large.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    for name in (tmp_path / "pipe.toml", tmp_path, "x" * 5000, "a\0b", "../configs/small", ""):
        with pytest.raises(UsageError, match="no configuration"):
            read_config(name)
