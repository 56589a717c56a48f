"""How a route does on anchors that its fit did not see, beside what there is now and what encoding again would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cir.stats import lower_bound95
from cir.replacement.routes import Fitted
from cir.replacement.paired_sample import Bools, Floats, Study

MEASURES = {"R@1": 1, "R@10": 10}
FLIPS = 10  # the place within which an answer counts as found, when it is asked which answers are lost
MIXED_SEED = 0


@dataclass(frozen=True)
class Measured:
    """One route, measured. Shares of anchors, as fractions.

    Attributes:
        route: its name.
        values: measure -> share answered on the old vectors.
        gains: measure -> (difference from the index as it is, its one-sided 95 % lower bound).
        flips: share of the anchors that were answered within `FLIPS` and no longer are.
        slices: slice -> how many of the anchors belong to it, and their R@10 now and by this route; where these are
            enough to say something.
        worse: slice -> difference in R@10, for those that lose much and are certain (95 %) to lose something.
        mixed: measure -> share answered when a random half of the sample has been encoded again.
        mixed_behind: how far its R@10 is certain (95 %) to fall behind the index as it is, or behind this route alone.
        recovered: measure -> share of what encoding everything again would gain.
    """

    route: str
    values: dict[str, float]
    gains: dict[str, tuple[float, float]]
    flips: float
    slices: dict[str, dict[str, float]]
    worse: dict[str, float]
    mixed: dict[str, float]
    mixed_behind: float
    recovered: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        gains = {name: {"difference": gain, "lower95": low} for name, (gain, low) in self.gains.items()}
        return {**vars(self), "gains": gains}


SLICE_ANCHORS, SLICE_LOSS = 50, 0.05


def measure(study: Study, fitted: Fitted) -> Measured:
    """Measure a fitted route on the anchors that fits may not see."""
    before = _found(study, study.current)
    now = _found(study, fitted.scores)
    best = _found(study, study.native)
    half = np.random.default_rng(MIXED_SEED).random(study.right.shape[1]) < 0.5
    mixed = _found(study, np.where(half, study.native, fitted.slope * fitted.scores + fitted.intercept))
    ahead = max((before["R@10"], now["R@10"]), key=lambda hits: float(hits.mean()))
    gains = {name: _gain(now[name], before[name]) for name in MEASURES}
    lost = before["R@10"] & ~now["R@10"]
    slices = {name: members[~study.fit] for name, members in study.slices.items()}
    slices = {name: members for name, members in slices.items() if members.sum() >= SLICE_ANCHORS}
    return Measured(
        route=fitted.route,
        values={name: float(hits.mean()) for name, hits in now.items()},
        gains=gains,
        flips=float(lost.mean()),
        slices={
            name: {
                "anchors": int(inside.sum()),
                "now": float(before["R@10"][inside].mean()),
                "by this route": float(now["R@10"][inside].mean()),
            }
            for name, inside in slices.items()
        },
        worse=_worse(slices, now["R@10"], before["R@10"]),
        mixed={name: float(hits.mean()) for name, hits in mixed.items()},
        mixed_behind=max(0.0, _gain(ahead, mixed["R@10"])[1]),
        recovered={name: _share(gains[name][0], float(best[name].mean() - before[name].mean())) for name in MEASURES},
    )


def overview(study: Study, naive: Fitted | None) -> dict[str, dict[str, float]]:
    """What the routes are compared with: the index as it is, everything encoded again, and silent mixing."""
    compared: dict[str, Floats] = {"now": study.current, "encoded again": study.native}
    if naive:
        compared["naive"] = naive.scores
    return {
        name: {measure: float(hits.mean()) for measure, hits in _found(study, given).items()}
        for name, given in compared.items()
    }


def _found(study: Study, given: Floats) -> dict[str, Bools]:
    return {name: study.found(given, k) for name, k in MEASURES.items()}


def _gain(ours: Bools, theirs: Bools) -> tuple[float, float]:
    difference = ours.astype(np.float64) - theirs
    return float(difference.mean()), lower_bound95(difference)


def _worse(slices: Mapping[str, Bools], now: Bools, before: Bools) -> dict[str, float]:
    found = {}
    for name, inside in slices.items():
        loss, certain = _gain(before[inside], now[inside])
        if loss > SLICE_LOSS and certain > 0:
            found[name] = -loss
    return found


def _share(gain: float, whole: float) -> float | None:
    return gain / whole if whole > 0 else None
