"""`cir explain`: the picture, the text, the JSON, and mistakes."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from cir.testing.commands import Run, mistake

HIT, OTHER, REFERENCE = "images/00007.jpg", "images/00009.jpg", "images/00003.jpg"


def test_a_picture_and_numbers(wardrobe_index: Path, cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    words = ["explain", wardrobe_index, "-i", REFERENCE, "-t", "with long sleeves", "--not", "blue"]
    done = cli(*words, "--hit", HIT, "--hit", OTHER, "--out", out)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{HIT}  0.")
    assert lines[0].endswith("% of the gallery")
    assert sum(line.startswith(("  without the words", "  without the picture")) for line in lines) == 4
    assert "need not add up" in lines[-1]
    with Image.open(out) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")


@pytest.mark.parametrize("method", ["occlusion", "gradients"])
def test_json(wardrobe_index: Path, cli: Run, method: str) -> None:
    words = ["explain", wardrobe_index, "-i", REFERENCE, "-t", "red", "--hit", HIT, "--method", method, "--json"]
    done = cli(*words, "--grid", 3)
    (explained,) = done.json
    assert (explained["id"], explained["method"], explained["model"]) == (HIT, method, "tiny-1")
    (hit,) = json.loads(cli("query", wardrobe_index, "-i", REFERENCE, "-t", "red", "-k", 40, "--json").out)["hits"][:1]
    best = cli("explain", wardrobe_index, "-i", REFERENCE, "-t", "red", "--json", "--grid", 1).json
    assert [(each["id"], each["score"]) for each in best] == [(hit["id"], hit["score"])]  # the best hit by default
    side = 3 if method == "occlusion" else 28
    assert [len(row) for row in explained["maps"]["hit"]["values"]] == [side] * side


def test_a_text_alone(wardrobe_index: Path, cli: Run, tmp_path: Path) -> None:
    done = cli("explain", wardrobe_index, "-t", "red", "--hit", HIT, "--out", tmp_path / "why.jpg")
    assert (done.code, done.err, len(done.out.splitlines())) == (0, "", 1)
    assert (tmp_path / "why.jpg").is_file()


def test_a_picture_on_stdin(wardrobe_index: Path, folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO((folder / REFERENCE).read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    done = cli("explain", wardrobe_index, "-i", "-", "-t", "red", "--hit", HIT, "--json", "--grid", 1)
    assert done.json[0]["references"] == [None]
    mistake(cli("explain", wardrobe_index, "-i", "-", "-i", "-"), "given twice")


def test_mistakes(wardrobe_index: Path, cli: Run, tmp_path: Path) -> None:
    words = ["explain", wardrobe_index, "-i", REFERENCE, "-t", "red"]
    mistake(cli(*words, "--hit", "nothing.jpg"), "no image 'nothing.jpg' in")
    mistake(cli("explain", wardrobe_index, "--hit", HIT), "an empty query")
    mistake(cli("explain", wardrobe_index, "-i", "nothing.jpg", "--hit", HIT), "neither an image file nor an id")
    mistake(cli(*words, "--hit", HIT, "--method", "magic"), "magic")
    mistake(cli(*words, "--hit", HIT, "--grid", 0), "0")
    mistake(cli("explain", tmp_path, "-t", "red", "--hit", HIT), str(tmp_path))
    mistake(cli(*words, "--hit", HIT, "--grid", 1, "--out", tmp_path / "why.txt"), "change the name")
    assert list(tmp_path.iterdir()) == []


def test_photos_that_are_gone(wardrobe_index: Path, tiny_model: Path, folder: Path, cli: Run, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(folder, tmp_path / "photos"))
    index = tmp_path / "own.index"
    assert cli("build-index", photos, "-o", index, "--model", tiny_model).code == 0
    (photos / HIT).unlink()
    words = ["explain", index, "--hit", HIT, "--grid", 2]
    done = cli(*words, "-i", REFERENCE, "-t", "red", "--out", tmp_path / "why.png")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert line.startswith(f"cir: no map over {HIT}: ")
    assert "without the words" in done.out
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 0
    mistake(cli(*words, "-t", "red"), HIT)


def test_nothing_found(wardrobe_index: Path, tiny_model: Path, folder: Path, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(folder / HIT, tmp_path / "one" / "a.jpg")
    assert cli("build-index", tmp_path / "one", "-o", tmp_path / "one.index", "--model", tiny_model).code == 0
    done = cli("explain", tmp_path / "one.index", "-i", "a.jpg")
    assert (done.code, done.out) == (1, "")
    assert done.err == "cir: nothing found, so there is nothing to explain\n"
