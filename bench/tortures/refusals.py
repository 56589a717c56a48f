"""Every write, sync and rename of every command refused, one at a time.

An undisturbed run counts the calls of a command; then one of them fails: with ENOSPC, and all writes after it too, or
with EIO, and no other. The command ends with one line, or does without; what was published answers as before or after;
without the fault the same command finishes.
"""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path

from tortures.cases import Arena, Case, Tally
from tortures.commands import Command, every_command
from tortures.processes import Bounds, Runner
from tortures.states import differs
from tortures.steps import Step
from tortures.system_calls import RENAMES, SYNCS, Refusal, Watch, supported

SIZE = 30  # images; more of them only repeat the same calls
ERRORS = ((errno.ENOSPC, True), (errno.EIO, False))


def torture(arena: Arena, tally: Tally, count: int) -> None:
    """Refuse that many calls, evenly spread over all of all commands; each of them if the count is larger."""
    if not supported():
        print("  system calls cannot be watched here (seccomp of Linux 5.5): none is refused")
        tally.counts["not supported here"] += 1
        return
    folder, runner = arena.scratch / "refusals", Runner(arena.scratch)
    planned = []
    commands = every_command(folder, SIZE)
    if count < len(commands):
        commands = random.Random(arena.seed).sample(commands, count)
    for command in commands:
        start, calls = _measured(runner, folder, command)
        tally.counts[f"calls of {command.name}"] = len(calls)
        planned += [
            (command, start, Refusal(at, error, lasting)) for at, _ in enumerate(calls, 1) for error, lasting in ERRORS
        ]
    step = max(1.0, len(planned) / count)
    for number in sorted({int(step * place) for place in range(count)} & set(range(len(planned)))):
        with arena.case(tally, number) as case:
            if case:
                _torture(case, *planned[number])
    shutil.rmtree(folder)


def _torture(case: Case, command: Command, start: Path, refusal: Refusal) -> None:
    index = case.folder / "x.index"
    if start.exists():
        shutil.copytree(start, index)
    step, watch = command.step(index), Watch(case.folder, refusal)
    case.did.append(f"{command.name}, call {refusal.at} refused with {errno.errorcode[refusal.error]}")
    ended = case.runner.run(step, Bounds(watch=watch))
    if len(watch.seen) < refusal.at:
        case.count("ended before the call")  # how many there are depends on threads
    else:
        name, path = watch.seen[refusal.at - 1]
        kind = "syncs" if name in SYNCS else "renames" if name in RENAMES else "writes"
        case.count(f"{kind} refused")
        case.did[-1] += f", {name} of {path}"
    case.judge(step, ended)
    case.count("refused, and said" if ended.code else "done without it")
    _inspect(case, command, index, finished=ended.code == 0, stopped=ended.code == 2)
    case.did.append("run again")
    if case.run(step, codes=(0,)).code == 0:
        _inspect(case, command, index, finished=True, stopped=True)
    else:
        case.found("lost", "the same command does not finish")


def _inspect(case: Case, command: Command, index: Path, *, finished: bool, stopped: bool) -> None:
    """What must hold once a command has ended."""
    if stopped:
        case.no_leftovers(index.parent, after="at its end")
    if not finished and command.before is None and not (index / "CURRENT").exists():
        return
    found = case.run(Step("inspect", {"index": str(index)}), codes=(0,))
    if found.code != 0:
        return
    problems, refused, seen = (found.json[key] for key in ("problems", "refused", "seen"))
    if command.damaged and not finished:
        case.count("still damaged" if problems else "repaired")
        return
    if problems or refused:
        case.found("lost", f"verify: {problems[:2]}; {refused}")
        return
    states = (command.after,) if finished else command.states
    if wrong := differs(seen, *states, mixed=command.mixed and not finished):
        case.found("wrong", wrong)


def _measured(runner: Runner, folder: Path, command: Command) -> tuple[Path, list[tuple[str, str]]]:
    """What a command starts from, and its calls."""
    start, place = folder / f"{command.name}.index", folder / "undisturbed"
    command.prepare(runner, start)
    index, watch = place / "x.index", Watch(place)
    place.mkdir()
    if start.exists():
        shutil.copytree(start, index)
    ended = runner.run(command.step(index), Bounds(watch=watch))
    if ended.code != 0:
        raise RuntimeError(f"{command.name}: {ended}\n{ended.err}")
    shutil.rmtree(place)
    return start, watch.seen
