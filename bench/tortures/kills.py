"""Real `kill -9` at random moments of every command that writes.

A third of the kills comes after a random time, a third at a random operation of Python on a file of the index, and a
third at a write, sync or rename of whatever library, so that the short moments between two renames are hit as often as
the long ones. A case kills the same command one to three times, and
then lets it finish.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tortures.cases import Arena, Case, Tally
from tortures.commands import Command, every_command, must
from tortures.processes import Bounds, Runner
from tortures.steps import Step, cir
from tortures.system_calls import Refusal, Watch, supported

Listed = dict[int, int]  # generation -> images, as `cir info` lists them


@dataclass(frozen=True)
class Measured:
    """A command to kill, and what an undisturbed run of it took.

    Attributes:
        command: the command.
        index: what it starts from; no such folder for a first build.
        published: generations listed before.
        bytes: size of the index after it.
        operations, calls, seconds: of the run; what Python does with files, and writes, syncs and renames.
    """

    command: Command
    index: Path
    published: Listed
    bytes: int
    operations: int
    calls: int
    seconds: float


def torture(arena: Arena, tally: Tally, kills: int) -> None:
    """Kill until that many processes were killed."""
    folder, number = arena.scratch / "kills", 0
    runner = Runner(arena.scratch)
    # Each is measured when a case first needs it.
    measured = [cache(partial(_measured, runner, folder, command)) for command in every_command(folder)]
    while tally.counts["kills"] < kills and (arena.only is None or number <= arena.only):
        with arena.case(tally, number) as case:
            if case:
                _torture(case, measured[number % len(measured)](), kills)
        number += 1
    shutil.rmtree(folder)


def _torture(case: Case, measured: Measured, kills: int) -> None:
    command, index = measured.command, case.folder / "x.index"
    if measured.index.exists():
        shutil.copytree(measured.index, index)
    step = command.step(index)
    published = measured.published
    case.did.append(command.name)
    for _ in range(case.rng.randint(1, 3)):
        if case.tally.counts["kills"] >= kills:
            break
        bounds, moment = _moment(case, measured, index)
        ended = case.runner.run(step, bounds)
        if ended.signal != "SIGKILL" or ended.hung:
            case.judge(step, ended, codes=(0,))
            case.count("ended before the kill")
            case.did.append("run to its end")
            published = _info(case, index)[0]
            break
        case.count("kills")
        case.count(f"kills of {command.name}")
        case.did.append(f"killed {moment}")
        published = _check(case, command, index, published)
    ended = case.run(step, codes=(0,))
    if ended.code != 0:
        case.found("lost", f"the same command does not finish: {ended}")
        return
    case.did.append("run again")
    made = {line["generation"] for line in _lines(ended.out)}
    case.ask(index, command.after, after="run again")
    case.verify(index, after="run again")
    case.no_leftovers(index.parent, after="run again")
    listed, live = _info(case, index)
    case.count("generations pruned", len(published.keys() - listed.keys()))
    ghosts = listed.keys() - published.keys() - made - {live}
    if ghosts:
        case.found("leftover", f"info lists generations that were never published: {sorted(ghosts)}")
    _refuses(case, index, [number for number in range(1, live + 2) if number not in {*published, *made, live}])
    if (index / "work").exists():
        case.found("leftover", "work/ is still there")
    size = _bytes(index)
    if not command.mixed and size > 1.1 * measured.bytes + 16384:
        case.found("leftover", f"{size:,} bytes instead of {measured.bytes:,}: segments that no generation names")


def _check(case: Case, command: Command, index: Path, published: Listed) -> Listed:
    """What must hold right after a kill; returns the generations that are published now."""
    probe = case.folder / "probe.index"
    if command.before is None and case.runner.run(Step("ask", {"index": str(index)})).code == 2:
        case.run(cir("info", index), codes=(2,))
        return published
    if command.damaged:
        return published
    case.ask(index, *command.states, mixed=command.mixed, after="after the kill")
    case.verify(index, after="after the kill")
    listed, live = _info(case, index)
    # A writer may have pruned generations, but none may come that was not published; a backfill publishes several.
    if not command.mixed and listed.keys() - published.keys() - {live}:
        case.found("leftover", f"info lists {sorted(listed)}, published were {sorted(published)} and {live}")
    shutil.copytree(index, probe)
    _refuses(case, probe, [live + 1, live + 2])
    earlier = sorted(listed.keys() - {live})
    if earlier:
        case.run(cir("rollback", probe, "--to", case.rng.choice(earlier)), codes=(0,))
        case.verify(probe, after="after the kill, rolled back")
    shutil.rmtree(probe)
    return listed


def _refuses(case: Case, index: Path, numbers: list[int]) -> None:
    """Expect that one cannot go back to generations that were never published."""
    for number in numbers:
        if case.run(cir("rollback", index, "--to", number)).code == 0:
            case.found("leftover", f"rollback restores generation {number}, which was never published")
            return


def _moment(case: Case, measured: Measured, index: Path) -> tuple[Bounds, str]:
    """When to kill, and in words; most commands do most in their last third."""
    late = case.rng.random() < 0.5
    share = case.rng.uniform(0.6, 1.0) if late else case.rng.random()
    how = case.rng.choice(("time", "operation", "call" if measured.calls else "operation"))
    if how == "call":
        call = max(1, round(share * measured.calls))
        watch = Watch(case.folder, Refusal(call, kill=True))
        return Bounds(watch=watch), f"at call {call} of about {measured.calls}"
    if how == "time":
        seconds = share * measured.seconds
        return Bounds(kill_after=seconds, watched=index), f"after {1000 * seconds:.0f} ms"
    operation = max(1, round(share * measured.operations))
    return Bounds(kill_at=operation, watched=index), f"at operation {operation} of about {measured.operations}"


def _info(case: Case, index: Path) -> tuple[Listed, int]:
    """The generations that `cir info` lists, and the live one."""
    ended = case.run(cir("info", index, "--json"), codes=(0,))
    if ended.code != 0:
        return {}, 0
    values = ended.json
    return {entry["generation"]: entry["images"] for entry in values["generations"]}, values["generation"]


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"generation"')]


def _bytes(index: Path) -> int:
    return sum(path.stat().st_size for path in index.rglob("*") if path.is_file())


def _measured(runner: Runner, folder: Path, command: Command) -> Measured:
    """A command, measured on a run without a kill."""
    index, undisturbed = folder / f"{command.name}.index", folder / f"{command.name}-undisturbed.index"
    command.prepare(runner, index)
    published: Listed = {}
    if command.damaged:
        shutil.copytree(index, undisturbed)
    elif index.exists():
        info = must(runner, cir("info", index, "--json")).json
        published = {entry["generation"]: entry["images"] for entry in info["generations"]}
        shutil.copytree(index, undisturbed)
    watch = Watch(folder) if supported() else None
    ended = runner.run(command.step(undisturbed), Bounds(watched=undisturbed, watch=watch))
    operations, calls = runner.operations, len(watch.seen) if watch else 0
    if ended.code != 0:
        raise RuntimeError(f"{command.name}: {ended}\n{ended.err}")
    seen = must(runner, Step("ask", {"index": str(undisturbed)})).json
    if command.damaged:  # no list can be asked for before it
        published = dict.fromkeys(range(1, seen["generation"]), 0)
    return Measured(command, index, published, _bytes(undisturbed), operations, calls, ended.wall)
