"""Learning-rate schedules in closed form: the rate of a step depends on its number alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from cir.typed_json import Within

Count = Annotated[int, Within(0, 10**9)]  # of steps or epochs


def half_cosine(start: float, end: float, share: float) -> float:
    """From `start` at share 0 to `end` at share 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class OneCycle:
    """The one-cycle policy (Smith & Topin, 2018) as torch's OneCycleLR computes it, which SPRC trains with.

    It moves the momentum too: AdamW's beta1 falls from 0.95 to 0.85 while the rate rises, and returns.

    Attributes:
        rise: share of the cycle in which the rate rises.
        start_divisor: highest rate divided by the first.
        end_divisor: first rate divided by the last.
        epochs: length of the cycle; training may end before it (CIRR's does).
        momenta: beta1 at both ends, and at the highest rate.
    """

    rise: float
    start_divisor: float
    epochs: Count
    end_divisor: float = 1e4
    momenta: tuple[float, float] = (0.95, 0.85)

    def __post_init__(self) -> None:
        """Raises ValueError for an invalid cycle."""
        if not 0 <= self.rise < 1 or self.epochs < 1 or min(self.start_divisor, self.end_divisor) < 1:
            raise ValueError("a cycle has a rise in [0, 1), epochs of 1 or more and divisors of 1 or more")

    def at(self, step: int, length: int, highest: float) -> tuple[float, float]:
        """Rate and beta1 at a step of a cycle of `length` steps, both counted from 0."""
        first, (outer, inner) = highest / self.start_divisor, self.momenta
        top, end = self.rise * length - 1, length - 1
        if step <= top and top > 0:
            share = step / top
            return half_cosine(first, highest, share), half_cosine(outer, inner, share)
        top = max(top, 0.0)
        share = (step - top) / max(end - top, 1.0)
        return half_cosine(highest, first / self.end_divisor, share), half_cosine(inner, outer, share)
