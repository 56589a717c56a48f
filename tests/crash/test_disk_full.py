"""A disk that is full from the n-th write on, or fails once: what was published stays, and the next build finishes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest

from cir import files
from cir.errors import DataError
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.backfill import backfill
from cir.testing.fakes import FakeEncoder, answer, answer_or_none, build, contents, folder_of, paint
from cir.testing.two_models import NEW, OLD, PROCRUSTES, serve_new

pytestmark = pytest.mark.slow


class Disk:
    """Counts everything that writes, and refuses from the `room`-th time on, or only then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = 0
        self.room = 10**9
        self.once = False
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "mkdir"),
            (os, "ftruncate"),
            (os, "pwrite"),
            (Path, "write_bytes"),
            (h5py.Dataset, "__setitem__"),
            (h5py.File, "flush"),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.writes += 1
            if self.writes == self.room or (self.writes > self.room and not self.once):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*args, **options)

        return counted

    def fill(self, room: int, *, once: bool = False) -> None:
        self.writes, self.room, self.once = 0, room, once

    def free(self) -> None:
        self.room = 10**9


def refused(step: Callable[[], object]) -> str | None:
    """The message of a step that the disk stopped; None if it went through."""
    try:
        step()
    except DataError as error:
        return str(error)
    return None


def copy(index: Path, out: Path) -> None:
    for name, data in contents(index).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


@pytest.mark.parametrize("once", [False, True])
def test_every_write_of_a_first_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool) -> None:
    photos = folder_of(tmp_path / "photos", 6)
    build(photos, tmp_path / "first.index")  # the user's record of what was indexed is written once
    disk = Disk(monkeypatch)
    build(photos, tmp_path / "whole.index", workers=1, part_rows=3)
    wanted = answer(tmp_path / "whole.index")
    writes = disk.writes
    assert writes > 30
    failures = 0
    for room in range(1, writes + 1):
        out = tmp_path / f"{room}.index"
        disk.fill(room, once=once)
        message = refused(partial(build, photos, out, workers=1, part_rows=3))
        disk.free()
        if message is not None:
            failures += 1
            assert "disk full while writing" in message
            assert "run the same command to resume" in message
        assert not list(out.rglob(".tmp-*"))
        assert answer_or_none(out) in (None, wanted)
        encoder = FakeEncoder()
        report = build(photos, out, encoder)
        assert encoder.encoded == len(report.added) - report.resumed
        assert answer(out) == wanted
        assert verify(out) == []
        assert len(list(IndexFolder(out).segments.iterdir())) <= 2
    assert failures == writes


def test_every_write_of_a_later_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder_of(tmp_path / "photos", 3)
    first = tmp_path / "first.index"
    build(photos, first)
    before = answer(first)
    folder_of(photos, 3, 3)
    paint(photos / "0000.png", 99)
    build(photos, tmp_path / "whole.index")
    wanted = answer(tmp_path / "whole.index")
    disk = Disk(monkeypatch)
    for room in range(1, 1000):
        out = tmp_path / f"{room}.index"
        copy(first, out)
        disk.fill(room)
        message = refused(partial(build, photos, out, workers=1, part_rows=3))
        disk.free()
        if message is None:
            break
        assert "disk full" in message
        assert verify(out) == []
        assert answer(out) in (before, wanted)
        assert read_manifest(IndexFolder(out)).generation in (1, 2)
        assert not list(out.rglob(".tmp-*"))
        build(photos, out)
        assert answer(out) == wanted
    assert room > 30
    assert answer(out) == wanted


def test_every_write_of_a_backfill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder_of(tmp_path / "photos", 4)
    first = tmp_path / "first.index"
    build(photos, first, OLD)
    serve_new(first, PROCRUSTES)
    build(photos, tmp_path / "whole.index", NEW)
    wanted = answer(tmp_path / "whole.index")
    disk = Disk(monkeypatch)
    for room in range(1, 1000):
        out = tmp_path / f"{room}.index"
        copy(first, out)
        disk.fill(room)
        message = refused(lambda out=out: list(backfill(out, NEW, part=2, workers=1)))  # type: ignore[misc]
        disk.free()
        if message is None:
            break
        assert "disk full" in message
        assert verify(out) == []
        assert read_manifest(IndexFolder(out)).rows == 4
        assert not list(out.rglob(".tmp-*"))
        list(backfill(out, NEW))
        assert answer(out) == wanted
    assert room > 30
    assert answer(out) == wanted


def test_an_approximate_index_that_does_not_fit_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss")
    photos = folder_of(tmp_path / "photos", 20)
    real = files.write_atomically

    def no_room(path: Path, need: int = 0) -> Any:
        if path.name == "ann.faiss":
            raise DataError("disk full")
        return real(path, need)

    monkeypatch.setattr("cir.indexer.reading.ann.write_atomically", no_room)
    assert build(photos, tmp_path / "x.index", ann_min_rows=20).total == 20
    assert "could not be stored" in caplog.text
