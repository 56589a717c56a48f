"""Folders of pictures, and indexes to start from, each built by processes that must not fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tortures.processes import Ended, Runner
from tortures.states import Row, State, differs, write_photos
from tortures.steps import ANN_MIN_ROWS, Step, cir

RIDGE, PROCRUSTES = "ridge", "procrustes"


def rows_of(count: int, start: int = 0, *, metadata: int = 0) -> dict[str, Row]:
    """Rows of different pictures, but for every seventh, which equals another; with `metadata` bytes each."""
    rows = {}
    for number in range(start, start + count):
        seed = number - 3 if number % 7 == 6 else number
        rows[f"{number:04d}.png"] = Row(seed, metadata=columns(number, metadata))
    return rows


def columns(number: int, size: int) -> tuple[tuple[str, str], ...]:
    """Metadata of about `size` bytes, half of it in a text that differs from image to image."""
    if not size:
        return ()
    text = (f"{number} ünïcödé " * (size // 10 + 1))[: size - 12]
    return (("colour", ("red", "blue", "green")[number % 3]), ("text", text.strip()))


def table_of(rows: Mapping[str, Row]) -> dict[str, dict[str, str]]:
    """Metadata as the Python API takes it."""
    return {name: dict(row.metadata) for name, row in rows.items()}


def build_step(
    photos: Path, index: Path, state: State, *, prune: bool = False, ann: bool = False, keep: int | None = None
) -> Step:
    """The build that leads to a state; it writes the photos."""
    write_photos(photos, state.rows)
    arguments = {
        "photos": str(photos),
        "index": str(index),
        "model": state.serving,
        "metadata": table_of(state.rows) if any(row.metadata for row in state.rows.values()) else None,
        "prune": prune,
        "ann_min_rows": ANN_MIN_ROWS if ann else 10**9,
        "keep": keep,
    }
    return Step("build", arguments)


def store_questions(photos: Path, index: Path, state: State, count: int) -> tuple[Step, State]:
    """`cir questions` with `count` questions about a state, and the state after it."""
    names = sorted(state.rows)
    asked = tuple((f"q{n}", names[n], f"is {n}", [names[-1 - n]]) for n in range(count))
    file = photos.with_name(f"{photos.name}-questions.jsonl")
    lines = [dict(zip(("id", "reference", "caption", "targets"), question, strict=True)) for question in asked]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return cir("questions", index, "--from", file), replace(state, questions=asked)


def must(runner: Runner, step: Step) -> Ended:
    """Run a step that must go through. Raises RuntimeError."""
    ended = runner.run(step)
    if ended.code != 0:
        raise RuntimeError(f"{step.name}: {ended}\n{ended.err}")
    return ended


@dataclass(frozen=True)
class World:
    """An index with everything in it.

    Attributes:
        index: its folder.
        photos: its pictures, of which one is broken.
        live: what it must answer; each image may be as in either state.
        rebuild: builds it again from the same photos, which changes nothing.
        generations: earlier generation -> the states that it may restore.
    """

    index: Path
    photos: Path
    live: tuple[State, State]
    rebuild: Step
    generations: Mapping[int, tuple[State, ...]]

    def copy(self, folder: Path) -> Path:
        """A copy of the index."""
        return Path(shutil.copytree(self.index, folder))


def everything(runner: Runner, folder: Path) -> World:
    """Two builds with metadata and a skipped picture, judged questions, another model, and a backfill half done.

    The older vectors are mapped, both models' segments have approximate indexes, and a query was logged.
    """
    photos, index = folder / "photos", folder / "world.index"
    ask = Step("ask", {"index": str(index)})
    generations: dict[int, tuple[State, ...]] = {}

    def note(*states: State) -> None:
        """The live generation is one of these states, whatever questions are stored."""
        generation = must(runner, ask).json["generation"]
        generations[generation] = tuple(replace(s, questions=q) for s in states for q in ((), asked.questions))

    first = State(rows_of(60, metadata=60), "old-1").made_by("old-1")
    changed = replace(first.rows["0003.png"], seed=990)
    grown = State({**first.rows, **rows_of(30, 60, metadata=60), "0003.png": changed}, "old-1").made_by("old-1")
    questions, asked = store_questions(photos, index, grown, 6)
    must(runner, build_step(photos, index, first, ann=True))
    note(first)
    step = build_step(photos, index, grown, ann=True)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    must(runner, step)
    note(grown)
    must(runner, questions)
    note(grown)
    must(runner, Step("serve", {"index": str(index), "route": RIDGE}))
    served = replace(asked, serving="new-1", route=RIDGE)
    note(served)
    must(runner, Step("use", {"index": str(index)}))
    must(runner, Step("backfill", {"index": str(index), "part": 24, "count": 24}))
    live = (served, served.made_by("new-1"))
    last = must(runner, ask).json
    if wrong := differs(last, *live, mixed=True):
        raise RuntimeError(f"the index to start from is wrong: {wrong}")
    rebuild = Step("build", {**step.arguments, "model": "new-1"})
    return World(index, photos, live, rebuild, {n: s for n, s in generations.items() if n != last["generation"]})
