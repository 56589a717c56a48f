"""`cir query`: tables, JSON, paths and sheets; conditions; bad references and arguments."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir import build_index, load_model
from cir.cli import cli as group
from cir.cli import process
from cir.images import scan
from cir.testing.commands import Run, mistake


def test_tables_json_paths_and_sheets(cli: Run, wardrobe_index: Path, folder: Path, tmp_path: Path) -> None:
    words = ["query", wardrobe_index, "-i", "images/00004.jpg", "-t", "in red, with long sleeves", "-k", 4]
    table = cli(*words)
    assert table.code == 0
    lines = table.out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    answer = cli(*words, "--json").json
    assert [hit["id"] for hit in answer["hits"]] == [line.split()[2] for line in lines]
    assert answer["hits"][0]["metadata"]["type"]
    assert answer["model"] == "tiny-1"
    assert (answer["references"], answer["text"]) == (["images/00004.jpg"], "in red, with long sleeves")
    paths = cli(*words, "--paths").out.splitlines()
    assert paths == [str(folder / hit["id"]) for hit in answer["hits"]]
    for name in ("sheet.png", "sheet.jpg"):
        assert cli(*words, "--sheet", tmp_path / name).code == 0
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 1000
            assert len(np.unique(np.asarray(sheet.convert("L")))) > 100
    mistake(cli(*words, "--sheet", tmp_path / "sheet.tiff"), ".png")
    mistake(cli(*words, "--sheet", tmp_path / "sheet.png" / "sheet.png"), "cannot be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.jpg", "sheet.png"]


def test_texts_images_negatives_and_conditions(cli: Run, wardrobe_index: Path, folder: Path) -> None:
    for words in (
        ("-t", "red"),
        ("-i", folder / "images" / "00001.jpg"),
        ("-i", "images/00001.jpg", "-i", "images/00002.jpg", "-t", "red", "--not", "blue"),
    ):
        assert cli("query", wardrobe_index, *words).code == 0
    filtered = cli("query", wardrobe_index, "-t", "red", "--where", "pattern=plain", "--json").json
    assert {hit["metadata"]["pattern"] for hit in filtered["hits"]} == {"plain"}
    exact = cli("query", wardrobe_index, "-t", "red", "--where", "pattern=plain", "--exact", "--json").json
    assert [hit["id"] for hit in exact["hits"]] == [hit["id"] for hit in filtered["hits"]]
    others = cli("query", wardrobe_index, "-t", "red", "--where", "pattern!=plain", "-k", 40, "--json").json
    assert "plain" not in {hit["metadata"]["pattern"] for hit in others["hits"]}
    plain = cli("query", wardrobe_index, "-t", "red", "--where", "pattern=plain", "-k", 40, "--json").json
    assert len(others["hits"]) + len(plain["hits"]) == 40
    both = cli("query", wardrobe_index, "-t", "red", "--where", "pattern=plain", "--where", "pattern != plain")
    assert both.err == "cir: nothing found: no image has pattern = plain and pattern != plain\n"
    nothing = cli("query", wardrobe_index, "-t", "red", "--where", "pattern=tartan")
    assert (nothing.code, nothing.out) == (1, "")
    assert nothing.err == "cir: nothing found: no image has pattern = tartan\n"


def test_bad_references(cli: Run, wardrobe_index: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is text")
    whole = (folder / "images" / "00001.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (30_000, 30_000)).save(tmp_path / "huge.png")
    assert (tmp_path / "huge.png").stat().st_size < 200_000
    for name, word in (("text.jpg", "not an image"), ("half.jpg", "truncated"), ("huge.png", "too large")):
        mistake(cli("query", wardrobe_index, "-i", tmp_path / name, "-t", "red"), name, word)
        mistake(cli("query", wardrobe_index, "-i", tmp_path / name), name, word)
    missing = cli("query", wardrobe_index, "-i", "nowhere.jpg", "-t", "red")
    mistake(missing, "nowhere.jpg", "ids look like images/")


def test_bad_arguments(cli: Run, wardrobe_index: Path, tmp_path: Path) -> None:
    mistake(cli("query", tmp_path, "-t", "red"), tmp_path.name, "build-index")
    mistake(cli("query", tmp_path / "nowhere", "-t", "red"), "nowhere")
    mistake(cli("query", wardrobe_index), "empty query")
    mistake(cli("query", wardrobe_index, "-t", " "), "empty query")
    mistake(cli("query", wardrobe_index, "-t", "red", "-k", 0), "0")
    mistake(cli("query", wardrobe_index, "-t", "red", "--where", "pattern"), "COLUMN=VALUE")
    mistake(cli("query", wardrobe_index, "-t", "red", "--where", "shape=round"), "shape", "pattern")
    mistake(cli("query", wardrobe_index, "-t", "red", "--json", "--paths"), "exclude each other")
    mistake(cli("query", wardrobe_index, "red shirt"), "unexpected argument")
    mistake(cli("query", wardrobe_index, "-", "-t", "red"), "come from stdin")
    mistake(cli("query", wardrobe_index, "-t", "red", "--device", "abacus"), "abacus")
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused(cli: Run, wardrobe_index: Path, other_model: Path, tiny_model: Path) -> None:
    mistake(cli("query", wardrobe_index, "-t", "red", "--model", other_model), "holds vectors of tiny-1", "other-1")
    assert cli("query", wardrobe_index, "-t", "red", "--model", tiny_model).code == 0


@pytest.fixture
def oddly_named(folder: Path, tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of names that break lines or are no text, and a zip; and an index of both."""
    photos, names = tmp_path / "photos", ["plain.jpg", "a\nb.jpg", "clear\x1b[2J.jpg", "caf\u00e9.jpg"]
    photos.mkdir()
    for number, name in enumerate([*names, os.fsdecode(b"\xff.jpg")], start=1):
        shutil.copy(folder / "images" / f"0000{number}.jpg", photos / name)
    with zipfile.ZipFile(photos / "more.zip", "w") as archive:
        archive.write(folder / "images" / "00006.jpg", "inner/six.jpg")
    build_index(scan([photos]), tmp_path / "odd.index", load_model(tiny_model))
    return photos, tmp_path / "odd.index"


def test_what_paths_prints_can_be_a_reference_again(
    oddly_named: tuple[Path, Path], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    _, index = oddly_named
    capfdbinary.readouterr()
    assert process.run(group, ["query", str(index), "-t", "red", "--paths", "-0"]) == 0
    out, err = capfdbinary.readouterr()
    paths = [os.fsdecode(path) for path in out.split(b"\0")]
    assert (paths.pop(), err) == ("", b"")
    assert len(paths) == 6
    for path in paths:
        assert process.run(group, ["query", str(index), "-i", path, "--paths", "-0"]) == 0
        others = capfdbinary.readouterr().out.split(b"\0")[:-1]
        assert len(others) == 5  # the picture itself is recognised, also in a zip
        assert os.fsencode(path) not in others


def test_names_that_would_break_lines_are_escaped(cli: Run, oddly_named: tuple[Path, Path]) -> None:
    _, index = oddly_named
    table = cli("query", index, "-t", "red")
    assert "\x1b" not in table.out
    assert [line.split()[0] for line in table.out.splitlines()] == ["1", "2", "3", "4", "5", "6"]
    paths = cli("query", index, "-t", "red", "--paths")
    assert "\x1b" not in paths.out
    assert len(paths.out.splitlines()) == 6
    assert "2 paths hold control characters" in paths.err
    mistake(cli("query", index, "-t", "red", "-0"), "--paths")


def test_decomposed_letters_name_the_same_image(cli: Run, oddly_named: tuple[Path, Path]) -> None:
    _, index = oddly_named
    for name in ("caf\u00e9.jpg", "cafe\u0301.jpg", "./cafe\u0301.jpg"):
        answer = cli("query", index, "-i", name, "--json").json
        assert "caf\u00e9.jpg" not in {hit["id"] for hit in answer["hits"]}


def test_a_picture_on_standard_input(cli: Run, oddly_named: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    photos, index = oddly_named
    picture = (photos / "plain.jpg").read_bytes()
    for data, words, message in (
        (picture, ["-t", "in red", "--sheet", photos.parent / "sheet.png"], ""),
        (picture, ["-i", "plain.jpg"], ""),
        (b"", [], "nothing on standard input"),
        (b"text", [], "not an image"),
        (picture, ["-i", "-"], "given twice"),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        done = cli("query", index, "-i", "-", *words, "--json")
        if message:
            mistake(done, message)
        else:
            assert done.json["references"][0] == "-"
            assert "plain.jpg" not in {hit["id"] for hit in done.json["hits"]}
    assert (photos.parent / "sheet.png").is_file()
    monkeypatch.setattr("sys.stdin", None)  # as Python starts when it is closed
    mistake(cli("query", index, "-i", "-"), "standard input is closed")
    mistake(cli("query", index, "-"), "standard input is closed")


def test_what_a_long_text_loses_is_told(cli: Run, wardrobe_index: Path) -> None:
    done = cli("query", wardrobe_index, "-t", "red " * 60 + "with long sleeves", "--not", "blue " * 40, "--json")
    assert done.code == 0
    caption, negative = done.json["unread"]
    assert caption.endswith("red with long sleeves")
    assert set(negative.split()) == {"blue"}
    assert done.err.startswith("cir: not read, because the text is longer than the model reads: its last 33 words, red")
    short = cli("query", wardrobe_index, "-t", "red", "--json")
    assert (short.json["unread"], short.err) == ([], "")
