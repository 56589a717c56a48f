"""Files and folders that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cir import files
from cir.errors import DataError, MissingImageError
from cir.files import read_regular


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that were forced to the disk, in order."""
    paths: list[Path] = []
    real = files.sync

    def noted(path: Path) -> None:
        paths.append(path)
        real(path)

    monkeypatch.setattr(files, "sync", noted)
    return paths


def test_a_file_is_replaced_and_synced(tmp_path: Path, synced: list[Path]) -> None:
    path = tmp_path / "new" / "file"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert files.sha256_file(path) == files.sha256_bytes(b"new")
    assert list(path.parent.iterdir()) == [path]
    assert synced[0] == tmp_path  # the name of the new folder
    first, folder, second, again = synced[1:]
    assert (folder, again) == (path.parent, path.parent)
    assert all(files.is_temporary(temporary.name) for temporary in (first, second))


def test_a_folder_is_synced_from_its_leaves(tmp_path: Path, synced: list[Path]) -> None:
    path = tmp_path / "model"
    with files.write_atomically(path) as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "card.json").write_text("{}")
        (temporary / "deep" / "file").write_text("x")
        assert not path.exists()
    assert (path / "deep" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]
    assert {each.relative_to(temporary).as_posix() for each in synced[:-1]} == {".", "card.json", "deep", "deep/file"}
    assert synced[-2:] == [temporary, tmp_path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_nothing_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    if kind == "file":
        files.write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), files.write_atomically(path) as temporary:  # noqa: PT012
        if kind == "folder":
            temporary.mkdir()
            temporary = temporary / "file"
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == ([path] if kind == "file" else [])
    if kind == "file":
        assert path.read_bytes() == b"old"


def test_a_full_folder_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    with (
        pytest.raises(DataError, match="folder cannot be written: Directory not empty"),
        files.write_atomically(tmp_path / "folder") as temporary,
    ):
        temporary.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "precious"]


def test_text_and_json(tmp_path: Path) -> None:
    files.write_text(tmp_path / "text", "ü\n")
    assert (tmp_path / "text").read_bytes() == "ü\n".encode()
    files.write_json(tmp_path / "a.json", {"b": "ü", "a": [1]}, indent=None)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"b": "ü", "a": [1]}\n'
    files.write_json(tmp_path / "a.json", {"b": 1, "a": 2}, sort_keys=True)
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", float("nan"))


@pytest.mark.parametrize(
    ("number", "need", "message"),
    [
        (errno.ENOSPC, 0, "disk full while writing .*: free at least 5 kB or choose another place; run the same"),
        (errno.EDQUOT, 2_500_000, "disk full while writing .*: free at least 2 MB or choose"),
        (errno.EACCES, 0, r"/x/y cannot be written: Permission denied; check the folder and its permissions"),
    ],
)
def test_refusals_say_what_to_do(number: int, need: int, message: str) -> None:
    with pytest.raises(DataError, match=message), files.disk_errors(Path("/x/y"), need):
        raise OSError(number, os.strerror(number))


def test_an_error_that_is_not_of_the_disk_passes_through(tmp_path: Path) -> None:
    """MissingImageError is a FileNotFoundError too, but says nothing about what is written."""
    with pytest.raises(MissingImageError, match="the photo is gone"), files.write_atomically(tmp_path / "file"):
        raise MissingImageError("the photo is gone")


def test_more_than_the_disk_holds_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, length: int) -> None:
        assert length == 5_000_000
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with (
        pytest.raises(DataError, match=r"disk full while writing .*file: free at least 5 MB"),
        files.write_atomically(tmp_path / "file", need=5_000_000),
    ):
        pytest.fail("nothing may be written")
    assert list(tmp_path.iterdir()) == []


def test_make_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="below cannot be written: Not a directory"):
        files.make_folder(tmp_path / "file" / "below")


def test_make_folder_syncs_every_new_parent(tmp_path: Path, synced: list[Path]) -> None:
    files.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}


def test_temporaries_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-file").touch()
    (tmp_path / ".tmp-2-folder").mkdir()
    (tmp_path / "file").touch()
    files.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    files.remove_tree(tmp_path / "not there")


def test_lines_are_read_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbfa\n\n \r\n\xc3\xbc")
    assert list(files.read_lines(path)) == [(f"{path}:1", "a"), (f"{path}:4", "ü")]
    path.write_bytes(b"a\nb\xff")
    with pytest.raises(DataError, match="lines:2: not UTF-8 at byte 1; save the file as UTF-8"):
        list(files.read_lines(path))
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\); check the path"):
        list(files.read_lines(tmp_path / "nowhere"))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    for path, limit in ((tmp_path / "pipe", 9), (Path("/dev/zero"), 9), (tmp_path, 9), (tmp_path / "file", 4)):
        with pytest.raises(OSError, match=r"regular|[Dd]irectory|larger"):
            read_regular(path, limit)


def test_lines_end_as_everywhere_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\rb\r\nc\n\nd")
    assert list(files.read_lines(path)) == [
        (f"{path}:{n}", text) for n, text in ((1, "a"), (2, "b"), (3, "c"), (5, "d"))
    ]
    monkeypatch.setattr(files, "LONGEST_LINE", 10)
    path.write_bytes(b"short\n" + b"x" * 1000)
    with pytest.raises(DataError, match="lines:2: a line of more than"):
        list(files.read_lines(path))
    with pytest.raises(DataError, match="/dev/zero:1: a line of more than"):
        list(files.read_lines(Path("/dev/zero")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),  # could be read, but not walked through everywhere
        ('{"a":' * 101 + "1" + "}" * 101, "nested too deeply"),
        ("1" * 4301, "a number of 4,301 digits"),
        ("-1e999", "is not a float"),
        ("[NaN]", "NaN is not a JSON number"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        ("", "Expecting value at column 1"),
        ("[1,\n2", "at line 2, column 2"),
    ],
)
def test_json_from_elsewhere_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.parse_json(text)


def test_json_from_elsewhere_that_is_read() -> None:
    assert files.parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\xc3\xbc"]}') == {"a": [1, 2.5, None, "\u00fc"]}
    files.parse_json("[" * 99 + "]" * 99)
    assert files.parse_json("1" * 4300) == int("1" * 4300)


def test_a_file_that_goes_meanwhile_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_bytes(b"123")
    going = tmp_path / "folder" / ".tmp-1-ann.json"
    going.write_bytes(b"12345")
    listed = Path.is_file

    def renamed_after(path: Path) -> bool:
        found = listed(path)
        going.unlink(missing_ok=True)
        return found

    assert files.size_of(tmp_path) == 8
    monkeypatch.setattr(Path, "is_file", renamed_after)
    assert files.size_of(tmp_path) == 3
