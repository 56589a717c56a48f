"""A disk that is really full: a small tmpfs with a filler on it, and files limited in size where that is tried.

The room that is left is drawn between almost nothing and the most that the same command took with room enough. The
command ends with one line that says that the disk is full and how much is needed; what was published answers as before
on the full disk; with room the same command finishes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from tortures.cases import Arena, Case, Tally
from tortures.commands import Command, commands_for_disks
from tortures.processes import Bounds, Runner
from tortures.steps import Step

ROOM = 96 << 20
START = 8 << 10  # bytes left at least
METADATA = (200, 1300, 20_000)  # bytes a row
FULL = re.compile(r"full|no space|too large|no room", re.IGNORECASE)
NEEDED = re.compile(r"\d[\d.,]*\s?([kKMG]i?B|bytes|B)\b")


@dataclass(frozen=True)
class Measured:
    """A command for which the disk is too small, and what it took with room enough.

    Attributes:
        command: the command.
        metadata: bytes a row.
        start: the index that it begins with; a folder that does not exist for a first build.
        needs: the most bytes that the disk held beyond those at its start.
        largest: the largest file after it.
    """

    command: Command
    metadata: int
    start: Path
    needs: int
    largest: int


def torture(arena: Arena, tally: Tally, count: int) -> None:
    """Refuse that many commands the room they need; each size of metadata in turn."""
    folder, number = arena.scratch / "full-disks", 0
    runner = Runner(arena.scratch)
    with disk(folder / "disk") as mounted:
        by_size = [[(size, command) for command in commands_for_disks(folder, size)] for size in METADATA]
        commands = [one for same in zip(*by_size, strict=True) for one in same]
        measured = [
            cache(partial(_measured, runner, folder, size, command)) for size, command in commands
        ]  # when a case first needs it
        while tally.counts["too full"] < count and number < 3 * count:
            with arena.case(tally, number) as case:
                if case:
                    _torture(case, measured[number % len(measured)](), folder / "disk", mounted)
            number += 1
    shutil.rmtree(folder)


@contextmanager
def disk(path: Path) -> Iterator[bool]:
    """A small disk at a path; whether it could be mounted, which is not allowed everywhere."""
    path.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(path)]
    mounted = shutil.which("mount") and subprocess.run(words, capture_output=True, check=False).returncode == 0
    if not mounted:
        print("  no tmpfs can be mounted here: files are limited in size instead (RLIMIT_FSIZE)")
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


def _torture(case: Case, measured: Measured, place: Path, mounted: bool) -> None:
    _clear(place)
    index, filler, bounds = place / "x.index", place / "filler", None
    command, words = measured.command, f"{measured.command.name}, {measured.metadata:,} bytes of metadata a row,"
    if measured.start.exists():
        shutil.copytree(measured.start, index)
    step = command.step(index)
    share = case.rng.random()
    if mounted and case.rng.random() < 0.75:
        room = START + int(share * (measured.needs - START))
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - room)
        case.did.append(f"{words} with {room:,} bytes left of {measured.needs:,}")
    else:
        largest = START // 4 + int(share * measured.largest)
        bounds = Bounds(file_bytes=largest)
        case.did.append(f"{words} with files of at most {largest:,} bytes of {measured.largest:,}")
    ended = case.run(step, bounds, fresh=True)
    if ended.code != 0:
        case.count("too full")
        case.count(f"with {measured.metadata:,} bytes of metadata a row")
        case.count(f"in {command.name}")
    else:
        case.count("there was room enough")
    if ended.code == 2 and not FULL.search(ended.last):
        case.found("unclear", f"does not say that the disk is full: {ended.last}")
    elif ended.code == 2 and not NEEDED.search(ended.last):
        case.found("unclear", f"does not say how much is needed: {ended.last}")
    when = "on the full disk"
    if command.before is not None or case.run(Step("ask", {"index": str(index)})).code == 0:
        case.ask(index, *command.states, mixed=command.mixed, after=when)
        case.verify(index, after=when)
    elif ended.code == 0:
        case.found("lost", "the build has ended well, and there is no index")
    if ended.code == 2:
        case.no_leftovers(index, after=when)
    filler.unlink(missing_ok=True)
    if case.run(step, codes=(0,)).code == 0:
        case.ask(index, command.after, after="with room again")
        case.verify(index, after="with room again")
        case.no_leftovers(index, after="with room again")
        if (index / "work").exists():
            case.found("leftover", "work/ is still there")
    else:
        case.found("lost", "the same command does not finish with room")


def _measured(runner: Runner, folder: Path, metadata: int, command: Command) -> Measured:
    """A command, measured with room enough."""
    start, place = folder / f"{command.name}-{metadata}.index", folder / "disk"
    _clear(place)
    command.prepare(runner, start)
    index, most = place / "x.index", [0]
    if start.exists():
        shutil.copytree(start, index)
    step, before = command.step(index), _used(place)
    pid = runner.start(step)
    ended = runner.wait(pid, meanwhile=lambda: most.append(max(most.pop(), _used(place))))
    if ended.code != 0:
        raise RuntimeError(f"{command.name}: {ended}\n{ended.err}")
    largest = max(path.stat().st_size for path in index.rglob("*") if path.is_file())
    return Measured(command, metadata, start, max(most[0] - before, 2 * START), largest)


def _clear(place: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _used(place: Path) -> int:
    """Bytes that a small disk holds, or a folder where none could be mounted."""
    if os.path.ismount(place):
        return shutil.disk_usage(place).used
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
