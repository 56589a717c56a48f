"""Real `kill -9` at random moments of every command that writes.

Half of the kills come after a random time; the others at a random operation on a file of the index, so that the short
moments between two renames are hit as often as the long ones. A case kills the same command one to three times, and
then lets it finish.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tortures.cases import Arena, Case, Tally
from tortures.processes import Bounds, Runner
from tortures.states import State
from tortures.steps import Step, cir
from tortures.worlds import PROCRUSTES, RIDGE, build_step, must, rows_of, store_questions

MakeStep = Callable[[Path], Step]
Listed = dict[int, int]  # generation -> images, as `cir info` lists them


@dataclass(frozen=True)
class Script:
    """A command to kill.

    Attributes:
        index: what it starts from; no such folder for a first build.
        step: the command, on the folder `index`.
        before, after: what the index answers without it and with it.
        mixed: whether images may be as before or as after, one by one.
        published: generations listed before.
        bytes: size of the index after an undisturbed run.
        operations, seconds: of an undisturbed run.
    """

    index: Path
    step: MakeStep
    before: State | None
    after: State
    mixed: bool
    published: Listed
    bytes: int
    operations: int
    seconds: float


def torture(arena: Arena, tally: Tally, kills: int) -> None:
    """Kill until that many processes were killed."""
    scripts = _scripts(Runner(arena.scratch), arena.scratch / "kills")
    number = 0
    while tally.counts["kills"] < kills and (arena.only is None or number <= arena.only):
        with arena.case(tally, number) as case:
            if case:
                name = sorted(scripts)[number % len(scripts)]
                _torture(case, name, scripts[name], kills)
        number += 1
    shutil.rmtree(arena.scratch / "kills")


def _torture(case: Case, name: str, script: Script, kills: int) -> None:
    index = case.folder / "x.index"
    if script.index.exists():
        shutil.copytree(script.index, index)
    step = script.step(index)
    published = script.published
    case.did.append(name)
    for _ in range(case.rng.randint(1, 3)):
        if case.tally.counts["kills"] >= kills:
            break
        bounds, moment = _moment(case, script, index)
        ended = case.runner.run(step, bounds)
        if ended.signal != "SIGKILL" or ended.hung:
            case.judge(step, ended, codes=(0,))
            case.count("ended before the kill")
            case.did.append("run to its end")
            published = _info(case, index)[0]
            break
        case.count("kills")
        case.count(f"kills of {name}")
        case.did.append(f"killed {moment}")
        published = _check(case, script, index, published)
    ended = case.run(step, codes=(0,))
    if ended.code != 0:
        case.found("lost", f"the same command does not finish: {ended}")
        return
    case.did.append("run again")
    made = {line["generation"] for line in _lines(ended.out)}
    case.ask(index, script.after, after="run again")
    case.verify(index, after="run again")
    case.no_leftovers(index, after="run again")
    listed, live = _info(case, index)
    case.count("generations pruned", len(published.keys() - listed.keys()))
    ghosts = listed.keys() - published.keys() - made - {live}
    if ghosts:
        case.found("leftover", f"info lists generations that were never published: {sorted(ghosts)}")
    _refuses(case, index, [number for number in range(1, live + 2) if number not in {*published, *made, live}])
    if (index / "work").exists():
        case.found("leftover", "work/ is still there")
    size = _bytes(index)
    if not script.mixed and size > 1.1 * script.bytes + 16384:
        case.found("leftover", f"{size:,} bytes instead of {script.bytes:,}: segments that no generation names")


def _check(case: Case, script: Script, index: Path, published: Listed) -> Listed:
    """What must hold right after a kill; returns the generations that are published now."""
    probe = case.folder / "probe.index"
    if script.before is None and case.runner.run(Step("ask", {"index": str(index)})).code == 2:
        case.run(cir("info", index), codes=(2,))
        return published
    states = [state for state in (script.before, script.after) if state is not None]
    case.ask(index, *states, mixed=script.mixed, after="after the kill")
    case.verify(index, after="after the kill")
    listed, live = _info(case, index)
    # A writer may have pruned generations, but none may come that was not published; a backfill publishes several.
    if not script.mixed and listed.keys() - published.keys() - {live}:
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


def _moment(case: Case, script: Script, index: Path) -> tuple[Bounds, str]:
    """When to kill, and in words; most commands do most in their last third."""
    late = case.rng.random() < 0.5
    share = case.rng.uniform(0.6, 1.0) if late else case.rng.random()
    if case.rng.random() < 0.5:
        seconds = share * script.seconds
        return Bounds(kill_after=seconds, watched=index), f"after {1000 * seconds:.0f} ms"
    operation = max(1, round(share * script.operations))
    return Bounds(kill_at=operation, watched=index), f"at operation {operation} of about {script.operations}"


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


def _scripts(runner: Runner, folder: Path) -> dict[str, Script]:
    """Every command that writes, measured on a run without a kill."""
    scripts: dict[str, Script] = {}

    def add(
        name: str, start: list[MakeStep], step: MakeStep, before: State | None, after: State, mixed: bool = False
    ) -> None:
        index, undisturbed = folder / f"{name}.index", folder / f"{name}-undisturbed.index"
        for one in start:
            must(runner, one(index))
        published: Listed = {}
        if index.exists():
            info = must(runner, cir("info", index, "--json")).json
            published = {entry["generation"]: entry["images"] for entry in info["generations"]}
            shutil.copytree(index, undisturbed)
        ended = runner.run(step(undisturbed), Bounds(watched=undisturbed))
        operations = runner.operations
        if ended.code != 0:
            raise RuntimeError(f"{name}: {ended}\n{ended.err}")
        must(runner, Step("ask", {"index": str(undisturbed)}))
        size = _bytes(undisturbed)
        scripts[name] = Script(index, step, before, after, mixed, published, size, operations, ended.wall)

    def builds(name: str, state: State, **options: Any) -> MakeStep:
        return lambda index: build_step(folder / f"{name}-photos", index, state, **options)

    small, whole = State(rows_of(24, metadata=50)), State(rows_of(60, metadata=50))
    whole = replace(whole, rows={**whole.rows, "0005.png": replace(whole.rows["0005.png"], seed=777)})
    fewer = State({name: row for name, row in whole.rows.items() if int(name[:4]) % 3})
    old = State(rows_of(40), "old-1").made_by("old-1")
    add("first build", [], builds("first", whole), None, whole)
    add("append", [builds("append", small)], builds("append", whole, ann=True), small, whole)
    add("prune", [builds("prune", whole)], builds("prune", fewer, prune=True), whole, fewer)
    start = [builds("forget", state, prune=True, keep=1) for state in (small, whole, fewer)]
    add("append and forget", start, builds("forget", whole, prune=True, keep=1), fewer, whole)
    for route in (PROCRUSTES, RIDGE):
        served = replace(old, serving="new-1", route=route)
        add(f"replace by {route}", [builds("old", old)], _serve(route), old, served)
    before, after = replace(old, serving="new-1", route=PROCRUSTES), replace(old.made_by("new-1"), serving="new-1")
    start = [builds("backfill", old), _serve(PROCRUSTES)]
    add("backfill", start, lambda i: Step("backfill", {"index": str(i), "part": 8}), before, after, mixed=True)
    start = [builds("rollback", small), builds("rollback", whole)]
    add("rollback", start, lambda i: cir("rollback", i, "--to", 1), whole, small)
    photos = folder / "asked-photos"
    _, asked = store_questions(photos, folder / "questions.index", whole, 20)
    start = [lambda i: build_step(photos, i, whole)]
    add("questions", start, lambda i: store_questions(photos, i, whole, 20)[0], whole, asked)
    return scripts


def _serve(route: str) -> MakeStep:
    return lambda index: Step("serve", {"index": str(index), "route": route})
