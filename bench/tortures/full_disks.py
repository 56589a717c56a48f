"""A disk that is really full: a small tmpfs with a filler on it, and files limited in size where that is tried.

The room that is left is drawn between almost nothing and the most that the same command took with room enough. The
command ends with one line that says that the disk is full and how much is needed; what was published answers as before
on the full disk; with room the same command finishes.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tortures.cases import Arena, Case, Tally
from tortures.processes import Bounds, Runner
from tortures.states import State, write_photos
from tortures.steps import Step, cir
from tortures.worlds import PROCRUSTES, build_step, must, rows_of, store_questions

ROOM = 96 << 20
START = 8 << 10  # bytes left at least
METADATA = (200, 1300, 20_000)  # bytes a row
FULL = re.compile(r"full|no space|too large|no room", re.IGNORECASE)
NEEDED = re.compile(r"\d[\d.,]*\s?([kKMG]i?B|bytes|B)\b")


@dataclass(frozen=True)
class Script:
    """A command for which the disk is too small.

    Attributes:
        name: in words.
        start: the index that it begins with; a folder that does not exist for a first build.
        step: the command, on the folder `index`.
        before, after: what the index answers without it and with it.
        needs: the most bytes that the disk held during an undisturbed run, beyond those at its start.
        largest: the largest file after it.
        mixed: whether images may be as before or as after, one by one.
    """

    name: str
    start: Path
    step: Callable[[Path], Step]
    before: State | None
    after: State
    needs: int
    largest: int
    mixed: bool = False


def torture(arena: Arena, tally: Tally, count: int) -> None:
    """Refuse that many commands the room they need."""
    folder = arena.scratch / "full-disks"
    with disk(folder / "disk") as mounted:
        scripts = _scripts(Runner(arena.scratch), folder, mounted or folder / "disk")
        number = 0
        while tally.counts["too full"] < count and number < 3 * count:
            with arena.case(tally, number) as case:
                if case:
                    _torture(case, scripts[number % len(scripts)], folder / "disk", mounted is not None)
            number += 1
    shutil.rmtree(folder)


@contextmanager
def disk(path: Path) -> Iterator[Path | None]:
    """A small disk, mounted there; None where that is not allowed."""
    path.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(path)]
    mounted = shutil.which("mount") and subprocess.run(words, capture_output=True, check=False).returncode == 0
    if not mounted:
        print("  no tmpfs can be mounted here: files are limited in size instead (RLIMIT_FSIZE)")
    try:
        yield path if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


def _torture(case: Case, script: Script, place: Path, mounted: bool) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    index, filler, bounds = place / "x.index", place / "filler", None
    if script.start.exists():
        shutil.copytree(script.start, index)
    step = script.step(index)
    share = case.rng.random()
    if mounted and case.rng.random() < 0.75:
        room = START + int(share * (script.needs - START))
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - room)
        case.did.append(f"{script.name} with {room:,} bytes left of {script.needs:,}")
    else:
        largest = START // 4 + int(share * script.largest)
        bounds = Bounds(file_bytes=largest)
        case.did.append(f"{script.name} with files of at most {largest:,} bytes of {script.largest:,}")
    ended = case.run(step, bounds, fresh=True)
    if ended.code != 0:
        case.count("too full")
        case.count(f"too full for {script.name}")
    if ended.code == 2:
        if not FULL.search(ended.last):
            case.found("unclear", f"does not say that the disk is full: {ended.last}")
        elif not NEEDED.search(ended.last):
            case.found("unclear", f"does not say how much is needed: {ended.last}")
    elif ended.code == 0:
        case.count("there was room enough")
    if script.before is not None or ended.code == 0:
        states = [
            state
            for state in (script.before, script.after)
            if state is not None and (ended.code or state is script.after)
        ]
        case.ask(index, *(states or [script.after]), mixed=script.mixed and ended.code != 0, after="on the full disk")
        case.verify(index, after="on the full disk")
    elif index.exists():
        asked = case.run(Step("ask", {"index": str(index)}))
        if asked.code == 0:
            case.ask(index, script.after, after="on the full disk")
    case.no_leftovers(index, after="on the full disk") if ended.code is not None and index.exists() else None
    filler.unlink(missing_ok=True)
    if case.run(step, codes=(0,)).code == 0:
        case.ask(index, script.after, after="with room again")
        case.verify(index, after="with room again")
        case.no_leftovers(index, after="with room again")
        if (index / "work").exists():
            case.found("leftover", "work/ is still there")
    else:
        case.found("lost", "the same command does not finish with room")


def _command(photos: Path, index: Path, state: State) -> Step:
    """`cir build-index` with a CSV of metadata."""
    write_photos(photos, state.rows)
    table = photos.with_name(f"{photos.name}.csv")
    names = sorted({column for row in state.rows.values() for column, _ in row.metadata})
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", *names])
        writer.writeheader()
        writer.writerows({"id": name, **dict(row.metadata)} for name, row in state.rows.items())
    return cir("build-index", photos, "-o", index, "--metadata", table)


def _scripts(runner: Runner, folder: Path, place: Path) -> list[Script]:
    """Every command that writes, measured with room enough."""
    scripts: list[Script] = []

    def add(
        name: str,
        start: list[Callable[[Path], Step]],
        step: Callable[[Path], Step],
        before: State | None,
        after: State,
        mixed: bool = False,
    ) -> None:
        first, index = folder / f"{len(scripts)}.index", place / "x.index"
        for one in start:
            must(runner, one(first))
        if first.exists():
            shutil.copytree(first, index)
        made, at_first = step(index), _used(place)
        most = [0]
        pid = runner.start(made)
        ended = runner.wait(pid, meanwhile=lambda: most.append(max(most.pop(), _used(place))))
        if ended.code != 0:
            raise RuntimeError(f"{name}: {ended}\n{ended.err}")
        largest = max(path.stat().st_size for path in index.rglob("*") if path.is_file())
        scripts.append(Script(name, first, step, before, after, max(most[0] - at_first, 2 * START), largest, mixed))
        shutil.rmtree(index)

    for size in METADATA:
        small, whole = State(rows_of(30, metadata=size)), State(rows_of(90, metadata=size))
        whole = replace(whole, rows={**whole.rows, "0005.png": replace(whole.rows["0005.png"], seed=777)})
        for way, build in (("a CSV file", _command), ("Python", build_step)):
            photos = folder / f"photos-{size}-{way[-4:]}"
            with_metadata = f"with {size:,} bytes of metadata a row, from {way}"
            add(f"a first build {with_metadata}", [], lambda i, p=photos, b=build, s=whole: b(p, i, s), None, whole)  # type: ignore[misc]
            start = [lambda i, p=photos, b=build, s=small: b(p, i, s)]  # type: ignore[misc]
            add(f"a later build {with_metadata}", start, lambda i, p=photos, b=build, s=whole: b(p, i, s), small, whole)  # type: ignore[misc]
    old = State(rows_of(60, metadata=1300), "old-1").made_by("old-1")
    served = replace(old, serving="new-1", route=PROCRUSTES)
    photos = folder / "photos-old"

    def serve(index: Path) -> Step:
        return Step("serve", {"index": str(index), "route": PROCRUSTES})

    def made(index: Path) -> Step:
        return build_step(photos, index, old)

    add("a replacement", [made], serve, old, served)
    add(
        "a backfill",
        [made, serve],
        lambda i: Step("backfill", {"index": str(i), "part": 20}),
        served,
        served.made_by("new-1"),
        mixed=True,
    )
    _, asked = store_questions(photos, folder / "asked.index", old, 40)
    add("storing questions", [made], lambda i: store_questions(photos, i, old, 40)[0], old, asked)
    return scripts


def _used(place: Path) -> int:
    """Bytes that a small disk holds, or a folder where none could be mounted."""
    if os.path.ismount(place):
        return shutil.disk_usage(place).used
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
