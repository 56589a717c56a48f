"""`marks.jsonl`: what people have judged survives several processes at once, kills, damage, repairs and merges."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cir.errors import CorruptIndexError, DataError
from cir.files import write_bytes
from cir.indexer.reading.verify import unnamed, verify
from cir.indexer.storage.folder import MARKS, IndexFolder
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.marks import Mark, append_marks, check_marks, read_marks
from cir.indexer.writing.merge_indexes import merge
from cir.indexer.writing.repair import repair
from cir.testing.fakes import make_index, random_rows

MARK = Mark("in red, 日本", "b.jpg", "b" * 64, True, "a\udc80.jpg", "a" * 64, ("card",), "2026-11-26T08:00:00+00:00")
GIVEN = [replace(MARK, image=f"{number}.jpg", right=number % 2 == 0) for number in range(4)]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path / "x.index", [random_rows(["a", "b"], 1)])


@pytest.fixture
def folder(index: Path) -> IndexFolder:
    return IndexFolder(index)


def test_marks_come_back_as_they_were(folder: IndexFolder) -> None:
    assert read_marks(folder) == []
    append_marks(folder, GIVEN[:2])
    append_marks(folder, GIVEN[2:])
    assert read_marks(folder) == GIVEN
    assert verify(folder.root) == []
    assert unnamed(folder.root) == []


def test_marking_does_not_wait_for_a_writer(folder: IndexFolder) -> None:
    with writer_lock(folder):
        append_marks(folder, GIVEN)
    assert read_marks(folder) == GIVEN


def _append(root: Path, process: int) -> None:
    for number in range(40):
        append_marks(IndexFolder(root), [replace(MARK, image=f"{process}-{number}")])


def test_several_processes_lose_nothing(folder: IndexFolder) -> None:
    """Also while repairs replace the file."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(folder.root, number)) for number in range(4)]
    append_marks(folder, [MARK])
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert not check_marks(folder)
        append_marks(folder, [MARK])
    for process in processes:
        process.join()
        assert process.exitcode == 0
    images = {mark.image for mark in read_marks(folder)}
    assert images == {MARK.image, *(f"{process}-{number}" for process in range(4) for number in range(40))}


def test_a_half_written_last_line_is_no_mark_and_spoils_no_other(folder: IndexFolder) -> None:
    append_marks(folder, GIVEN[:2])
    whole = (folder.root / MARKS).read_bytes()
    for length in (1, 40, len(whole) // 2 - 1):
        (folder.root / MARKS).write_bytes(whole + whole[:length])
        assert read_marks(folder) == GIVEN[:2]
        assert verify(folder.root) == []
        append_marks(folder, GIVEN[2:])
        assert read_marks(folder) == GIVEN


def test_a_full_disk_leaves_no_half_line(folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    append_marks(folder, GIVEN[:1])
    write = os.write
    monkeypatch.setattr("os.write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(DataError, match="disk full while writing"):
        append_marks(folder, GIVEN[1:])
    monkeypatch.undo()
    assert (folder.root / MARKS).read_bytes().endswith(b"\n")
    assert read_marks(folder) == GIVEN[:1]


def test_every_changed_byte_is_found_or_harmless(folder: IndexFolder) -> None:
    append_marks(folder, GIVEN[:3])
    data = (folder.root / MARKS).read_bytes()
    for place in range(0, len(data) - 1, 3):
        (folder.root / MARKS).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        if check_marks(folder):
            with pytest.raises(CorruptIndexError):
                read_marks(folder)
        else:
            assert read_marks(folder) == GIVEN[:3], place


def test_a_damaged_line_is_named_and_a_repair_keeps_the_others(folder: IndexFolder) -> None:
    append_marks(folder, GIVEN)
    data = (folder.root / MARKS).read_bytes()
    damaged = data.replace(b'"1.jpg"', b'"7.jpg"')
    (folder.root / MARKS).write_bytes(damaged)
    (problem,) = verify(folder.root)
    assert problem == f"{folder.root / MARKS}: line 2 is damaged; restore it from a copy, or run `cir repair {folder}`"
    report = repair(folder.root)
    assert report.problems == (f"{folder.root / MARKS}: line 2 is damaged",)
    assert report.aside == ("quarantine/000002-marks.jsonl",)
    assert (folder.root / report.aside[0]).read_bytes() == damaged
    assert read_marks(folder) == [GIVEN[0], *GIVEN[2:]]
    assert verify(folder.root) == []


@pytest.mark.parametrize("odd", ["folder", "link"])
def test_something_else_in_its_place(folder: IndexFolder, tmp_path: Path, odd: str) -> None:
    (tmp_path / "elsewhere").write_text("not ours\n")
    if odd == "folder":
        (folder.root / MARKS).mkdir()
    else:
        (folder.root / MARKS).symlink_to(tmp_path / "elsewhere")
    assert len(verify(folder.root)) == 1
    with pytest.raises((CorruptIndexError, DataError)):
        append_marks(folder, GIVEN)
    repair(folder.root)
    assert verify(folder.root) == []
    assert (tmp_path / "elsewhere").read_text() == "not ours\n"


def test_a_merge_takes_all_of_them_in_their_order(index: Path, tmp_path: Path) -> None:
    other = make_index(tmp_path / "y.index", [random_rows(["c"], 2)])
    later = [replace(mark, image="later", created="2026-11-27T08:00:00+00:00") for mark in GIVEN[:1]]
    append_marks(IndexFolder(index), later)
    append_marks(IndexFolder(other), GIVEN)
    assert merge([index, other], tmp_path / "both.index").marks == 5
    assert read_marks(IndexFolder(tmp_path / "both.index")) == [*GIVEN, *later]
    (other / MARKS).write_bytes(b"{}\n")
    with pytest.raises(CorruptIndexError, match="line 1 is damaged"):
        merge([index, other], tmp_path / "none.index")
    assert not (tmp_path / "none.index").exists()


def test_a_mark_that_waited_for_a_repair_is_in_the_new_file(folder: IndexFolder) -> None:
    """The file is replaced while another process waits for its lock."""
    append_marks(folder, GIVEN[:1])
    with (folder.root / MARKS).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = multiprocessing.get_context("spawn").Process(target=_append, args=(folder.root, 7))
        waiting.start()
        write_bytes(folder.root / MARKS, (folder.root / MARKS).read_bytes())
    waiting.join()
    assert waiting.exitcode == 0
    assert len(read_marks(folder)) == 41
