"""One writer at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cir.errors import DataError, IndexFormatError, IndexLockedError
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.lock import writer_lock, writer_of
from cir.indexer.storage.writer import writing
from cir.testing.fakes import make_index, random_rows


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(tmp_path)


def test_the_second_writer_learns_who_the_first_is(folder: IndexFolder) -> None:
    with writer_lock(folder):
        owner = json.loads(folder.lock.read_text())
        assert owner["pid"] == os.getpid()
        message = rf"is being written by process {os.getpid()} on .* since 20.*; wait until it is done"
        with pytest.raises(IndexLockedError, match=message), writer_lock(folder):
            pass
    with writer_lock(folder):
        pass


def test_a_lock_not_yet_signed(folder: IndexFolder) -> None:
    with writer_lock(folder):
        folder.lock.write_text("")
        with pytest.raises(IndexLockedError, match="by another process"), writer_lock(folder):
            pass


def test_the_lock_dies_with_its_owner(folder: IndexFolder) -> None:
    program = """
import os, sys
from pathlib import Path
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.lock import writer_lock
with writer_lock(IndexFolder(Path(sys.argv[1]))):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program, folder.root], check=False).returncode == -9
    assert folder.lock.exists()
    with writer_lock(folder):
        pass


def test_a_lock_whose_file_was_removed_locks_nobody_out(folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    take = fcntl.flock
    attempts: list[int] = []

    def removed_meanwhile(handle: int, operation: int) -> None:
        attempts.append(handle)
        if len(attempts) == 1:
            folder.lock.unlink()
        take(handle, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with writer_lock(folder):
        assert len(attempts) == 2
        assert folder.lock.exists()


def test_a_file_system_without_locks(folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DataError, match="LOCK cannot be written: No locks available"), writer_lock(folder):
        pass


def test_nothing_is_published_after_the_lock_was_removed(tmp_path: Path) -> None:
    folder = IndexFolder(make_index(tmp_path / "x.index", [random_rows(["a"], 1)]))
    before = folder.current.read_bytes()
    with writing(folder) as first:
        manifest = read_manifest(folder)
        folder.lock.unlink()
        with writing(folder) as second:
            with pytest.raises(IndexLockedError, match=r"LOCK was removed .* nothing was published; run the same"):
                first.publish(manifest)
            assert folder.current.read_bytes() == before
            second.publish(manifest)
    assert read_manifest(folder).generation == 2


def test_a_forked_process_does_not_keep_the_lock(folder: IndexFolder) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.lock import writer_lock
with writer_lock(IndexFolder(Path(sys.argv[1]))):
    child = os.fork()
    if not child:
        os.close(1)
        signal.pause()
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    parent = subprocess.run(
        [sys.executable, "-c", program, folder.root], stdout=subprocess.PIPE, text=True, check=False
    )
    child = int(parent.stdout)
    try:
        with writer_lock(folder):
            pass
    finally:
        os.kill(child, 9)


def test_who_builds_an_index_for_the_first_time(folder: IndexFolder) -> None:
    folder.work.mkdir()
    assert writer_of(folder) is None
    with writer_lock(folder):
        assert str(os.getpid()) in str(writer_of(folder))
        with pytest.raises(
            IndexFormatError, match=rf"is being built for the first time by process {os.getpid()} on .*; it can be"
        ):
            read_manifest(folder)
    with pytest.raises(IndexFormatError, match="an unfinished index"):
        read_manifest(folder)


def test_a_lock_that_is_a_link(folder: IndexFolder, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear diary")
    folder.lock.symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="LOCK cannot be written"), writer_lock(folder):
        pass
    assert (tmp_path / "mine").read_text() == "dear diary"
