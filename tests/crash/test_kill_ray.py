"""Real kills of processes that build on Ray, and of the one that asked: the build ends with the same index.

CIR_KILLS is how often a process is killed, and a third of it how often the one that asked; a few times by default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder, is_index
from cir.indexer.storage.generations import read_manifest
from cir.testing.fakes import FakeEncoder, answer, answer_or_none, build, folder_of

psutil = pytest.importorskip("psutil")
pytest.importorskip("ray")
pytestmark = pytest.mark.long

KILLS = int(os.environ.get("CIR_KILLS", "3"))
IMAGES, ROWS = 240, 8  # 30 segments of a tenth of a second
rng = random.Random(20261126)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that no test changes."""
    return folder_of(tmp_path_factory.mktemp("kill") / "photos", IMAGES)


@pytest.fixture(scope="module")
def wanted(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of an uninterrupted build by one process."""
    out = tmp_path_factory.mktemp("kill") / "whole.index"
    build(originals, out, segment_rows=ROWS)
    return out


def digests(out: Path) -> list[str]:
    """Of the segments of the live generation."""
    return [each.files["gallery.h5"].sha256 for each in read_manifest(IndexFolder(out)).segments]


def encoding_processes(parent: int) -> list[Any]:
    """The encoding processes that descend from a process."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.Error):
            if any(word.startswith("ray::EncodingProcess") for word in process.cmdline()[:1]):
                found.append(process)
    return found


def start(photos: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cir.testing.spread_build", str(photos), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return map(str.strip, process.stdout)


def test_killed_processes(originals: Path, wanted: Path, tmp_path: Path) -> None:
    killed = round_number = 0
    while killed < KILLS:
        round_number += 1
        assert round_number <= 2 * KILLS, "too few processes were there to be killed"
        out = tmp_path / f"{round_number}.index"
        with start(originals, out) as builder:
            ended = threading.Event()

            def kill(parent: int = builder.pid, over: threading.Event = ended) -> int:
                count = 0
                while count < 3 and not over.wait(rng.uniform(0.05, 1.0)):
                    processes = encoding_processes(parent)
                    if processes:
                        with suppress(psutil.Error):
                            rng.choice(processes).send_signal(signal.SIGKILL)
                            count += 1
                return count

            said = lines(builder)
            assert next(said) == "joined"
            counts: list[int] = []
            killer = threading.Thread(target=lambda: counts.append(kill()))  # noqa: B023  # joined below
            killer.start()
            rest = list(said)
            ended.set()
            killer.join()
            assert builder.wait() == 0, builder.stderr and builder.stderr.read()[-3000:]
            assert rest[-1] == "built"
        killed += counts[0]
        assert digests(out) == digests(wanted)
        assert answer(out) == answer(wanted)
        assert verify(out) == []
        assert not (out / "work").exists()


@pytest.mark.parametrize("number", range(max(1, KILLS // 3)))
def test_the_one_that_asked_is_killed(originals: Path, wanted: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "x.index"
    after = rng.choice([1, 10, 20, 29, 30])
    with start(originals, out) as builder:
        said = lines(builder)
        for _ in range(1 + after):
            next(said, "")
        with suppress(subprocess.TimeoutExpired):
            builder.wait(rng.uniform(0, 0.2))
        builder.kill()
    published = answer_or_none(out)
    assert published in (None, answer(wanted))
    encoder = FakeEncoder()
    report = build(originals, out, encoder, segment_rows=ROWS)
    if published is None:
        assert report.resumed >= ROWS * (after - 1)
    assert encoder.encoded == (0 if published else IMAGES - report.resumed)
    assert digests(out) == digests(wanted)
    assert answer(out) == answer(wanted)
    assert verify(out) == []
    assert is_index(out)
    assert not (out / "work").exists()
    assert not list(out.rglob(".tmp-*"))
