"""`cir compose`, and indexes of hub encoders from their building to a search."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cir.testing import hub_models
from cir.testing.commands import Run, mistake


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_models.save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def index(cli: Run, coloured: Path, clip: Path, tmp_path: Path) -> Path:
    """An index of the coloured pictures by a small CLIP."""
    assert cli("build-index", coloured, "-o", tmp_path / "x.index", "--model", clip).code == 0
    return tmp_path / "x.index"


def test_an_index_of_a_hub_encoder(cli: Run, coloured: Path, index: Path) -> None:
    shown = cli("info", index).out
    assert "composes by sum, 0.5 of it the picture" in shown
    known = json.loads(cli("info", index, "--json").out)["model"]
    assert (known["architecture"], known["composition"], known["weight"]) == ("clip", "sum", 0.5)
    found = json.loads(cli("query", index, "-i", "003.png", "-t", "in red", "--json").out)
    assert found["hits"][0]["id"] != "003.png"
    assert len(cli("query", index, "-t", "in red").out.splitlines()) >= 10
    assert cli("verify", index).code == 0
    assert cli("build-index", coloured, "-o", index).code == 0  # the model is found again


def test_compositions_are_measured_and_taken(
    cli: Run, index: Path, clip: Path, questions_for: Callable[..., Path]
) -> None:
    mistake(cli("compose", index), "stores 0 judged queries with a reference, 40 are needed")
    assert cli("questions", index, "--from", questions_for(clip, 120)).code == 0
    shown = cli("compose", index).out
    assert shown.splitlines()[0] == "60 judged queries; the others chose the shares, and which comes first"
    assert "nothing has changed" in shown
    measured = json.loads(cli("compose", index, "--json").out)
    assert {row["composition"] for row in measured["compositions"]} == {"sum", "slerp", "product"}
    assert measured["applied"] is None
    by_sum = next(row for row in measured["compositions"] if row["composition"] == "sum")
    assert by_sum["R@10"] > 0.8  # the questions were made of it
    assert "composes by" in cli("compose", index, "--apply").out
    best = measured["compositions"][0]["composition"]
    assert f"composes by {best}" in cli("info", index).out
    assert cli("rollback", index).code == 0
    assert "composes by sum, 0.5" in cli("info", index).out


def test_a_composition_is_set(cli: Run, index: Path) -> None:
    before = json.loads(cli("query", index, "-i", "003.png", "-t", "in red", "--json").out)
    assert (
        "composes by product, 0.3 of it the picture" in cli("compose", index, "--set", "product", "--weight", 0.3).out
    )
    after = json.loads(cli("query", index, "-i", "003.png", "-t", "in red", "--json").out)
    assert [hit["score"] for hit in before["hits"]] != [hit["score"] for hit in after["hits"]]
    mistake(cli("compose", index, "--weight", 0.3), "--weight is for --set")
    assert json.loads(cli("compose", index, "--set", "slerp", "--json").out)["composition"] == "slerp"


def test_a_model_that_composes_by_itself(cli: Run, wardrobe_index: Path, tmp_path: Path) -> None:
    index = shutil.copytree(wardrobe_index, tmp_path / "x.index")
    mistake(cli("compose", index, "--set", "sum"), "it reads them together")
    mistake(cli("compose", index), "it reads them together")


def test_models_that_cannot_be_used(cli: Run, coloured: Path, clip: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(clip, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    out = tmp_path / "y.index"
    mistake(cli("build-index", coloured, "-o", out, "--model", pickled), "pytorch_model.bin", "can run code")
    mistake(cli("build-index", coloured, "-o", out, "--model", "nobody/nothing"), "nobody/nothing")
    assert not out.exists()


def test_the_hub_encoder_that_reads_both(cli: Run, coloured: Path, tmp_path: Path) -> None:
    model = hub_models.save_qwen3_vl(tmp_path / "qwen")
    few = tmp_path / "few"
    few.mkdir()
    for name in ("000.png", "001.png", "002.png"):
        shutil.copy(coloured / name, few / name)
    assert cli("build-index", few, "-o", tmp_path / "x.index", "--model", model).code == 0
    assert "composes by reading both together" in cli("info", tmp_path / "x.index").out
    assert json.loads(cli("query", tmp_path / "x.index", "-i", "000.png", "-t", "in red", "--json").out)["hits"]
