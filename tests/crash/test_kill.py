"""Real kills: whatever moment `kill -9` comes at, the index is whole or not there, and the next build finishes it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cir.errors import CorruptIndexError, IndexFormatError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify

sys.path.append(str(Path(__file__).parent))
from indexer_fakes import FakeEncoder, build, folder_of, paint

HERE = Path(__file__).parent
IMAGES = 60
BATCHES = IMAGES // 4


Answer = list[list[tuple[str, float]]]


def answer_or_none(out: Path) -> Answer | None:
    """None where there is no index yet; a corrupt one raises."""
    try:
        return answer(out)
    except CorruptIndexError:
        raise
    except IndexFormatError:
        return None


def answer(out: Path) -> Answer:
    gallery = Gallery.open(out)
    return gallery.search({gallery.space.id: FakeEncoder().encode_texts(["one", "two"])}, 100)


def kill_build(photos: Path, out: Path, after: int, delay: float) -> bool:
    """Run a build and kill it `delay` seconds after it has printed `after` lines; whether it had finished by then."""
    command = [sys.executable, str(HERE / "indexer_fakes.py"), str(photos), str(out)]
    environment = {"PYTHONPATH": str(HERE.parents[1]), "PATH": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        finished = False
        for _ in range(after):
            line = process.stdout.readline()
            if line.startswith("built"):
                finished = True
                break
        time.sleep(delay)
        process.kill()
    return finished or process.returncode == 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("kill") / "photos", IMAGES)


@pytest.fixture(scope="module")
def wanted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """What an uninterrupted build answers."""
    out = tmp_path_factory.mktemp("kill") / "whole.index"
    build(photos, out)
    return answer(out)


rng = random.Random(20261123)
# Most moments lie in the end, where the segment is put together and published within some 30 ms.
MOMENTS = [(rng.randint(1, BATCHES), rng.uniform(0, 0.005)) for _ in range(6)] + [
    (BATCHES, rng.uniform(0, 0.04)) for _ in range(6)
]


@pytest.mark.parametrize(("after", "delay"), MOMENTS)
def test_a_first_build_killed(photos, wanted, tmp_path, after, delay):
    out = tmp_path / "x.index"
    kill_build(photos, out, after, delay)
    published = answer_or_none(out)
    if published is not None:
        assert published == wanted
        assert verify(out) == []
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    if published is None and after >= 4:
        assert report.resumed >= 8 * ((after - 2) * 4 // 8)
    assert encoder.encoded == len(report.added) - report.resumed
    assert answer(out) == wanted
    assert verify(out) == []
    assert not (out / "work").exists()
    assert not list(out.rglob(".tmp-*"))


@pytest.mark.parametrize(("after", "delay"), MOMENTS[2:10])
def test_a_later_build_killed(photos, wanted, tmp_path, after, delay):
    out = tmp_path / "x.index"
    old = tmp_path / "old"
    folder_of(old, 12)
    for name in ("0003.png", "0004.png"):
        paint(old / name, 800)
    (old / "0005.png").unlink()
    # The same root as the rest, as if the folder had grown meanwhile.
    folder = tmp_path / "photos"
    old.rename(folder)
    build(folder, out)
    before = answer(out)
    for photo in photos.iterdir():
        (folder / photo.name).write_bytes(photo.read_bytes())
    kill_build(folder, out, after, delay)
    assert verify(out) == []
    assert answer(out) in (before, wanted)
    build(folder, out)
    assert answer(out) == wanted
    assert verify(out) == []
    assert not (out / "work").exists()
    assert not list(out.rglob(".tmp-*"))
