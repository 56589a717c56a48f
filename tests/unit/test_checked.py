"""Which files need not be read again: known by their identity, forgotten at the smallest change."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cir import checked
from cir.checked import agrees, checked_file, is_checked, remember_checked
from cir.files import sha256_bytes

DATA = b"codes" * 1000
SHA256 = sha256_bytes(DATA)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder, and a clock of files that is fine enough to tell each change from the one before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(checked, "_SETTLED", 0)
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ann.faiss"
    path.write_bytes(DATA)
    return path


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no file can be digested."""
    monkeypatch.setattr(checked, "sha256_file", None)


def test_a_file_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_checked(file, SHA256)
    assert agrees(file, SHA256)
    assert is_checked(file, SHA256)
    unreadable(monkeypatch)
    assert agrees(file, SHA256)
    with file.open("rb") as opened:
        assert is_checked(opened.fileno(), SHA256)


def test_a_writer_remembers_what_it_has_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_checked(file, SHA256)
    remember_checked(file, SHA256)
    assert len(checked_file().read_bytes().splitlines()) == 1
    unreadable(monkeypatch)
    assert agrees(file, SHA256)


def test_another_digest_is_not_remembered(file: Path) -> None:
    assert not agrees(file, "0" * 64)
    assert not checked_file().exists()
    remember_checked(file, SHA256)
    assert not is_checked(file, "0" * 64)


def test_a_changed_byte_is_noticed_though_size_and_times_are_set_back(file: Path) -> None:
    assert agrees(file, SHA256)
    before = file.stat()
    while time.time_ns() - before.st_ctime_ns < 20_000_000:  # the next tick of the clock of files
        pass
    with file.open("r+b") as opened:
        opened.write(b"C")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not agrees(file, SHA256)


def test_a_copy_is_read_again(file: Path) -> None:
    assert agrees(file, SHA256)
    copy = Path(shutil.copy2(file, file.with_name("copy")))
    assert not is_checked(copy, SHA256)
    assert agrees(copy, SHA256)


def test_what_changed_a_moment_ago_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "_SETTLED", 10**18)
    assert agrees(file, SHA256)
    assert not is_checked(file, SHA256)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(path: Path) -> str:
        with path.open("ab") as opened:
            opened.write(b"more")
        return SHA256

    monkeypatch.setattr(checked, "sha256_file", digest)
    assert agrees(file, SHA256)
    assert not is_checked(file, SHA256)


def test_the_record_stays_small(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "LINES", 10)
    for number in range(25):
        remember_checked(file, f"{number:064x}")
    assert len(checked_file().read_bytes().splitlines()) <= 10
    assert is_checked(file, f"{24:064x}")
    assert not is_checked(file, f"{0:064x}")


def test_a_record_that_has_grown_absurd_is_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "_LARGEST", 1000)
    checked_file().parent.mkdir(parents=True)
    checked_file().write_bytes(b"x" * 1001)
    assert agrees(file, SHA256)
    assert is_checked(file, SHA256)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00\n", b"[]\n\n"])
def test_a_damaged_record_vouches_for_nothing(file: Path, content: bytes) -> None:
    checked_file().parent.mkdir(parents=True)
    checked_file().write_bytes(content)
    assert not is_checked(file, SHA256)
    assert agrees(file, SHA256)


def test_without_a_state_folder_files_are_read_every_time(file: Path, state: Path) -> None:
    state.write_bytes(b"a file where the folder should be")
    for _ in range(2):
        assert agrees(file, SHA256)
        assert not is_checked(file, SHA256)


def test_without_a_home_folder_files_are_read_every_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home folder")

    monkeypatch.setattr(checked, "known_file", homeless)
    assert agrees(file, SHA256)
    assert not is_checked(file, SHA256)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    for call in (is_checked, agrees, remember_checked):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "none", SHA256)
