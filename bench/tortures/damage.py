"""Flipped bytes, truncated, emptied, lengthened and removed files, of every kind that an index has.

Afterwards `verify` names the file, or it is one that `verify` says it does not look at and every answer is right.
Opening, searching, rolling back and building again work with right answers or end with one line.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tortures.cases import CONTROL, Arena, Case, Tally
from tortures.processes import Ended, Runner
from tortures.states import State, differs
from tortures.steps import Step, cir
from tortures.worlds import World, everything


def torture(arena: Arena, tally: Tally, flips: int) -> None:
    """Damage one file per case; the kinds of files take turns."""
    runner = Runner(arena.scratch)
    world = everything(runner, arena.scratch / "damage")
    kinds = _kinds(world.index)
    unread = _left_out(runner.run(cir("verify", "--help")).out)
    listed = runner.run(cir("info", world.index, "--json")).json["generations"]
    for number in range(flips):
        with arena.case(tally, number) as case:
            if case:
                name = case.rng.choice(kinds[sorted(kinds)[number % len(kinds)]])
                _torture(case, world, name, unread, listed)
    shutil.rmtree(arena.scratch / "damage")


def _torture(case: Case, world: World, name: str, unread: str, listed: object) -> None:
    index = world.copy(case.folder / "x.index")
    how = harm(index / name, case.rng)
    case.did.append(f"{how} {name}")
    verified = case.run(cir("verify", index), codes=(0, 1, 2))
    said = {0: "", 1: verified.out, 2: verified.err}.get(verified.code or 0, "")
    named = _says(said, name)
    unread += _left_out(verified.err)
    if said and not named:
        case.found("unnamed", f"verify finds a problem, but does not name the file: {said[-300:]}")
    if CONTROL.search(said):
        case.found("unclear", f"verify: {said[-300:]!r}")
    case.count("named by verify" if named else "not named by verify")
    right = _answers(case, index, world.live, "asked", named, mixed=True)
    info = case.run(cir("info", index, "--json"))
    if not named and not _says(unread, name):
        same = right and info.code == 0 and info.json["generations"] == listed
        if same and how == "removed:":
            case.count("removed without a loss")
        else:
            what = "every answer is right" if same else f"asked: right={right}; info: {info}"
            case.found("unnamed", f"verify neither names the file nor says that it leaves it out; {what}")
    if case.rng.random() < 0.5:
        generation = case.rng.choice(sorted(world.generations))
        copy = Path(shutil.copytree(index, case.folder / "rolled.index"))
        case.did.append(f"rolled back to {generation}")
        if case.run(cir("rollback", copy, "--to", generation)).code == 0:
            _answers(case, copy, world.generations[generation], "rolled back", named)
        case.did.pop()
    case.did.append("built again")
    if case.run(Step(world.rebuild.name, {**world.rebuild.arguments, "index": str(index)})).code == 0:
        again = case.run(cir("verify", index), codes=(0, 1, 2))
        _answers(case, index, world.live, "built again", again.code in (1, 2), mixed=True)


def _answers(case: Case, index: Path, states: Sequence[State], when: str, named: bool, *, mixed: bool = False) -> bool:
    """Ask; a wrong answer counts as silent where verify has named nothing. Whether the answer was right."""
    ended: Ended = case.run(Step("ask", {"index": str(index)}))
    if ended.code != 0:
        case.count("refused")
        return False
    wrong = differs(ended.json, *states, mixed=mixed)
    if wrong and not named:
        case.found("wrong", f"{when}: {wrong}")
    case.count("answers wrong, named by verify" if wrong else "answers right")
    return not wrong


def harm(path: Path, rng: random.Random) -> str:
    """Damage a file; returns how, in words."""
    data = bytearray(path.read_bytes())
    how = rng.choice(["flip", "flip", "flip", "flip", "truncate", "zero", "lengthen", "empty", "remove"])
    if not data:
        how = rng.choice(["lengthen", "remove"])
    place = rng.randrange(max(1, len(data)))
    if how == "flip":
        data[place] ^= 1 << rng.randrange(8)
        words = f"one bit flipped at byte {place} of {len(data)} of"
    elif how == "truncate":
        del data[place:]
        words = f"truncated to {place} bytes:"
    elif how == "zero":
        end = min(len(data), place + rng.choice([1, 16, 512, 4096]))
        if not any(data[place:end]):
            data[place] = 255
        else:
            data[place:end] = bytes(end - place)
        words = f"zeros at bytes {place} to {end} of"
    elif how == "lengthen":
        data += rng.randbytes(rng.choice([1, 100, 5000]))
        words = "bytes after the end of"
    elif how == "empty":
        data.clear()
        words = "emptied:"
    else:
        path.unlink()
        return "removed:"
    path.write_bytes(data)
    return words


def _kinds(index: Path) -> dict[str, list[str]]:
    """The files of an index, those alike but for numbers and digests together; the lock holds nothing."""
    kinds = defaultdict(list)
    for path in sorted(index.rglob("*")):
        if path.is_file() and path.name != "LOCK":
            name = str(path.relative_to(index))
            kinds[re.sub(r"[0-9a-f]{6,}", "N", name)].append(name)
    return dict(kinds)


def _left_out(text: str) -> str:
    """The sentences in which `verify` says what it does not look at."""
    sentences = [part for line in text.splitlines() for part in re.split(r"(?<=[.;!])\s", line)]
    return " ".join(sentence for sentence in sentences if re.search(r"\b(not|no|out|except|ignore\w*)\b", sentence))


def _says(text: str, name: str) -> bool:
    """Whether a text names a file of an index, by its path, its name or the folder it is in."""
    parts = Path(name).parts
    return name in text or any(
        len(part) > 3 and f"{part}" in text for part in (parts[-1], *(f"{p}/" for p in parts[:-1]))
    )
