"""The commands that write to an index, each with what it starts from and what the index answers before and after it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tortures.processes import Ended, Runner
from tortures.states import Row, State, stored_vectors, write_photos
from tortures.steps import ANN_MIN_ROWS, Step, cir

RIDGE, PROCRUSTES = "ridge", "procrustes"
MakeStep = Callable[[Path], Step]  # called with the folder of the index


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: in words.
        start: what is run before it, to have something to start from.
        step: the command.
        before, after: what the index answers without it and with it; no index before a first build.
        mixed: whether images may be as before or as after, one by one: a backfill.
        damaged: whether it starts from a damaged index: nothing is expected of that before the command has finished.
    """

    name: str
    start: tuple[MakeStep, ...]
    step: MakeStep
    before: State | None
    after: State
    mixed: bool = False
    damaged: bool = False

    @property
    def states(self) -> tuple[State, ...]:
        """What an index may answer when the command was stopped."""
        return (self.after,) if self.before is None else (self.before, self.after)

    def prepare(self, runner: Runner, index: Path) -> None:
        """Make the index that it starts from, if any."""
        for step in self.start:
            must(runner, step(index))


def must(runner: Runner, step: Step) -> Ended:
    """Run a step that must go through. Raises RuntimeError."""
    ended = runner.run(step)
    if ended.code != 0:
        raise RuntimeError(f"{step.name}: {ended}\n{ended.err}")
    return ended


def rows_of(count: int, start: int = 0, *, metadata: int = 0) -> dict[str, Row]:
    """Rows of different pictures, but for every seventh, which equals another; with `metadata` bytes each."""
    rows = {}
    for number in range(start, start + count):
        seed = number - 3 if number % 7 == 6 else number
        rows[f"{number:04d}.png"] = Row(seed, metadata=_columns(number, metadata))
    return rows


def table_of(state: State) -> dict[str, dict[str, str]]:
    """Metadata as the Python API takes it."""
    return {name: dict(row.metadata) for name, row in state.rows.items() if row.metadata}


def builds(photos: Path, state: State, *, ann: bool = False, **options: Any) -> MakeStep:
    """A build that leads to a state, through the Python API; it writes the photos first."""

    def step(index: Path) -> Step:
        write_photos(photos, state.rows)
        places = {"photos": str(photos), "index": str(index), "model": state.serving}
        smallest = ANN_MIN_ROWS if ann else 10**9
        return Step("build", {**places, "metadata": table_of(state) or None, "ann_min_rows": smallest, **options})

    return step


def builds_from_csv(photos: Path, state: State) -> MakeStep:
    """`cir build-index --metadata` that leads to a state; it writes the photos and the table first."""

    def step(index: Path) -> Step:
        write_photos(photos, state.rows)
        table = photos.with_name(f"{photos.name}.csv")
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", *sorted({name for row in table_of(state).values() for name in row})])
            writer.writeheader()
            writer.writerows({"id": name, **columns} for name, columns in table_of(state).items())
        return cir("build-index", photos, "-o", index, "--metadata", table)

    return step


def imports(state: State) -> MakeStep:
    """An import of vectors that leads to a state of the old model."""
    vectors = {name: stored_vectors(row.seed, row.model)[0].tolist() for name, row in state.rows.items()}
    return lambda index: Step("add_vectors", {"index": str(index), "rows": vectors, "metadata": table_of(state)})


def serves(route: str) -> MakeStep:
    """The new model takes over."""
    return lambda index: Step("serve", {"index": str(index), "route": route})


def backfills(part: int) -> MakeStep:
    """A backfill in parts."""
    return lambda index: Step("backfill", {"index": str(index), "part": part})


def asks(file: Path, state: State, count: int) -> tuple[MakeStep, State]:
    """`cir questions` with questions about the images of a state, and the state after it; writes the file of them."""
    names = sorted(state.rows)
    asked = tuple((f"q{n}", names[n], f"is {n}", [names[-1 - n]]) for n in range(count))
    lines = [dict(zip(("id", "reference", "caption", "targets"), question, strict=True)) for question in asked]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lambda index: cir("questions", index, "--from", file), replace(state, questions=asked)


def every_command(folder: Path, size: int = 60) -> list[Command]:
    """All commands, with indexes of about that many images; photos and files are written below the folder."""
    small, whole = State(rows_of(size * 2 // 5, metadata=50)), changed(State(rows_of(size, metadata=50)))
    fewer = State({name: row for name, row in whole.rows.items() if int(name[:4]) % 3})
    old = State(rows_of(size * 2 // 3), "old-1").made_by("old-1")
    photos = folder / "photos"
    made, stays = builds(folder / "old-photos", old), builds(folder / "photos-of-questions", whole)
    forget = [builds(photos, state, prune=True, keep=1) for state in (small, whole, fewer)]
    ask, asked = asks(folder / "questions.jsonl", whole, 20)
    return [
        Command("first build", (), builds(photos, whole), None, whole),
        Command("append", (builds(photos, small),), builds(photos, whole, ann=True), small, whole),
        Command("prune", (builds(photos, whole),), builds(photos, fewer, prune=True), whole, fewer),
        Command("append and forget", tuple(forget), builds(photos, whole, prune=True, keep=1), fewer, whole),
        Command("replace by procrustes", (made,), serves(PROCRUSTES), old, _served(old, PROCRUSTES)),
        Command("replace by ridge", (made,), serves(RIDGE), old, _served(old, RIDGE)),
        _backfill(made, old, 8),
        Command(
            "rollback",
            (builds(photos, small), builds(photos, whole)),
            lambda index: cir("rollback", index, "--to", 1),
            whole,
            small,
        ),
        Command("questions", (stays,), ask, whole, asked),
        _tokens(folder, size),
        *_imports(small, whole),
        *_life(folder, photos, (small, whole, fewer)),
    ]


def _tokens(folder: Path, size: int) -> Command:
    """Images of which only tokens are stored, enough for compact codes."""
    small, whole = (State(rows_of(count), "tokens-1").made_by("tokens-1") for count in (size * 2 // 5, size))
    photos = folder / "photos-of-tokens"
    return Command("append of tokens", (builds(photos, small),), builds(photos, whole, ann=True), small, whole)


def _imports(*states: State) -> list[Command]:
    """Vectors without photos."""
    small, whole = (
        State({name: replace(row, model="old-1", imported=True) for name, row in state.rows.items()}, "old-1")
        for state in states
    )
    return [
        Command("first import", (), imports(whole), None, whole),
        Command("import", (imports(small),), imports(whole), small, whole),
    ]


def _life(folder: Path, photos: Path, states: tuple[State, State, State]) -> list[Command]:
    """The commands that move rows about and encode nothing."""
    small, whole, fewer = states
    made = builds(photos, whole)
    gone = sorted(whole.rows.keys() - fewer.rows.keys())
    some, others = _without(whole, gone), _without(whole, sorted(fewer.rows))
    parts = [folder / "merged" / name for name in ("a.index", "b.index")]
    built = [
        builds(folder / f"photos-of-{part.stem}", state) for part, state in zip(parts, (some, others), strict=True)
    ]
    kept = {name: row for name, row in small.rows.items() if whole.rows[name] == row}  # with the same content
    return [
        Command("remove", (made,), lambda index: Step("remove", {"index": str(index), "ids": gone}), whole, fewer),
        Command(
            "compact",
            (made, lambda index: Step("remove", {"index": str(index), "ids": gone})),
            lambda index: Step("compact", {"index": str(index), "keep": 0}),
            fewer,
            fewer,
        ),
        Command(
            "merge",
            tuple(lambda _, part=part, build=build: build(part) for part, build in zip(parts, built, strict=True)),
            lambda index: Step("merge", {"indexes": list(map(str, parts)), "index": str(index)}),
            None,
            whole,
        ),
        Command(
            "repair",
            (builds(photos, small), made, lambda index: Step("spoil", {"index": str(index)})),
            lambda index: cir("repair", index),
            State({}),
            replace(small, rows=kept),
            damaged=True,
        ),
    ]


def _without(state: State, names: Sequence[str]) -> State:
    return replace(state, rows={name: row for name, row in state.rows.items() if name not in set(names)})


def commands_for_disks(folder: Path, metadata: int) -> list[Command]:
    """The commands that need room, with metadata of that many bytes a row."""
    small, whole = State(rows_of(30, metadata=metadata)), changed(State(rows_of(90, metadata=metadata)))
    old = State(rows_of(60, metadata=metadata), "old-1").made_by("old-1")
    photos = folder / f"photos-{metadata}"
    made = builds(folder / f"old-photos-{metadata}", old)
    ask, asked = asks(folder / f"questions-{metadata}.jsonl", old, 40)
    first = [Command(f"a first build from {way}", (), build(photos, whole), None, whole) for way, build in _WAYS]
    later = [
        Command(f"a later build from {way}", (build(photos, small),), build(photos, whole), small, whole)
        for way, build in _WAYS
    ]
    others = [
        Command("a replacement", (made,), serves(RIDGE), old, _served(old, RIDGE)),
        _backfill(made, old, 20),
        Command("questions", (made,), ask, old, asked),
    ]
    return [*first, *later, *others]


_WAYS: tuple[tuple[str, Callable[[Path, State], MakeStep]], ...] = (("a CSV file", builds_from_csv), ("Python", builds))


def changed(state: State) -> State:
    """A state with another picture under one of its names."""
    return replace(state, rows={**state.rows, "0005.png": replace(state.rows["0005.png"], seed=777)})


def _served(state: State, route: str) -> State:
    return replace(state, serving="new-1", route=route)


def _backfill(made: MakeStep, old: State, part: int) -> Command:
    before, after = _served(old, PROCRUSTES), _served(old.made_by("new-1"), PROCRUSTES)
    return Command("backfill", (made, serves(PROCRUSTES)), backfills(part), before, after, mixed=True)


def _columns(number: int, size: int) -> tuple[tuple[str, str], ...]:
    """Metadata of about `size` bytes, which differs from image to image."""
    if not size:
        return ()
    text = f"{number} ünïcödé " * (size // 10 + 1)
    return (("colour", ("red", "blue", "green")[number % 3]), ("text", text[: max(10, size - 12)].strip()))
