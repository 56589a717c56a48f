"""Real kills: whatever moment `kill -9` comes at, the index is whole or absent, and the next build finishes it."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cir.indexer.reading.verify import verify
from cir.testing.fakes import Answer, FakeEncoder, answer, answer_or_none, build, folder_of, paint

pytestmark = pytest.mark.slow

IMAGES = 60
BATCHES = IMAGES // 4


def kill_build(photos: Path, out: Path, after: int, delay: float) -> None:
    """Run a build in another process, and kill it `delay` seconds after it has printed `after` lines."""
    command = [sys.executable, "-m", "cir.testing.fakes", str(photos), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that no test changes."""
    return folder_of(tmp_path_factory.mktemp("kill") / "photos", IMAGES)


@pytest.fixture(scope="module")
def wanted(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """What an uninterrupted build answers."""
    out = tmp_path_factory.mktemp("kill") / "whole.index"
    build(originals, out)
    return answer(out)


rng = random.Random(20261123)
# Most moments lie in the end, where the segment is put together and published within some 30 ms.
MOMENTS = [(rng.randint(1, BATCHES), rng.uniform(0, 0.005)) for _ in range(6)] + [
    (BATCHES, rng.uniform(0, 0.04)) for _ in range(6)
]


@pytest.mark.parametrize(("after", "delay"), MOMENTS)
def test_a_first_build_killed(originals: Path, wanted: Answer, tmp_path: Path, after: int, delay: float) -> None:
    out = tmp_path / "x.index"
    kill_build(originals, out, after, delay)
    published = answer_or_none(out)
    if published is not None:
        assert published == wanted
        assert verify(out) == []
    encoder = FakeEncoder()
    report = build(originals, out, encoder)
    if published is None and after >= 4:
        assert report.resumed >= 8 * ((after - 2) * 4 // 8)
    assert encoder.encoded == len(report.added) - report.resumed
    assert answer(out) == wanted
    assert verify(out) == []
    assert not (out / "work").exists()
    assert not list(out.rglob(".tmp-*"))


@pytest.mark.parametrize(("after", "delay"), MOMENTS[2:10])
def test_a_later_build_killed(originals: Path, wanted: Answer, tmp_path: Path, after: int, delay: float) -> None:
    out, folder = tmp_path / "x.index", folder_of(tmp_path / "photos", 12)
    for name in ("0003.png", "0004.png"):
        paint(folder / name, 800)
    (folder / "0005.png").unlink()
    build(folder, out)
    before = answer(out)
    for photo in originals.iterdir():  # the folder has grown since, and two pictures have changed
        (folder / photo.name).write_bytes(photo.read_bytes())
    kill_build(folder, out, after, delay)
    assert verify(out) == []
    assert answer(out) in (before, wanted)
    build(folder, out)
    assert answer(out) == wanted
    assert verify(out) == []
    assert not (out / "work").exists()
    assert not list(out.rglob(".tmp-*"))
