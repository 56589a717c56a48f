"""`cir questions`: judged queries from a file and from metadata, stored in an index with their photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cir.indexer.reading.gallery import Gallery
from cir.replacement.questions import read_file
from cir.testing.commands import Run, mistake

TINTS, KINDS = ("Red", "Blue", "Green"), ("Shirt", "Dress")


@pytest.fixture
def own(coloured: Path, tmp_path: Path) -> Path:
    """240 photos that a test may remove."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in sorted(coloured.iterdir())[:240]:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def write_table(path: Path, rows: int) -> Path:
    lines = [f"{n:03d},{TINTS[n % 3]},{KINDS[n // 3 % 2]}\n" for n in range(rows)]
    path.write_text("id,tint,what\n" + "".join(lines))
    return path


def test_names_may_be_files_below_a_folder(index: Path, coloured: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.png").write_bytes((coloured / "004.png").read_bytes())
    line = {"id": "1", "reference": "a.png", "caption": "red", "targets": ["005.png"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(line) + "\n")
    (query,) = read_file(tmp_path / "questions.jsonl", Gallery.open(index), folder)
    assert (query.reference, query.targets) == ("004.png", frozenset(["005.png"]))


def test_a_file_is_stored_and_shown(cli: Run, index: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    line = {"reference": "001.png", "caption": "red", "targets": ["002.png"]}
    path.write_text("".join(json.dumps({**line, "id": f"q{n}"}) + "\n" for n in range(5)))
    stored = cli("questions", index, "--from", path)
    assert stored.code == 0
    assert stored.out.startswith(f"{index}: 5 judged queries (")
    assert "about 2 images\n  a replacement needs 200; store more with --from\n" in stored.out
    assert "  001.png: 'red' -> 002.png\n" in stored.out
    path.write_text(json.dumps({**line, "id": "q", "reference": "", "targets": ["003.png", "004.png"]}))
    again = cli("questions", index, "--from", path).out
    assert "  they replace 5\n" in again
    assert "  no reference: 'red' -> 003.png and 1 more\n" in again
    path.write_text(json.dumps({**line, "id": "q"}) + "\n" + json.dumps({**line, "id": "q"}))
    mistake(cli("questions", index, "--from", path), "questions.jsonl:2", "used before")
    assert "1 judged queries" in cli("questions", index).out


@pytest.mark.slow
def test_questions_are_stored_with_their_photos(
    cli: Run, own: Path, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "kept.index"
    build = ["build-index", own, "-o", index, "--model", tiny_model, "--no-tokens"]
    assert cli(*build, "--metadata", write_table(tmp_path / "table.csv", 240)).code == 0
    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    assert cli("questions", index).out == f"{index}: 0 judged queries\n"
    assert "no judged queries; 240 images encoded by both models" in cli("replace-model", index, other_model, *dirs).out
    generate = ["questions", index, "--metadata", "colour=tint", "--metadata", "type=what", "--count", "250"]
    made = cli(*generate)
    assert made.code == 0, made.err
    assert "250 judged queries" in made.out
    assert cli("questions", index).out == made.out
    (own / "003.png").rename(own / "renamed.png")
    assert cli(*build).code == 0
    assert "250 judged queries" in cli("questions", index).out  # recognised by its content
    assert cli("questions", index, "--from", tmp_path / "none.jsonl").code == 2
    for file in own.iterdir():
        file.unlink()  # the photos go, the questions stay
    mistake(cli(*generate), "no longer")
    assert "250 judged queries" in cli("questions", index).out  # a refusal leaves the stored ones
    judged = cli("replace-model", index, other_model, *dirs, "--json")
    assert judged.code in (0, 1), judged.err
    (space,) = judged.json["spaces"]
    assert (space["questions"], space["images"]) == (250, 240)


def test_questions_about_images_that_are_gone_are_counted(
    cli: Run, own: Path, tiny_model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "few.index"
    build = ["build-index", own, "-o", index, "--model", tiny_model]
    assert cli(*build).code == 0
    line = {"reference": "001.png", "caption": "red", "targets": ["002.png"]}
    other = {**line, "id": "2", "reference": "003.png"}
    (tmp_path / "q.jsonl").write_text(json.dumps({**line, "id": "1"}) + "\n" + json.dumps(other))
    assert cli("questions", index, "--from", tmp_path / "q.jsonl").code == 0
    (own / "003.png").unlink()
    assert cli(*build, "--prune").code == 0
    shown = cli("questions", index).out
    assert "1 judged queries" in shown
    assert "1 more name images that are gone" in shown


def test_mistakes(cli: Run, own: Path, tiny_model: Path, tmp_path: Path) -> None:
    index, table = tmp_path / "my.index", write_table(tmp_path / "table.csv", 12)
    assert cli("build-index", own, "-o", index, "--model", tiny_model, "--metadata", table).code == 0
    twice = cli("questions", index, "--metadata", "colour=tint", "--metadata", "colour=what")
    mistake(twice, "--metadata: a KIND is given twice")
    smell = cli("questions", index, "--metadata", "smell=tint")
    mistake(smell, "no caption templates for changes of 'smell'", "colour")
    mistake(cli("questions", index, "--metadata", "colour=hue"), "no metadata column 'hue'", "tint")
    mistake(cli("questions", index, "--metadata", "colour"), "KIND=COLUMN")
    mistake(cli("questions", index, "--metadata", "colour=tint", "--count", "0"), "0 is not in the range")
    mistake(cli("questions", index, "--count", "5"), "--metadata")
    mistake(cli("questions", index, "--metadata", "colour=tint", "--from", table), "exclude each other")
    mistake(cli("questions", tmp_path), "build-index")
    assert cli("questions", index).out == f"{index}: 0 judged queries\n"


def test_no_query_is_generated_twice(cli: Run, own: Path, tiny_model: Path, tmp_path: Path) -> None:
    for file in sorted(own.iterdir())[12:]:
        file.unlink()
    index, table = tmp_path / "few.index", write_table(tmp_path / "table.csv", 12)
    build = ["build-index", own, "-o", index, "--model", tiny_model, "--metadata", table]
    assert cli(*build, "--questions", "colour=tint").err == f"cir: 24 judged queries stored in {index}\n"
    mistake(cli(*build, "--questions", "colour"), "--questions: write KIND=COLUMN")
    assert "24 judged queries" in cli("questions", index).out
    made = cli("questions", index, "--metadata", "colour=tint").out
    assert "24 judged queries" in made  # each of 12 pictures in two other colours
    assert "the metadata yield no more distinct queries" in made
    assert "a replacement needs 200" in made
