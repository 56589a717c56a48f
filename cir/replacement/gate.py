"""When a new model may serve old vectors. Refusing is a normal answer, and says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cir.replacement.measure import MEASURES, Measured

ANCHORS = 200  # fewer do not tell a gain of ten points from luck
FLIPS, MANY_FLIPS = 0.10, 0.08  # of all anchors; on real photos a good route loses 0.04 to 0.06
LITTLE = 0.20
CHANCE = 0.05
SOON = 0.25  # hours that encoding everything again may take before anything else is worth considering


@dataclass(frozen=True)
class Cost:
    """What encoding the old part of the gallery again would take.

    Attributes:
        images: how many.
        hours: at the speed measured on the sample, on this machine.
        bytes: of the new vectors and tokens.
    """

    images: int
    hours: float
    bytes: int


@dataclass(frozen=True)
class Verdict:
    """What came of it.

    Attributes:
        route: the route that may be published, or None.
        refused: route -> why it may not; under "" what speaks against every route.
        warnings: what should be known even so.
        advice: what to do, one line.
    """

    route: str | None
    refused: Mapping[str, Sequence[str]]
    warnings: Sequence[str] = field(default_factory=tuple)
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        refused = {name: list(reasons) for name, reasons in self.refused.items()}
        return {"route": self.route, "refused": refused, "warnings": list(self.warnings), "advice": self.advice}


def judge(
    anchors: int,
    compared: Mapping[str, Mapping[str, float]],
    routes: Sequence[Measured],
    cost: Cost,
    *,
    margin: float = 0.0,
) -> Verdict:
    """Choose the route that passes and is best at both measures together, or none.

    Args:
        anchors: how many there are, fitted and measured together.
        compared: from `measure.overview`.
        routes: what was measured.
        cost: of encoding everything again.
        margin: by how much a route may fall behind the index as it is and still pass; an operator's explicit wish.
    """
    now, again = compared["now"], compared["encoded again"]
    against = []
    few = anchors < ANCHORS
    if few:
        against.append(f"{anchors} anchors, {ANCHORS} are needed to tell a gain from luck")
    behind = [name for name in MEASURES if again[name] <= now[name]]
    if behind:
        figures = ", ".join(f"{name} {_percent(again[name])} for {_percent(now[name])}" for name in behind)
        against.append(f"the new model is no better even with everything encoded again: {figures}")
    refused: dict[str, list[str]] = {"": against} if against else {}
    passing = []
    for one in routes:
        reasons = _reasons(one, margin)
        if reasons:
            refused[one.route] = reasons
        elif not against:
            passing.append(one)
    best = max(passing, key=lambda one: sum(one.values.values()), default=None)
    return Verdict(
        best.route if best else None,
        refused,
        _warnings(compared, routes, best),
        _advice(best, few, bool(behind), cost, now, again),
    )


def _reasons(one: Measured, margin: float) -> list[str]:
    reasons = []
    for name, (gain, low) in one.gains.items():
        if not low > -margin:
            wanted = "above 0" if not margin else f"above {-100 * margin:.1f}"
            reasons.append(f"{name} {_points(gain)}, at least {_points(low)} (95 %): must be {wanted}")
    if one.flips > FLIPS:
        reasons.append(f"{_percent(one.flips)} of the anchors are no longer answered: more than {_percent(FLIPS)}")
    for name, loss in one.worse.items():
        reasons.append(f"{name} loses {_points(-loss).lstrip('+')} points")
    if one.mixed_behind > 0:
        reasons.append(f"half encoded again it falls behind by {_points(one.mixed_behind)} points at least")
    return reasons


def _warnings(
    compared: Mapping[str, Mapping[str, float]], routes: Sequence[Measured], best: Measured | None
) -> list[str]:
    warnings = []
    related = any(one.route == "simplex" for one in routes)  # then it is no surprise
    if not related and compared.get("naive", {}).get("R@10", 0.0) > CHANCE:
        warnings.append("the new model answers on the old vectors as they are: do the two share weights?")
    if best and best.flips > MANY_FLIPS:
        warnings.append(f"{_percent(best.flips)} of the anchors are no longer answered")
    share = best.recovered["R@10"] if best else None
    if share is not None and share < LITTLE:
        warnings.append(f"only {_percent(share)} of the gain comes without encoding again: plan to encode")
    return warnings


def _advice(
    best: Measured | None, few: bool, hopeless: bool, cost: Cost, now: Mapping[str, float], again: Mapping[str, float]
) -> str:
    price = f"{cost.images:,} images, {duration(cost.hours)}, {cost.bytes / 1e6:,.1f} MB"
    gain = ", ".join(f"{name} {_points(again[name] - now[name])}" for name in MEASURES)
    if hopeless:
        return "keep the model there is"
    if few:
        return f"give it {ANCHORS} anchors and measure again: `cir anchors`"
    if cost.hours <= SOON:
        how = "--apply, then `cir backfill`" if best else "`cir build-index` with the new model into a new index"
        return f"just encode everything again ({how}): {price} for {gain}"
    if best is None:
        return f"keep the model there is, or encode everything again: {price} for {gain}"
    return f"serve the new model by {best.route}; encoding everything again would take {price} for {gain}"


def duration(hours: float) -> str:
    """A length of time for a person."""
    if hours * 60 < 1:
        return f"{max(1, round(hours * 3600))} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} hours"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
