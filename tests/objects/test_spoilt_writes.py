"""The store cut off in the middle of publishing, slow or deaf, and the writer killed: `CURRENT` is old or new."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cir.errors import StoreError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.objects import open_store
from cir.testing.fakes import Answer, FakeEncoder, answer, build, folder_of
from cir.testing.store_server import SpoiltLine, StoreServer

Machine = Callable[[str], None]
Patience = Callable[[float], None]
rng = random.Random(20261126)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of pictures before and after some were added; no test changes them."""
    base = tmp_path_factory.mktemp("pictures")
    return folder_of(base / "photos", 8), folder_of(base / "more" / "photos", 24)


@pytest.fixture(scope="module")
def answers(pictures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Answer]:
    """What the indexes of both answer."""
    before, after = pictures
    base = tmp_path_factory.mktemp("whole")
    build(before, base / "old.index")
    build(after, base / "new.index")
    return answer(base / "old.index"), answer(base / "new.index")


def sound(index: str, answers: tuple[Answer, ...], machine: Machine, name: str) -> Answer:
    """What a machine that has nothing yet finds: a whole index that is old or new."""
    machine(name)
    assert verify(index) == []
    found = answer(Path(index))
    assert found in answers
    return found


def cost(line: SpoiltLine, work: Callable[[], object]) -> int:
    before = line.sent
    work()
    return line.sent - before


@pytest.mark.parametrize("share", [0.1, *(rng.uniform(0.2, 1) for _ in range(3)), 0.97])
def test_cut_off_while_publishing(
    share: float,
    line: SpoiltLine,
    index: str,
    bucket: str,
    pictures: tuple[Path, Path],
    answers: tuple[Answer, Answer],
    machine: Machine,
    patience: Patience,
) -> None:
    before, after = pictures
    for url in (index, f"{bucket}/to-measure"):
        build(before, Path(url))
    whole = cost(line, lambda: build(after, Path(f"{bucket}/to-measure")))
    line.cut_after = line.sent + int(whole * share)
    patience(1)
    with pytest.raises(StoreError, match=r"run the same command again|cannot be told now") as error:
        build(after, Path(index))
    assert "\n" not in str(error.value)
    line.mend()
    patience(20)
    sound(index, answers, machine, "reader")
    machine("writer")
    build(after, Path(index))
    assert sound(index, answers, machine, "another") == answers[1]


def test_an_answer_lost_while_publishing(
    line: SpoiltLine,
    index: str,
    pictures: tuple[Path, Path],
    answers: tuple[Answer, Answer],
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    patience: Patience,
) -> None:
    """A write arrives, and its answer does not: the message says that nobody knows, and the next command knows."""
    from cir.objects import Store

    before, after = pictures
    build(before, Path(index))
    plain = Store.put_if

    def deaf(store: Store, key: str, data: bytes, version: str | None) -> str:
        line.deaf = key == "CURRENT"  # from here on
        return plain(store, key, data, version)

    monkeypatch.setattr(Store, "put_if", deaf)
    patience(1)
    with pytest.raises(StoreError, match=f"cannot be told now: `cir info {index}` tells"):
        build(after, Path(index))
    monkeypatch.setattr(Store, "put_if", plain)
    line.mend()
    patience(20)
    assert sound(index, answers, machine, "reader") == answers[1]
    machine("writer")
    encoder = FakeEncoder()
    assert build(after, Path(index), encoder).added == []
    assert encoder.encoded == 0


def test_a_slow_store_is_waited_for(
    line: SpoiltLine, index: str, pictures: tuple[Path, Path], answers: tuple[Answer, Answer], machine: Machine
) -> None:
    line.delay, line.bytes_per_second = 0.005, 200_000
    build(pictures[1], Path(index))
    assert sound(index, answers, machine, "reader") == answers[1]


def test_cut_off_while_fetching(
    line: SpoiltLine,
    index: str,
    pictures: tuple[Path, Path],
    answers: tuple[Answer, Answer],
    machine: Machine,
    patience: Patience,
) -> None:
    build(pictures[1], Path(index))
    machine("measure")
    whole = cost(line, lambda: Gallery.open(index))
    for number, share in enumerate((0.3, 0.9)):
        machine(f"reader-{number}")
        line.cut_after = line.sent + int(whole * share)
        patience(1)
        with pytest.raises(StoreError, match="run the same command again"):
            Gallery.open(index)
        line.mend()
        patience(20)
        assert answer(Path(index)) == answers[1]


@pytest.mark.long
@pytest.mark.parametrize("moment", [rng.uniform(0, 1) for _ in range(20)])
def test_killed_while_publishing(
    moment: float,
    server: StoreServer,
    index: str,
    pictures: tuple[Path, Path],
    answers: tuple[Answer, Answer],
    machine: Machine,
    tmp_path: Path,
) -> None:
    before, after = pictures
    build(before, Path(index))
    machine("writer")
    batches = 24 // 4
    with SpoiltLine(server.port) as line:
        line.delay = 0.004  # so that publishing takes a time in which moments differ
        environment = {**os.environ, **server.environment(line.port)}
        command = [sys.executable, "-m", "cir.testing.fakes", str(after), index]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _ in range(batches):
                process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()
    found = sound(index, answers, machine, "reader")
    machine("writer")
    encoder = FakeEncoder()
    build(after, Path(index), encoder)
    if found == answers[1]:
        assert encoder.encoded == 0
    assert sound(index, answers, machine, "another") == answers[1]
    segments = {info.key.split("/")[1] for info in open_store(index).listed("segments")}
    assert 1 <= len(segments) <= 3  # what the killed one uploaded stays for a day
