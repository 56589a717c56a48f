"""Cases, and what was found: each finding is a row of the result."""

from __future__ import annotations

import random
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tortures.processes import Bounds, Ended, Runner
from tortures.states import State, differs
from tortures.steps import Step, cir

FAULTS = {
    "lost": "what was published is gone or cannot be read",
    "wrong": "a wrong answer, and verify names nothing",
    "signal": "a process ended by a signal",
    "traceback": "a traceback, or the exit code of a bug",
    "hang": "no end within the limit",
    "unclear": "not one clear line, or another exit code",
    "unnamed": "a damaged file that verify neither names nor says it leaves out",
    "unmended": "damage that is still there after a repair",
    "leftover": "temporary files, segments or generations that were never published",
    "script": "the torture script itself failed",
}
BUG = 70  # exit code of a command that met a bug; its traceback is in a file
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x9b]")


@dataclass
class Tally:
    """What came of all cases of one kind.

    Attributes:
        kind: its name.
        seed: of the whole run; case n of a kind has a generator of its own, so that it can be run alone.
        counts: things that happened, by name.
        findings: rows of the result.
        seconds: that all of it took.
    """

    kind: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0


@dataclass
class Case:
    """One case: its random numbers, its own folder, and the processes it runs.

    Attributes:
        tally: where its findings go.
        number: of the case.
        rng: its random numbers.
        folder: its own, removed after it.
        runner: for processes.
        did: what was done so far, for a finding.
    """

    tally: Tally
    number: int
    rng: random.Random
    folder: Path
    runner: Runner
    did: list[str] = field(default_factory=list)

    def found(self, fault: str, what: object) -> None:
        """Record a finding."""
        assert fault in FAULTS
        row = {
            "kind": self.tally.kind,
            "case": self.number,
            "seed": self.tally.seed,
            "did": "; ".join(self.did),
            "fault": fault,
            "what": str(what).replace(str(self.folder), ".").replace(str(self.runner.scratch), "."),
        }
        self.tally.findings.append(row)
        print(f"  {self.tally.kind} {self.number}: {fault}: {row['did']}: {row['what']}", flush=True)

    def count(self, what: str, times: int = 1) -> None:
        """Count something that happened."""
        self.tally.counts[what] += times

    def run(
        self, step: Step, bounds: Bounds | None = None, *, fresh: bool = False, codes: tuple[int, ...] = (0, 2)
    ) -> Ended:
        """Run a step that may fail only as a program should: see `judge`."""
        ended = self.runner.run(step, bounds, fresh=fresh)
        self.judge(step, ended, codes)
        return ended

    def judge(self, step: Step, ended: Ended, codes: tuple[int, ...] = (0, 2)) -> bool:
        """Whether a process ended as it may: in time, by no signal, with one line if it failed; records what it did."""
        what = f"{name_of(step)}: {ended}"
        before = len(self.tally.findings)
        if ended.hung:
            self.found("hang", what)
        elif ended.signal:
            self.found("signal", what)
        elif ended.code == BUG or "Traceback (most recent call last)" in ended.err:
            self.found("traceback", what)
        elif ended.code not in codes:
            self.found("unclear", f"{what} (exit {ended.code}, not {' or '.join(map(str, codes))})")
        elif ended.code == 2 and not is_one_line(ended.err):
            self.found("unclear", f"{what} (stderr: {ended.err[-300:]!r})")
        return len(self.tally.findings) == before

    def ask(self, index: Path, *states: State, mixed: bool = False, after: str) -> Ended:
        """Ask an index that must answer as one of the states."""
        ended = self.run(Step("ask", {"index": str(index)}))
        if ended.code == 2:
            self.found("lost", f"{after}: {ended.last}")
        elif ended.code == 0 and (wrong := differs(ended.json, *states, mixed=mixed)):
            self.found("wrong", f"{after}: {wrong}")
        return ended

    def verify(self, index: Path, *, after: str) -> None:
        """Expect `cir verify` to name nothing."""
        ended = self.run(cir("verify", index), codes=(0, 1, 2))
        if ended.code in (1, 2):
            self.found("lost", f"{after}: verify: {(ended.out + ended.err)[-300:]}")

    def no_leftovers(self, index: Path, *, after: str) -> None:
        """Expect no file of a writer that died."""
        left = [str(path.relative_to(index)) for path in index.rglob("*") if path.name.startswith(".tmp-")]
        if left:
            self.found("leftover", f"{after}: {', '.join(left[:3])}")


def is_one_line(text: str) -> bool:
    """Whether stderr is one line for a person, from the program."""
    lines = text.splitlines()
    return len(lines) == 1 and lines[0].startswith("cir: ") and not CONTROL.search(lines[0])


def name_of(step: Step) -> str:
    """A step for a finding."""
    words = step.arguments.get("words") or [step.name]
    return " ".join(Path(word).name if "/" in word else word for word in words)


@dataclass
class Arena:
    """Where cases run, one after another.

    Attributes:
        scratch: a folder for all of them.
        seed: of the whole run.
        only: the number of the one case that runs; all if None.
        seconds: that a writer and its readers go on; 0 for a short while.
    """

    scratch: Path
    seed: int
    only: int | None = None
    seconds: float = 0

    @contextmanager
    def case(self, tally: Tally, number: int) -> Iterator[Case | None]:
        """One case in a folder of its own; None for one that is left out. A bug of the script is a finding too."""
        if self.only is not None and number != self.only:
            yield None
            return
        folder = self.scratch / f"{tally.kind.replace(' ', '-')}-{number}"
        folder.mkdir(parents=True)
        case = Case(tally, number, random.Random(f"{self.seed} {tally.kind} {number}"), folder, Runner(self.scratch))
        tally.counts["cases"] += 1
        try:
            yield case
        except Exception:
            case.found("script", traceback.format_exc(limit=-3))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
