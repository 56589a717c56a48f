"""`cir mine`: composed questions from a table of captions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cir.testing.captioned import made_up
from cir.testing.commands import Run, mistake


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Captions of 000.png to 259.png, the names of the coloured pictures."""
    path = tmp_path / "captions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows((photo, text) for photo, texts in made_up(260).items() for text in texts)
    return path


def test_questions_are_written_and_evaluated(
    cli: Run, table: Path, coloured: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "questions.jsonl"
    done = cli("mine", table, "-o", out)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.out.startswith(f"{out}: {len(lines)} questions about ")
    assert " of 260 photos\n  " in done.out
    assert "left out: " in done.out
    assert set(lines[0]) == {"id", "reference", "caption", "targets", "kind", "negatives"}
    again = tmp_path / "again.jsonl"
    cli("mine", table, "-o", again)
    assert again.read_bytes() == out.read_bytes()
    report = tmp_path / "report.json"
    options = ("--data-root", coloured, "--queries", out, "--model", tiny_model, "--output", report)
    evaluated = cli("evaluate", "jsonl", *options)
    assert evaluated.code == 0, evaluated.err
    assert set(json.loads(report.read_text())["groups"]) == {line["kind"] for line in lines}


def test_options(cli: Run, table: Path, index: Path, tmp_path: Path) -> None:
    out = tmp_path / "questions.jsonl"
    all_of_them = cli("mine", table, "-o", out, "--json").json
    assert all_of_them["photos"] == 260
    assert sum(all_of_them["kinds"].values()) == all_of_them["questions"]
    loose = cli("mine", table, "-o", out, "--loose", "--phrasing", "train", "--json").json
    assert loose["questions"] > all_of_them["questions"]
    assert cli("mine", table, "-o", out, "--limit", 9, "--json").json["questions"] == 9
    assert cli("mine", table, "-o", out, "--loose", "--index", index, "--json").json["questions"] < loose["questions"]
    (tmp_path / "list.txt").write_text("".join(f"{number:03d}.png\n" for number in range(100)))
    assert cli("mine", table, "-o", out, "--loose", "--photos", tmp_path / "list.txt", "--json").json["photos"] == 100


def test_mistakes(cli: Run, table: Path, index: Path, tmp_path: Path) -> None:
    out = tmp_path / "questions.jsonl"
    mistake(cli("mine", tmp_path / "none.csv", "-o", out), "none.csv", "no such file")
    (tmp_path / "few.csv").write_text("image,caption\na.png,A dog .\nb.png,A cat .\n")
    mistake(cli("mine", tmp_path / "few.csv", "-o", out), "few.csv: no two photos of 2 differ", "--loose asks for less")
    mistake(cli("mine", tmp_path / "few.csv", "-o", out, "--index", index), "no image 'a.png', which has captions")
    (tmp_path / "list.txt").write_text("zzz.png\n")
    mistake(cli("mine", table, "-o", out, "--photos", tmp_path / "list.txt"), "list.txt:1: 'zzz.png' has no captions")
    (tmp_path / "columns.csv").write_text("image,text\na.png,A dog .\n")
    mistake(cli("mine", tmp_path / "columns.csv", "-o", out), "no column 'caption'")
    assert not out.exists()
