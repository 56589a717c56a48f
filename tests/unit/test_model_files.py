"""The files of a model: each is known by its digest, and a model is found by it."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cir import known, models
from cir.errors import WeightsError
from cir.files import sha256_bytes
from cir.models import weights
from cir.models.check import check
from cir.models.folder import CARD, FROZEN, VOCABULARY, WEIGHTS, read_card
from cir.testing.cards import change, content_of, sign
from cir.testing.commands import Run

Maker = Callable[..., Path]
Damage = Callable[[Path], object]


def swap_words(directory: Path) -> None:
    path = directory / VOCABULARY
    path.write_text(path.read_text().replace("red\nblue\n", "blue\nred\n"))


def other_weights(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    save_file({**tensors, "temp": tensors["temp"] * 2}, directory / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (swap_words, VOCABULARY, "not the vocabulary of this model"),
        (other_weights, WEIGHTS, "not the weights of tiny-1"),
        (change("config", "heads", value=4), CARD, "config is not that of the card"),
        (change("config", "text_length", value=16), CARD, "config is not that of the card"),
        (change("config", "vision", "layer_norm_eps", value=0.1), CARD, "config is not that of the card"),
        (change("preprocess", "fill", value=0), CARD, "preprocess is not that of the card"),
        (change("card", "query_heads", value={"0" * 16: 16}), CARD, "query_heads or simplex of the card"),
        (change("card", "dims", value=8), CARD, "dims, tokens, vector"),
        (change("card", "digest", value="0" * 16), CARD, "card.digest: is '0000000000000000', which contradicts"),
        (change("card", "classes", value={"a": ["b"]}), CARD, "card.classes_sha256: "),
    ],
)
def test_whatever_decides_a_vector_has_a_digest(model: Path, damage: Damage, name: str, message: str) -> None:
    assert check(model) == []
    damage(model)
    with pytest.raises(WeightsError, match=message) as error:
        weights.load(model)
    assert str(error.value).startswith(f"{model / name}: ")
    assert check(model) == [str(error.value)]


@pytest.mark.parametrize(
    "damage",
    [swap_words, other_weights, change("config", "heads", value=4), change("config", "cross_attention_every", value=1)],
)
def test_other_files_with_a_card_of_their_own_are_another_model(model: Path, damage: Damage) -> None:
    before = read_card(model)
    damage(model)
    sign(model)
    after = read_card(model)
    assert after.digest != before.digest
    assert after.space.id != before.space.id


def test_the_frozen_tensors_are_known_by_the_weights(model: Path) -> None:
    start, card, preprocess = weights.load(model)
    start.vision.requires_grad_(False)
    description = weights.ModelDescription(card.name, preprocess, (model / VOCABULARY).read_bytes())
    weights.save(model, start, description)
    assert check(model) == []
    frozen = load_file(model / FROZEN)
    save_file({name: value * 2 for name, value in frozen.items()}, model / FROZEN)
    with pytest.raises(WeightsError, match="is not the file that tiny-1 was trained with") as error:
        weights.load(model)
    assert check(model) == [str(error.value)]
    (model / FROZEN).unlink()
    assert "left unchanged are missing" in check(model)[0]


def test_every_problem_is_told(model: Path) -> None:
    other_weights(model)
    swap_words(model)
    assert len(check(model)) == 2
    (model / CARD).unlink()
    assert "no card.json" in check(model)[0]


# Found by digest.


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has not yet indexed anything."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(models.SEARCH_PATH, raising=False)


@pytest.mark.usefixtures("state")
def test_a_packaged_model_serves_what_its_copy_made() -> None:
    packaged = models.find("small-lite")
    copied = replace(read_card(packaged), name="mine")
    assert models.find_for(copied) == packaged


@pytest.mark.usefixtures("state")
def test_a_model_is_found_where_it_was_or_where_it_may_be(
    model: Path, make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_card(model)
    with pytest.raises(WeightsError, match="is not here; put its folder under --model-dir or CIR_MODELS"):
        models.find_for(card)
    known.remember_model(card.digest, tmp_path / "gone")
    known.remember_model(card.digest, model)
    assert models.find_for(card) == model
    moved = model.rename(tmp_path / "other name")
    assert models.find_for(card, [moved]) == moved
    assert models.find_for(card, [tmp_path]) == moved
    monkeypatch.setenv(models.SEARCH_PATH, f"{os.pathsep}/nowhere{os.pathsep}{tmp_path}")
    assert models.find_for(card) == moved
    monkeypatch.delenv(models.SEARCH_PATH)
    with pytest.raises(WeightsError, match=rf"is not here \(it was in {model}\); put its folder"):
        models.find_for(card)
    make_model(tmp_path / "impostor" / "tiny-1", seed=5)
    with pytest.raises(WeightsError, match="is called tiny-1 but is another model"):
        models.find_for(card, [tmp_path / "impostor"])


def break_models(folder: Path, whole: Path) -> list[str]:
    """Broken models beside a whole one, sorted before and after it."""
    broken = {"a-list": "[]", "b-text": "{", "z-number": "1" * 5000}
    for name, text in broken.items():
        (folder / name).mkdir()
        (folder / name / CARD).write_text(text)
    (folder / "0-loop").symlink_to(folder / "0-loop")
    (folder / "c-pipe").mkdir()
    os.mkfifo(folder / "c-pipe" / CARD)
    for name, lost in (("d-no-weights", WEIGHTS), ("e-no-words", VOCABULARY)):
        shutil.copytree(whole, folder / name)
        (folder / name / lost).unlink()
    (folder / "f-cut").mkdir()
    shutil.copytree(whole, folder / "f-cut", dirs_exist_ok=True)
    (folder / "f-cut" / WEIGHTS).write_bytes((whole / WEIGHTS).read_bytes()[:9999])
    return [*broken, "c-pipe", "d-no-weights", "e-no-words", "f-cut"]


@pytest.mark.usefixtures("state")
def test_broken_models_hide_no_other(model: Path, caplog: pytest.LogCaptureFixture, cli: Run) -> None:
    names = break_models(model.parent, model)
    with caplog.at_level(logging.WARNING):
        assert models.find_for(read_card(model), [model.parent]) == model
    assert all(f"{name}" in caplog.text for name in names if name < model.name)
    done = cli("models", "--model-dir", model.parent, "--json")
    assert done.code == 0
    listed = [Path(line["path"]).name for line in json.loads(done.out)]
    assert listed == ["small-4", "small-lite-2", "tiny-1"]
    assert [line for line in done.err.splitlines() if not line.startswith("cir: left out: ")] == []
    assert sorted(name for name in names for line in done.err.splitlines() if f"/{name}" in line) == sorted(names)


def test_cards_are_compared_by_value(model: Path) -> None:
    content = content_of(model)
    again = copy.deepcopy(content)
    again["config"]["dropout"] = 0.10
    again["preprocess"]["target_ratio"] = 1  # the same number, written without its fraction
    (model / CARD).write_text(json.dumps(again))
    assert check(model) == []
    assert sha256_bytes(json.dumps(again).encode()) != sha256_bytes(json.dumps(content).encode())
