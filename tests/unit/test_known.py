"""The user's own record of what was indexed, and the one form of names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir import known
from cir.images.names import canonical_id


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_roots_are_remembered_once() -> None:
    assert known.known_roots() == frozenset()
    known.remember_roots(["/a", "/b\n"])
    known.remember_roots(["/a"])
    assert known.known_roots() == {"/a", "/b\n"}
    assert len(known.known_file().read_text().splitlines()) == 2


def test_the_latest_folder_of_a_model_comes_first() -> None:
    for folder in ("/one", "/two", "/one"):
        known.remember_model("d1", Path(folder))
    assert known.model_folders("d1") == [Path("/one"), Path("/two")]
    assert known.model_folders("d2") == []


def test_foreign_lines_are_left_out() -> None:
    known.remember_roots(["/a"])
    with known.known_file().open("a") as file:
        file.write('[1]\n{"root": 3}\n' + "[" * 100_000 + '\n{"model": "d1", "folder": 4}\n{"root": "/ha')
    assert known.known_roots() == {"/a"}
    assert known.model_folders("d1") == []


def test_a_record_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    known.remember_roots(["/a"])
    assert "--trust-roots" in caplog.text


@pytest.mark.parametrize("given", ["./a/b.jpg", "a//b.jpg", "a/./b.jpg", "a/b.jpg"])
def test_one_form_of_a_name(given: str) -> None:
    assert canonical_id(given) == "a/b.jpg"


def test_decomposed_letters_are_composed() -> None:
    assert canonical_id("cafe\u0301.jpg") == "caf\u00e9.jpg"


@pytest.mark.parametrize("given", ["/a.jpg", "../a.jpg", "a/../../b.jpg", "", ".", "a\0.jpg"])
def test_names_that_lead_out(given: str) -> None:
    with pytest.raises(ValueError, match=r"absolute|leads out"):
        canonical_id(given)
