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

from cir.errors import DataError, IndexLockedError
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.lock import writer_lock


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
