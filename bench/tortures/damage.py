"""Flipped bytes, truncated, emptied, lengthened and removed files, of every kind that an index has.

Afterwards `verify` names the file, or it is one that `verify` says it does not look at and every answer is right. An
answer is right, or what it lacks is counted, or `verify` has named the file. After `cir repair` nothing is named any
more, and every image that is left is right. In some cases, rolling back and building again are tried instead: they work
with right answers or end with one line.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from tortures.cases import CONTROL, Arena, Case, Tally
from tortures.processes import Runner
from tortures.states import State, differs
from tortures.steps import Step, cir
from tortures.worlds import World, everything, of_tokens

OTHERWISE = 0.1  # share of cases in which rolling back is tried too, and of those in which building again is
SEGMENT = "segments/N/gallery.h5"
PIECES = 8  # of a segment's file, each of which is damaged as often as a whole other file

Harm = Callable[[Path, random.Random], str]  # damages a file; returns how, in words


@dataclass(frozen=True)
class _Place:
    """What is damaged.

    Attributes:
        world: the index.
        names: files of one kind.
        piece: which part of the file is meant, of PIECES; None for all of it.
    """

    world: World
    names: list[str]
    piece: int | None = None


def flips(arena: Arena, tally: Tally, count: int) -> None:
    """Flip one bit per case; the kinds of files take turns, and the parts of a segment's file."""
    places = _places(arena, pieces=True)
    for number in range(count):
        place = places[number % len(places)]
        with arena.case(tally, number) as case:
            if case:
                _torture(case, place, partial(flip, piece=place.piece))


def truncations(arena: Arena, tally: Tally, count: int) -> None:
    """Truncate one file per case; the kinds take turns, and the lengths of each are spread evenly."""
    places = _places(arena)
    lengths = -(-count // len(places))
    for number in range(count):
        place, step = places[number % len(places)], number // len(places)
        with arena.case(tally, number) as case:
            if case:
                _torture(case, place, partial(truncate, share=step / lengths))
    tally.counts["lengths of each kind"] = lengths


def harms(arena: Arena, tally: Tally, count: int) -> None:
    """Overwrite, lengthen, empty or remove one file per case; the kinds take turns."""
    places = _places(arena)
    for number in range(count):
        with arena.case(tally, number) as case:
            if case:
                _torture(case, places[number % len(places)], harm)


def _torture(case: Case, place: _Place, damage: Harm) -> None:
    index, world, name = place.world.copy(case.folder / "x.index"), place.world, case.rng.choice(place.names)
    how = damage(index / name, case.rng)
    case.did.append(f"{how} {name}")
    again = Path(shutil.copytree(index, case.folder / "again.index")) if case.rng.random() < OTHERWISE else None
    rolled = Path(shutil.copytree(index, case.folder / "rolled.index")) if case.rng.random() < OTHERWISE else None
    ended = case.run(Step("mend", {"index": str(index)}), codes=(0,))
    if ended.code != 0:
        return
    before, repaired, after = (ended.json[key] for key in ("before", "repair", "after"))
    named = _check_named(case, world, before, name, how)
    _check_repaired(case, world, repaired, after)
    if rolled:
        generation = case.rng.choice(sorted(world.generations))
        case.did.append(f"rolled back to {generation}")
        if case.run(cir("rollback", rolled, "--to", generation)).code == 0:
            _answers(case, rolled, world.generations[generation], "rolled back", named)
        case.did.pop()
    if again:
        case.did.append("built again")
        if case.run(Step(world.rebuild.name, {**world.rebuild.arguments, "index": str(again)})).code == 0:
            sound = case.run(cir("verify", again), codes=(0, 1, 2)).code == 0
            _answers(case, again, world.live, "built again", not sound)


def _check_named(case: Case, world: World, before: Mapping[str, Any], name: str, how: str) -> bool:
    """Expect `verify` to have named a damaged file, or all to be as without the damage; whether it did."""
    said = "\n".join(before["problems"])
    named = _says(said, name)
    if said and not named:
        case.found("unnamed", f"verify finds a problem, but does not name the file: {said[-300:]}")
    if any(CONTROL.search(line) for line in before["problems"]):
        case.found("unclear", f"verify: {said[-300:]!r}")
    case.count("named by verify" if named else "not named by verify")
    right = _right(case, before, world.live, "asked", named)
    if not named and not _says(" ".join(before["unread"]), name):
        if right and before["generations"] == list(world.listed) and how == "removed:":
            case.count("removed without a loss")
        else:
            case.found("unnamed", f"verify neither names the file nor says that it leaves it out; right={right}")
    return named


def _check_repaired(case: Case, world: World, repaired: Any, after: Mapping[str, Any]) -> None:
    """Expect nothing to be damaged after a repair, and what is left to be right."""
    if isinstance(repaired, str):
        case.found("unmended", f"repair refuses: {repaired}")
        return
    if after["problems"] or after["refused"]:
        case.found("unmended", f"after repair: {after['problems'][:2]}; {after['refused']}")
        return
    case.count("repaired" if repaired["problems"] else "nothing to repair")
    case.count("images lost by repairs, and listed", repaired["lost"])
    seen = after["seen"]
    older: list[Sequence[State]] = [
        states for number, states in world.generations.items() if number <= repaired["base"]
    ]
    for states in (world.live, *older):
        some = _only(states, seen)
        some += [replace(state, questions=()) for state in some]  # damaged ones are put aside
        some += [replace(state, route="") for state in some]  # a damaged mapping too: its images are not searched
        if some and not differs(seen, *some, mixed=True):
            break
    else:
        case.found("wrong", f"after repair: {differs(seen, *_only(world.live, seen), mixed=True) or 'other images'}")
    if len(seen["metadata"]) != repaired["images"]:
        case.found("lost", f"repair says that {repaired['images']} are left, {len(seen['metadata'])} are")


def _answers(case: Case, index: Path, states: Sequence[State], when: str, named: bool) -> None:
    """Ask; a wrong answer counts as silent where verify has named nothing."""
    ended = case.run(Step("ask", {"index": str(index)}))
    _right(case, {"seen": ended.json if ended.code == 0 else None}, states, when, named)


def _right(case: Case, said: Mapping[str, Any], states: Sequence[State], when: str, named: bool) -> bool:
    """Whether an answer was right and whole; a wrong one counts as silent where verify has named nothing."""
    seen = said["seen"]
    if seen is None:
        case.count("refused")
        return False
    if seen["left_out"] and len(seen["metadata"]) + seen["left_out"] == len(states[0].rows):
        wrong = differs(seen, *_only(states, seen), mixed=True)
        case.count("answers right, with images left out and counted", not wrong)
    else:
        wrong = differs(seen, *states, mixed=True)
        case.count("answers right", not wrong)
    if wrong:
        case.count("answers wrong, named by verify", named)
        if not named:
            case.found("wrong", f"{when}: {wrong}")
    return not wrong and not seen["left_out"]


def _only(states: Sequence[State], seen: Mapping[str, Any]) -> list[State]:
    """States without the images that were not seen; those that have the others."""
    ids = seen["metadata"].keys()
    return [replace(s, rows={key: s.rows[key] for key in s.rows if key in ids}) for s in states if ids <= s.rows.keys()]


def flip(path: Path, rng: random.Random, piece: int | None = None) -> str:
    """Flip a bit of a file, or of one of its PIECES."""
    data = bytearray(path.read_bytes())
    if not data:
        return harm(path, rng)
    start, end = (0, len(data)) if piece is None else (piece * len(data) // PIECES, (piece + 1) * len(data) // PIECES)
    place = rng.randrange(start, max(start + 1, end))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"one bit flipped at byte {place} of {len(data)} of"


def truncate(path: Path, rng: random.Random, share: float) -> str:
    """Truncate a file to about that share of its length: to nothing, or to one byte less, at the ends."""
    size = path.stat().st_size
    if not size:
        return harm(path, rng)
    length = min(size - 1, int(share * size) + (rng.randrange(max(1, size // 50)) if share else 0))
    with path.open("r+b") as file:
        file.truncate(length)
    return f"truncated to {length} of {size} bytes:"


def harm(path: Path, rng: random.Random) -> str:
    """Overwrite, lengthen, empty or remove a file."""
    data = bytearray(path.read_bytes())
    how = rng.choice(["zero", "lengthen", "empty", "remove"] if data else ["lengthen", "remove"])
    if how == "zero":
        place = rng.randrange(len(data))
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


def _places(arena: Arena, *, pieces: bool = False) -> list[_Place]:
    """Every kind of file of an index with everything in it, and of one of tokens those that the other lacks."""
    places: list[_Place] = []
    known: set[str] = set()
    for world in _worlds(arena.scratch):
        kinds = _kinds(world.index)
        for pattern in sorted(kinds.keys() - known):
            whole = pieces and pattern == SEGMENT
            places += [_Place(world, kinds[pattern], piece) for piece in (range(PIECES) if whole else [None])]
        known |= kinds.keys() - {SEGMENT}
    return places


@cache
def _worlds(scratch: Path) -> tuple[World, World]:
    """Made once for all kinds of damage."""
    runner, folder = Runner(scratch), scratch / "worlds"
    return everything(runner, folder), of_tokens(runner, folder)


def _kinds(index: Path) -> dict[str, list[str]]:
    """The files of an index, those alike but for numbers and digests together; the lock holds nothing."""
    kinds = defaultdict(list)
    for path in sorted(index.rglob("*")):
        if path.is_file() and path.name != "LOCK":
            name = str(path.relative_to(index))
            kinds[re.sub(r"[0-9a-f]{6,}", "N", name)].append(name)
    return dict(kinds)


def _says(text: str, name: str) -> bool:
    """Whether a text names a file of an index, by its path, its name or the folder it is in."""
    parts = Path(name).parts
    return name in text or any(
        len(part) > 3 and f"{part}" in text for part in (parts[-1], *(f"{p}/" for p in parts[:-1]))
    )
