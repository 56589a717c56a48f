"""`cir demo`, end to end, with the models in the package."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

from cir.testing.commands import Run, mistake

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and a demo of few garments."""
    demo = importlib.import_module("cir.cli.demo")
    monkeypatch.setattr(demo, "PICTURES", 60)
    monkeypatch.setattr(demo, "EVALUATED", 10)
    monkeypatch.setattr(demo, "QUESTIONS", 100)  # too few for a replacement
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_whole_demo(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a newcomer runs it: pictures are drawn, searched and measured, and the model of an index is replaced."""
    monkeypatch.chdir(tmp_path)
    done = cli("demo")
    assert (done.code, done.err) == (0, "")
    sheets = [f"sheet-{number}.png" for number in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "cir-demo").glob("*.png")) == sheets
    for word in ("composed", "  before: small-lite-2 answers ", "  after:  small-4 answers "):
        assert word in done.out
    assert "stored vectors: unchanged, byte for byte; `cir rollback " in done.out
    assert "CHANGED" not in done.out
    index = tmp_path / "cir-demo" / "older.index"
    shown = cli("info", index, "--json").json
    assert (shown["model"]["name"], shown["generation"], shown["searched"]) == ("small-4", 2, 300)
    assert cli("verify", index).code == 0
    assert "served by small-lite-2" in cli("rollback", index).out


def test_too_few_questions_are_refused_and_a_second_run_goes_on(cli: Run, here: Path) -> None:
    first = cli("demo", "new")
    assert first.code == 0, first.err
    assert sorted(path.name for path in (here / "new").glob("*.png")) == [f"sheet-{i}.png" for i in (1, 2, 3)]
    assert "composed" in first.out
    assert "refused, nothing has changed: " in first.out
    assert "200 are needed" in first.out
    assert cli("demo", "new").code == 0  # on the wardrobe that exists


def test_own_pictures_are_searched(cli: Run, here: Path, folder: Path) -> None:
    pictures = here / "mine"
    shutil.copytree(folder / "images", pictures)
    own = cli("demo", pictures)
    assert own.code == 0, own.err
    assert len(list((here / "cir-demo").glob("sheet-*.png"))) == 4
    assert not list(pictures.glob("*.png"))
    (here / "file").write_text("")
    mistake(cli("demo", here / "file"), "is a file")
