"""Encoding: lanes that work at the same time, and what an interrupt leaves for the next run."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cir.errors import WeightsError
from cir.indexer.writing import parts, pipeline
from cir.indexer.reading.verify import verify
from cir.types import Encoded

sys.path.append(str(Path(__file__).parents[1] / "crash"))
from indexer_fakes import DIMS, TOKENS, FakeEncoder, answer, build, folder_of


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", 20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "below" / "x.index"


class Interrupting(FakeEncoder):
    """Stops the build when it has seen so many images."""

    def __init__(self, after: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self._after, self._error = after, error

    def encode_images(self, pixels: np.ndarray) -> Encoded:
        if self.encoded >= self._after:
            raise self._error
        return super().encode_images(pixels)


def test_an_interrupt_keeps_what_is_encoded(photos, out):
    with pytest.raises(KeyboardInterrupt):
        build(photos, out, Interrupting(12), workers=1, part_rows=5)
    assert (out / "work").is_dir()
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert report.resumed >= 12
    assert encoder.encoded == 20 - report.resumed
    assert not (out / "work").exists()
    assert verify(out) == []
    fresh = out.with_name("fresh.index")
    build(photos, fresh)
    assert answer(out) == answer(fresh)


def test_parts_of_another_model_or_layout_or_damaged_are_dropped(photos, out):
    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            build(photos, out, Interrupting(12), workers=1)

    interrupt()
    encoder = FakeEncoder("fake-2")
    assert build(photos, out, encoder).resumed == 0
    assert encoder.encoded == 20
    shutil.rmtree(out)
    interrupt()
    encoder = FakeEncoder()
    assert build(photos, out, encoder, tokens=False).resumed == 0
    shutil.rmtree(out)
    interrupt()
    files = sorted((out / "work").iterdir())
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1
    files[0].write_bytes(data)
    (out / "work" / "part").write_bytes(b"half")
    nonsense = b"no segment"
    (out / "work" / f"{hashlib.sha256(nonsense).hexdigest()}.h5").write_bytes(nonsense)
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert 0 < report.resumed < 12
    assert encoder.encoded == 20 - report.resumed


def test_many_parts_are_not_all_open_at_once(photos, out, monkeypatch):
    monkeypatch.setattr(parts, "_OPEN_PARTS", 2)
    assert build(photos, out, part_rows=1).total == 20
    assert verify(out) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Encoded(np.ones((4, DIMS), np.float32), np.ones((4, TOKENS, DIMS), np.float32)), "not of unit length"),
        (Encoded(np.full((4, DIMS), np.nan, np.float32), None), "not of unit length"),
        (Encoded(None, None), r"gave vectors none, not \(4, 16\)"),
        (Encoded(np.ones((4, 3), np.float32), None), r"gave vectors \(4, 3\), not \(4, 16\)"),
    ],
)
def test_an_encoder_that_breaks_its_promise(photos, out, wrong, message, monkeypatch):
    monkeypatch.setattr(FakeEncoder, "encode_images", lambda self, pixels: wrong)
    with pytest.raises(WeightsError, match=message):
        build(photos, out)


def test_a_bug_in_the_encoder_keeps_its_traceback(photos, out):
    with pytest.raises(ZeroDivisionError):
        build(photos, out, Interrupting(4, ZeroDivisionError))


def test_lanes_work_at_the_same_time_and_the_look_ahead_is_bounded(photos, out, monkeypatch):
    barrier = threading.Barrier(2, timeout=10)
    meetings = []
    started: list[int] = []
    lane = pipeline._worker

    class Meeting(FakeEncoder):
        def encode_images(self, pixels: np.ndarray) -> Encoded:
            meetings.append(barrier.wait())
            return super().encode_images(pixels)

    def counted(*args: object) -> pipeline.Batch:
        started.append(1)
        return lane(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "_worker", counted)
    ahead = []
    build(
        photos,
        out,
        Meeting(),
        batch_size=1,
        part_rows=100,
        progress=lambda done, total: (time.sleep(0.002), ahead.append(len(started) - done)),
    )
    assert len(meetings) == 20
    assert max(ahead) <= 4


def test_workers_default_to_the_cores(monkeypatch):
    assert pipeline.default_workers() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert pipeline.default_workers() == (os.cpu_count() or 1)
