"""What a command of the command line left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command left behind.

    Attributes:
        code: its exit code.
        out: what it wrote to standard output.
        err: what it wrote to standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on standard output. Raises ValueError for anything else, NaN and Infinity included."""
        return json.loads(self.out, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


Run = Callable[..., Outcome]  # called with the words of a command line


def mistake(outcome: Outcome, *words: str, alone: bool = True) -> None:
    """Assert that a user's mistake was reported: exit code 2, nothing on stdout, and on stderr a line with `words`.

    Args:
        outcome: of the command.
        words: what the line must contain.
        alone: whether the line is all of stderr; otherwise progress and warnings may precede it.
    """
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[-1].startswith("cir: "), outcome.err
    assert len(lines) == 1 or not alone, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in lines[-1], outcome.err
