"""The files of a model are foreign: each is known by its digest, and absurd ones are refused in one line."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cir import known, models
from cir.errors import WeightsError
from cir.files import sha256_bytes, sha256_file
from cir.models import weights
from cir.models.config import SprcConfig
from cir.models.folder import CARD, FROZEN, VOCABULARY, WEIGHTS, check, read_card
from cir.models.tensor_file import read_header
from cir.testing.commands import Run
from cir.typed_json import from_json

Maker = Callable[..., Path]
Damage = Callable[[Path], object]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that a test may damage."""
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny-1")
    return tmp_path / "models" / "tiny-1"


def content_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / CARD).read_text())
    return content


def change(*path: str, value: object) -> Damage:
    """Set a value of card.json and leave every digest as it is."""

    def apply(directory: Path) -> None:
        content = content_of(directory)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (directory / CARD).write_text(json.dumps(content))

    return apply


def sign(directory: Path) -> None:
    """Give a card the digests of the files as they are: what an author of absurd files would do."""
    content = content_of(directory)
    card = content["card"]
    card["weights_sha256"] = sha256_file(directory / WEIGHTS)
    card["config_sha256"] = from_json(SprcConfig, content["config"]).sha256
    card["vocabulary_sha256"] = sha256_file(directory / VOCABULARY)
    card.pop("digest", None)
    (directory / CARD).write_text(json.dumps(content))


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


# Absurd values: one line, at once. Digests need not fit, because values are looked at first.

HUGE = 10**18


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("card",), [], "card: a list, not an object"),
        (("card",), "x", "card: a text"),
        (("config",), None, "config: null"),
        (("preprocess",), {"size": 10**4000}, "preprocess.size: a number beyond 64 bits"),
        (("more",), 1, "more: unknown"),
        (("card", "name"), "a\nb", "card.name: is "),
        (("card", "name"), "\ud800", "card.name: is "),
        (("card", "name"), "x" * 100_000, "card.name: has 100000"),
        (("card", "dims"), True, "card.dims: true or false, not a whole number"),
        (("card", "dims"), -1, "card.dims: is -1"),
        (("card", "weights_sha256"), "../x", "card.weights_sha256: is "),
        (("card", "min_scores"), {"text": "high"}, "card.min_scores.text: a text"),
        (("card", "query_heads"), {"../../x": 16}, "card.query_heads.../../x: is "),
        (("card", "training"), "x", "card.training: a text"),
        (("card", "simplex"), {"blocks": [], "free_weight": 0, "vertices_sha256": "0" * 64}, "simplex.blocks: has 0"),
        (("config", "vision"), "vit", "config.vision: a text"),
        (("config", "vision"), {"type": ["vit"]}, "config: vision.type: not one of"),
        (("config", "vision", "num_hidden_layers"), HUGE, "config: vision: num_hidden_layers: is "),
        (("config", "vision", "hidden_size"), -32, "config: vision: hidden_size: is -32"),
        (("config", "vision", "num_attention_heads"), 5, "vision: num_attention_heads: 5 does not divide"),
        (("config", "vision", "hidden_act"), "os.system", "hidden_act: is 'os.system', not 'gelu'"),
        (("config", "vision", "output_attentions"), True, "output_attentions: unknown"),
        (("config", "vision", "image_size"), 64, "config is not that"),
        (("config", "layers"), 1e9, "config.layers: a number with a decimal point, not a whole number"),
        (("config", "layers"), 10**9, "config.layers: is 1000000000, not 1 to"),
        (("config", "heads"), 3, "config: heads: 3 does not divide the width of 32"),
        (("config", "heads"), 0, "config.heads: is 0"),
        (("config", "vocabulary"), HUGE, "config.vocabulary: is "),
        (("config", "text_length"), 64, "exceed 64 positions"),
        (("config", "gallery_tokens"), "no", "config.gallery_tokens: a text, not true or false"),
        (("preprocess", "size"), HUGE, "preprocess: size is 1 to 4096"),
        (("preprocess", "mean"), [0, 0], "preprocess.mean: 2 values, not 3"),
        (("preprocess", "std"), [0, 0, 0], "preprocess: mean is "),
    ],
)
def test_absurd_cards_are_one_line(model: Path, path: Sequence[str], value: object, message: str) -> None:
    change(*path, value=value)(model)
    with pytest.raises(WeightsError) as error:
        weights.load(model)
    line = str(error.value)
    assert message in line
    assert line.startswith(f"{model / CARD}: not a model of this version")
    assert line.isprintable()
    assert len(line) < 600
    assert check(model) == [line]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "null",
        "1" * 5000,
        "[" * 100_000,
        '{"card": ' * 900 + "1" + "}" * 900,
        '{"card": NaN}',
        "\xff\xfe",
    ],
)
def test_a_card_that_is_no_card(model: Path, text: str) -> None:
    (model / CARD).write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=r"card.json: not ") as error:
        read_card(model)
    assert "\n" not in str(error.value)


def test_a_simplex_with_other_vertices_is_refused(make_model: Maker, tmp_path: Path) -> None:
    directory = make_model(tmp_path / "s-1", seed=0, classes={"colour": ["red", "blue"]})
    content = content_of(directory)
    for part in ("card", "config"):
        content[part]["simplex"]["vertices_sha256"] = "0" * 64
    (directory / CARD).write_text(json.dumps(content))
    sign(directory)
    with pytest.raises(WeightsError, match="vertices of simplex are not those of its blocks"):
        weights.load(directory)


# Absurd tensors.


def tensor_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"\0" * 7, "cut off"),
        (tensor_file({}, length=2**60), "cut off"),
        (tensor_file(b" " * 5_000_000), "a header of 5 MB"),
        (tensor_file(b"[" * 100_000), "nested too deeply"),
        (tensor_file([]), "not an object"),
        (tensor_file({"a": FOUR}, b"\0" * 3), "tensors of 4 bytes in a file that has 3"),
        (tensor_file({"a": FOUR}, b"\0" * 5), "tensors of 4 bytes in a file that has 5"),
        (tensor_file({"a": FOUR, "b": FOUR}, b"\0" * 8), "b begins at byte 0, not at 4"),
        (tensor_file({"a": {**FOUR, "data_offsets": [4, 8]}}, b"\0" * 8), "a begins at byte 4, not at 0"),
        (tensor_file({"a": {**FOUR, "data_offsets": [4, 0]}}, b"\0" * 4), "bytes 4 to 0 are not"),
        (tensor_file({"a": {**FOUR, "shape": [2**80]}}), "a: shape.0: a number beyond 64 bits"),
        (tensor_file({"a": {**FOUR, "shape": [2**30] * 3}}), "are not a F32 of shape"),
        (tensor_file({"a": {**FOUR, "shape": [-1]}}), "a: shape.0: is -1"),
        (tensor_file({"a": {**FOUR, "shape": "1"}}), "a: shape: a text"),
        (tensor_file({"a": {**FOUR, "dtype": "C64"}}, b"\0" * 4), "dtype 'C64' is not one of"),
        (tensor_file({"a": 1}), "a: a whole number, not an object"),
        (tensor_file({"\n": 1}), r"'\\n': a whole number"),
        (tensor_file({"__metadata__": {"frozen": 1}}), "frozen: a whole number, not a text"),
        (tensor_file({str(n): 0 for n in range(20_000)}), "20,000 tensors, more than 10,000"),
    ],
)
def test_absurd_headers_are_one_line(model: Path, data: bytes, message: str) -> None:
    (model / WEIGHTS).write_bytes(data)
    for read in (weights.load, lambda directory: read_header(directory / WEIGHTS)):
        with pytest.raises(WeightsError, match=message) as error:
            read(model)
        assert str(error.value).startswith(f"{model / WEIGHTS}: not a readable safetensors file: ")
        assert str(error.value).isprintable()


@pytest.mark.parametrize("digest", ["../../../etc/x", "\0", "/" * 3, "a" * 5000, "\n"])
def test_the_digest_of_frozen_tensors_leads_nowhere_else(model: Path, digest: str) -> None:
    save_file(load_file(model / WEIGHTS), model / WEIGHTS, metadata={"frozen": digest})
    sign(model)
    with pytest.raises(WeightsError, match="left unchanged are missing") as error:
        weights.load(model)
    assert str(error.value).isprintable()


def test_weights_that_are_no_numbers_are_refused(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors["text_proj.bias"][3] = float("nan")
    save_file(tensors, model / WEIGHTS)
    sign(model)
    assert check(model) == []
    with pytest.raises(WeightsError, match=r"model.safetensors: text_proj.bias holds values that are not finite"):
        weights.load(model)


def test_weights_of_another_kind_are_refused(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    save_file({**tensors, "temp": torch.tensor(1)}, model / WEIGHTS)
    sign(model)
    with pytest.raises(WeightsError, match="temp holds I64, not floats"):
        weights.load(model)
    save_file({**tensors, weights.SCALE: tensors[weights.SCALE][:1].contiguous()}, model / WEIGHTS)
    sign(model)
    with pytest.raises(WeightsError, match=r"misshapen: embeddings.word_embeddings.scale \(1, 1\) for \(128, 1\)"):
        weights.load(model)


# Files that are none.


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_instead(path: Path) -> None:
    path.mkdir()


def gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**9)


@pytest.mark.parametrize("instead", [pipe, endless, folder_instead, gigabyte])
@pytest.mark.parametrize("name", [CARD, WEIGHTS, VOCABULARY])
def test_what_is_no_file_is_not_read(model: Path, name: str, instead: Damage) -> None:
    (model / name).unlink()
    instead(model / name)
    with pytest.raises(WeightsError) as error:
        weights.load(model)
    assert str(error.value).startswith(f"{model / name}: ")
    assert check(model) == [str(error.value)]


def test_a_vocabulary_that_is_not_text(model: Path) -> None:
    (model / VOCABULARY).write_bytes(b"[PAD]\n\xff\n")
    sign(model)
    with pytest.raises(WeightsError, match=r"vocab.txt: not a vocabulary in UTF-8"):
        weights.load(model)


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
    assert listed == ["small-3", "small-lite-1", "tiny-1"]
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
