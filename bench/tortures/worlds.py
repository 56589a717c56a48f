"""An index with everything in it, to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tortures.commands import RIDGE, asks, builds, must, rows_of, serves
from tortures.processes import Runner
from tortures.states import State, differs
from tortures.steps import Step


@dataclass(frozen=True)
class World:
    """An index with everything in it.

    Attributes:
        index: its folder.
        photos: its pictures, of which one is broken.
        live: what it must answer; each image may be as in either state.
        rebuild: builds it again from the same photos, which changes nothing.
        generations: earlier generation -> the states that it may restore.
        listed: the generations that are kept, newest first.
    """

    index: Path
    photos: Path
    live: tuple[State, State]
    rebuild: Step
    generations: Mapping[int, tuple[State, ...]]
    listed: tuple[int, ...]

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
    questions, asked = asks(folder / "questions.jsonl", grown, 6)
    must(runner, builds(photos, first, ann=True)(index))
    note(first)
    step = builds(photos, grown, ann=True)(index)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    must(runner, step)
    note(grown)
    must(runner, questions(index))
    note(grown)
    must(runner, serves(RIDGE)(index))
    served = replace(asked, serving="new-1", route=RIDGE)
    note(served)
    must(runner, Step("use", {"index": str(index)}))
    must(runner, Step("backfill", {"index": str(index), "part": 24, "count": 24}))
    live = (served, served.made_by("new-1"))
    last = must(runner, ask).json
    if wrong := differs(last, *live, mixed=True):
        raise RuntimeError(f"the index to start from is wrong: {wrong}")
    rebuild = Step("build", {**step.arguments, "model": "new-1"})
    listed = tuple(must(runner, Step("inspect", {"index": str(index)})).json["generations"])
    earlier = {number: states for number, states in generations.items() if number != last["generation"]}
    return World(index, photos, live, rebuild, earlier, listed)


def of_tokens(runner: Runner, folder: Path) -> World:
    """Two builds with a model that gives only tokens, and the compact codes of them."""
    photos, index = folder / "photos-of-tokens", folder / "tokens.index"
    first, last = (State(rows_of(count, metadata=60), "tokens-1").made_by("tokens-1") for count in (40, 70))
    must(runner, builds(photos, first, ann=True)(index))
    step = builds(photos, last, ann=True)(index)
    must(runner, step)
    seen = must(runner, Step("inspect", {"index": str(index)})).json
    if wrong := differs(seen["seen"], last):
        raise RuntimeError(f"the index of tokens to start from is wrong: {wrong}")
    return World(index, photos, (last, last), step, {1: (first,)}, tuple(seen["generations"]))
