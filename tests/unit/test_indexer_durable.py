"""Files that are whole or not there, and the lock."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cir.errors import DataError, IndexLockedError
from cir import files
from cir.indexer.storage.lock import LOCK, writer_lock


def test_replacing_keeps_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), files.write_atomically(path) as temporary:
        1 / (temporary.write_bytes(b"half") - 4)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert files.sha256_file(path) == files.sha256_bytes(b"new")


@pytest.mark.parametrize(
    ("number", "need", "message"),
    [
        (errno.ENOSPC, 0, "disk full while writing .*: free some space or choose another place; run the same"),
        (errno.EDQUOT, 2_500_000, "disk full while writing .*: free at least 2 MB or choose"),
        (errno.EACCES, 0, "cannot write .*: Permission denied; check the folder"),
    ],
)
def test_refusals_say_what_to_do(number, need, message):
    with pytest.raises(DataError, match=message), files.disk_errors(Path("/x/y"), need):
        raise OSError(number, os.strerror(number))


def test_make_folder_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        files.make_folder(tmp_path / "file" / "below")


def test_make_folder_syncs_every_new_parent(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "sync", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}


def test_temporaries_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".tmp-1-file").touch()
    (tmp_path / ".tmp-2-folder").mkdir()
    (tmp_path / "file").touch()
    files.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    files.remove_tree(tmp_path / "not there")


def test_one_writer(tmp_path):
    with writer_lock(tmp_path):
        owner = json.loads((tmp_path / LOCK).read_text())
        assert owner["pid"] == os.getpid()
        message = rf"is being written by process {os.getpid()} on .* since 20.*; wait until it is done"
        with pytest.raises(IndexLockedError, match=message), writer_lock(tmp_path):
            pass
    with writer_lock(tmp_path):
        pass


def test_a_lock_not_yet_signed(tmp_path):
    with writer_lock(tmp_path):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(IndexLockedError, match="by another process"), writer_lock(tmp_path):
            pass


def test_the_lock_dies_with_its_owner(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path; from cir.indexer.storage.lock import writer_lock\n"
        f"with writer_lock(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -9
    assert (tmp_path / LOCK).exists()
    with writer_lock(tmp_path):
        pass


def test_a_lock_whose_file_was_removed_locks_nobody_out(tmp_path, monkeypatch):
    import fcntl

    take = fcntl.flock
    attempts = []

    def removed_meanwhile(handle: int, operation: int) -> None:
        attempts.append(handle)
        if len(attempts) == 1:
            (tmp_path / LOCK).unlink()
        take(handle, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with writer_lock(tmp_path):
        assert len(attempts) == 2
        assert (tmp_path / LOCK).exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DataError, match="No locks available"), writer_lock(tmp_path):
        pass
