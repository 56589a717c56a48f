"""Absurd model folders: one line that names the file, at once and in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cir.errors import WeightsError
from cir.models import weights
from cir.models.check import check
from cir.models.folder import CARD, VOCABULARY, WEIGHTS, read_card
from cir.models.tensor_file import read_header
from cir.testing.cards import change, content_of, sign

Maker = Callable[..., Path]
Damage = Callable[[Path], object]

# Absurd values: one line, at once. Digests need not fit, because values are looked at first.

HUGE = 10**18


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("card",), [], "card: a list, not an object"),
        (("card",), "x", "card: a text"),
        (("config",), None, "config: null"),
        (("preprocess",), {"size": 10**30}, "preprocess.size: a number beyond 64 bits"),
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
