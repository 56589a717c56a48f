"""A disk that is full from the n-th write on, or fails once: what was published stays, and the next build finishes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest

from cir.errors import CorruptIndexError, DataError, IndexFormatError
from cir import files
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.manifest import SEGMENTS, read_manifest
from cir.indexer.reading.verify import verify

sys.path.append(str(Path(__file__).parent))
from indexer_fakes import FakeEncoder, build, folder_of, paint


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

    def fill(self, room: int, once: bool) -> None:
        self.writes, self.room, self.once = 0, room, once

    def free(self) -> None:
        self.room = 10**9


def refused(build_it: Callable[[], object]) -> str | None:
    """The message of a build that the disk stopped; None for one that went through."""
    try:
        build_it()
    except DataError as error:
        return str(error)
    return None


def answer_or_none(out: Path) -> list[list[tuple[str, float]]] | None:
    """None where there is no index yet; a corrupt one raises."""
    try:
        return answer(out)
    except CorruptIndexError:
        raise
    except IndexFormatError:
        return None


def answer(out: Path) -> list[list[tuple[str, float]]]:
    gallery = Gallery.open(out)
    return gallery.search({gallery.space.id: FakeEncoder().encode_texts(["one"])}, 50)


@pytest.mark.parametrize("once", [False, True])
def test_every_write_of_a_first_build(tmp_path, monkeypatch, once):
    photos = folder_of(tmp_path / "photos", 6)
    disk = Disk(monkeypatch)
    build(photos, tmp_path / "whole.index", workers=1, part_rows=3)
    wanted = answer(tmp_path / "whole.index")
    writes = disk.writes
    assert writes > 30
    failures = 0
    for room in range(1, writes + 1):
        out = tmp_path / f"{room}.index"
        disk.fill(room, once)
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
        assert len(list((out / SEGMENTS).iterdir())) <= 2
    # Creating a folder that is there may fail without harm; nothing else.
    assert failures >= (writes - 4 if once else writes)


def test_every_write_of_a_later_build(tmp_path, monkeypatch):
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
        for path in (path for path in first.rglob("*") if path.is_file()):
            copy = out / path.relative_to(first)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        disk.fill(room, once=False)
        message = refused(partial(build, photos, out, workers=1, part_rows=3))
        disk.free()
        if message is None:
            break
        assert "disk full" in message
        assert verify(out) == []
        assert answer(out) in (before, wanted)
        assert read_manifest(out).generation in (1, 2)
        assert not list(out.rglob(".tmp-*"))
        build(photos, out)
        assert answer(out) == wanted
    assert room > 30
    assert answer(out) == wanted


def test_an_approximate_index_that_does_not_fit_is_no_error(tmp_path, monkeypatch, caplog):
    pytest.importorskip("faiss")
    photos = folder_of(tmp_path / "photos", 12)
    real = files.replacing

    def no_room(path: Path, need: int = 0) -> Any:
        if path.name == "ann.faiss":
            raise DataError("disk full")
        return real(path, need)

    monkeypatch.setattr("cir.indexer.reading.ann.replacing", no_room)
    assert build(photos, tmp_path / "x.index", ann_min_rows=5).total == 12
    assert "could not be kept" in caplog.text
