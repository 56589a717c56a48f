"""The numbers of an explanation in words, for the picture and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cir.explain.explanation import Explanation, Measured, Part
from cir.images.names import shown

HONEST = "Each line is another search: differences say what each part does, and need not add up."


@dataclass(frozen=True)
class Line:
    """One line of the numbers.

    Attributes:
        label: what was left out, or stands alone.
        measured: what the hit scores then.
        change: how much the score changes by that, signed; "" for a part alone.
    """

    label: str
    measured: Measured
    change: str


def lines_of(each: Explanation) -> list[Line]:
    """What the parts of a query do; none for a query of one part."""
    lines = []
    for part in each.parts:
        if part.without is not None and part.difference is not None:
            lines.append(Line(f"without {_called(part, each)}", part.without, f"{0 - part.difference:+.3f}"))
        if part.alone is not None and len(each.parts) > 2:  # else it is what is left without the other
            lines.append(Line(f"{_called(part, each)} alone", part.alone, ""))
    return lines


def percent(share: float) -> str:
    """A share, rounded down: nothing but all is 100 %."""
    return f"{math.floor(1000 * share + 1e-9) / 10:.1f} %" if share < 1 else "100 %"


def _called(part: Part, each: Explanation) -> str:
    if part.kind == "negative":
        return f"not “{shown(' '.join(each.query.negatives[part.number].split()))}”"
    if part.kind == "reference":
        return f"reference {part.number + 1}"
    if part.kind == "text":
        return "the words"
    return "the picture" if len(each.query.references) == 1 else "the pictures"
