"""The gate: when a new model may serve old vectors. A refusal is a normal answer, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cir.evidence import Measures, ReindexCost, RouteResult, Verdict
from cir.mappings import Route
from cir.replacement.measure import MEASURES

MIN_QUERIES = 200  # fewer cannot tell a gain of ten points from chance
MAX_NEGATIVE_FLIP_RATE = 0.10
WARN_NEGATIVE_FLIP_RATE = 0.08  # on real photos a good route has 0.04 to 0.06
WARN_RECOVERED = 0.20
WARN_UNMAPPED = 0.05
CHEAP_HOURS = 0.25  # a re-index that takes no longer is better than any mapping


def judge(
    queries: int,
    baselines: Mapping[str, Measures],
    routes: Sequence[RouteResult],
    cost: ReindexCost,
    *,
    margin: float = 0.0,
    same_vectors: bool = False,
) -> Verdict:
    """Choose the route that passes and has the highest R@1 + R@10, or none.

    Args:
        queries: number of judged queries, fitted and measured together.
        baselines: from `measure.baselines`.
        routes: what was measured.
        cost: of a re-index.
        margin: by how much a route may fall behind the current index and still pass; an operator's explicit choice.
        same_vectors: whether both models store the same, so that nothing is to be re-indexed.
    """
    current, reindexed = baselines["current"], baselines["reindexed"]
    objections = []
    few = queries < MIN_QUERIES
    if few:
        objections.append(f"{queries} judged queries, {MIN_QUERIES} are needed to tell a gain from chance")
    behind = [name for name in MEASURES if reindexed[name] <= current[name]]
    if behind:
        figures = ", ".join(f"{name} {_percent(reindexed[name])} for {_percent(current[name])}" for name in behind)
        objections.append(f"the new model is no better even after a full re-index: {figures}")
    refused = {result.route: tuple(reasons) for result in routes if (reasons := _reasons(result, margin))}
    passing = [result for result in routes if result.route not in refused and not objections]
    best = max(passing, key=lambda result: sum(result.values.values()), default=None)
    gain = ", ".join(f"{name} {_points(reindexed[name] - current[name])}" for name in MEASURES)
    price = f"{cost.images:,} images, {duration(cost.hours)}, {cost.bytes / 1e6:,.1f} MB for {gain}"
    if behind:
        advice = "keep the current model"
    elif few:
        advice = f"give it {MIN_QUERIES} judged queries and measure again: `cir questions`"
    elif same_vectors and best:
        advice = nothing_to_reindex(best.route)
    else:
        advice = _advice(best, cost, price)
    warnings = _warnings(baselines, routes, best, related=same_vectors)
    return Verdict(best.route if best else None, tuple(objections), refused, tuple(warnings), advice)


def nothing_to_reindex(route: str) -> str:
    """The advice where both models store the same vectors."""
    return f"serve the new model by {route}: both models store the same vectors, so there is nothing to re-index"


def _reasons(result: RouteResult, margin: float) -> list[str]:
    """Reasons against one route."""
    reasons = []
    for name, gain in result.gains.items():
        if not gain.lower95 > -margin:
            least = "above 0" if not margin else f"above {-100 * margin:.1f}"
            reasons.append(
                f"{name} {_points(gain.difference)}, 95 % lower bound {_points(gain.lower95)}: must be {least}"
            )
    if result.negative_flips > MAX_NEGATIVE_FLIP_RATE:
        rate, limit = _percent(result.negative_flips), _percent(MAX_NEGATIVE_FLIP_RATE)
        reasons.append(f"{rate} negative flips: more than {limit}")
    for name, loss in result.losing_slices.items():
        reasons.append(f"{name} loses {_points(-loss).lstrip('+')} points")
    if result.half_reindexed_loss > 0:
        reasons.append(f"half re-indexed, it falls behind by at least {_points(result.half_reindexed_loss)} points")
    return reasons


def _warnings(
    baselines: Mapping[str, Measures], routes: Sequence[RouteResult], best: RouteResult | None, *, related: bool
) -> list[str]:
    warnings = []
    related = related or any(Route(result.route).compares_dims for result in routes)  # then it is expected
    if not related and baselines.get("unmapped", {}).get("R@10", 0.0) > WARN_UNMAPPED:
        warnings.append("the new model's queries match the old vectors without a mapping: do the two share weights?")
    if best and best.negative_flips > WARN_NEGATIVE_FLIP_RATE:
        warnings.append(f"{_percent(best.negative_flips)} negative flips")
    recovered = best.recovered["R@10"] if best else None
    if recovered is not None and recovered < WARN_RECOVERED:
        warnings.append(f"the mapping recovers only {_percent(recovered)} of a re-index's gain: plan to re-index")
    return warnings


def _advice(best: RouteResult | None, cost: ReindexCost, price: str) -> str:
    if cost.hours <= CHEAP_HOURS:
        how = "--apply, then `cir backfill`" if best else "`cir build-index` with the new model into a new index"
        return f"just re-index ({how}): {price}"
    if best is None:
        return f"keep the current model, or re-index: {price}"
    return f"serve the new model by {best.route}; a re-index would take {price}"


def duration(hours: float) -> str:
    """A length of time for a person."""
    if hours * 60 < 1:
        return f"{max(1, round(hours * 3600))} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} hours"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
