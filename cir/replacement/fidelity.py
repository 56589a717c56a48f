"""Fidelity: how far a route answers as a full re-index would, which needs no judgements.

It measures the mapping, not whether the new model is better: a perfect mapping to a worse model has full fidelity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.data.judged_query import JudgedQuery
from cir.evidence import Fidelity, ReindexCost, Verdict
from cir.replacement.gate import CHEAP_HOURS, duration, nothing_to_reindex
from cir.replacement.paired_sample import PairedSample, ranked
from cir.replacement.routes import FittedRoute
from cir.stats import lower_bound95

DEPTH = 10
CURRENT, ALL = "current", "all"
# Share of the re-index's first ten. On real photos (docs/results/encoders.md: twelve pairs of encoders, 1,200
# photos) the 16 routes that reach it are at most 10.3 points behind a re-index in R@10, the 71 others up to 71.8.
FLOOR = 0.5
UNKNOWN = "this measures the mapping, not whether the new model is better: no judged query says which answers are right"

ByKind = Mapping[str, Fidelity]


def kinds_of(queries: Sequence[JudgedQuery]) -> dict[str, Mask]:
    """ "image", "text", "composed" -> (Q,) the queries of that kind; kinds without queries are left out."""
    names = np.array([("composed" if query.caption else "image") if query.reference else "text" for query in queries])
    return {name: names == name for name in ("image", "text", "composed") if (names == name).any()}


def fidelity(sample: PairedSample, kinds: Mapping[str, Mask], routes: Sequence[FittedRoute]) -> dict[str, ByKind]:
    """How far the current index and each route agree with a re-index, on the queries that fits have not seen.

    Args:
        sample: the paired sample; where images are held out of the fits, queries are answered from those alone.
        kinds: from `kinds_of`.
        routes: fitted on the sample.

    Returns:
        "current" or route -> kind, or "all" -> figures. The current index lacks the kinds that its model cannot encode.
    """
    wanted = _first(sample, sample.reindexed)
    unknown: Mask = np.any(np.isnan(sample.current), axis=1)
    known = ~unknown[~sample.fit_mask]
    current = _Agreement(wanted, _first(sample, sample.current), known)
    measured = {kind: members[~sample.fit_mask] for kind, members in kinds.items()} | {ALL: np.ones_like(known)}
    measured = {kind: members for kind, members in measured.items() if members.any()}
    figures: dict[str, ByKind] = {
        CURRENT: {kind: current.figures(members) for kind, members in measured.items() if known[members].all()}
    }
    for route in routes:
        agreement = _Agreement(wanted, _first(sample, route.scores), known)
        figures[route.mapping.route.value] = {
            kind: agreement.figures(members, current) for kind, members in measured.items()
        }
    return figures


def judge_fidelity(figures: Mapping[str, ByKind], cost: ReindexCost, *, same_vectors: bool = False) -> Verdict:
    """Choose the most faithful route that reaches the floor for every kind of query, or none.

    Args:
        figures: from `fidelity`.
        cost: of a re-index.
        same_vectors: whether both models store the same, so that nothing is to be re-indexed.
    """
    routes = {name: kinds for name, kinds in figures.items() if name != CURRENT}
    refused = {name: tuple(reasons) for name, kinds in routes.items() if (reasons := _reasons(kinds))}
    passing = [name for name in routes if name not in refused]
    best = max(passing, key=lambda name: routes[name][ALL].overlap, default=None)
    price = f"{cost.images:,} images, {duration(cost.hours)}, {cost.bytes / 1e6:,.1f} MB"
    if best and same_vectors:
        advice = f"if you trust it (--apply --trust-model), {nothing_to_reindex(best)}"
    elif best and cost.hours > CHEAP_HOURS:
        advice = (
            f"if you trust the new model, serve it by {best} (--apply --trust-model); a re-index would take {price}"
        )
    elif best:
        advice = f"if you trust the new model, re-index (--apply --trust-model, then `cir backfill`): {price}"
    else:
        advice = f"keep the current model, or re-index if you trust the new one: {price}"
    return Verdict(best, (), refused, (UNKNOWN,), advice)


def _reasons(kinds: ByKind) -> list[str]:
    """Reasons against one route."""
    reasons = [
        f"{kind} queries share {_percent(figures.overlap)} of their first {DEPTH} hits with a re-index, 95 % lower "
        f"bound {_percent(figures.overlap_lower95)}: must be {_percent(FLOOR)}"
        for kind, figures in kinds.items()
        if kind != ALL and figures.overlap_lower95 < FLOOR
    ]
    closer = kinds[ALL].closer_lower95
    if closer is not None and closer <= 0:
        reasons.append("it does not answer more like a re-index than the current index does")
    return reasons


class _Agreement:
    """Query by query, how far one ranking agrees with that of a re-index.

    Args:
        wanted: (n, 10) rows, the re-index's.
        found: (n, 10) rows.
        known: (n,) the queries that the current index can be asked.
    """

    def __init__(self, wanted: Rows, found: Rows, known: Mask) -> None:
        self._known = known
        self._overlaps = (wanted[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1)
        self._firsts = (wanted[:, :1] == found).any(axis=1)

    def figures(self, members: Mask, current: _Agreement | None = None) -> Fidelity:
        """Of some of the queries, (n,) bool."""
        overlaps, known = self._overlaps[members], members & self._known
        differences = None if current is None else (self._overlaps - current._overlaps)[known]
        return Fidelity(
            queries=int(members.sum()),
            overlap=float(overlaps.mean()),
            overlap_lower95=lower_bound95(overlaps),
            first=float(self._firsts[members].mean()),
            closer_lower95=None if differences is None or not len(differences) else lower_bound95(differences),
        )


def _first(sample: PairedSample, scores: Floats) -> Rows:
    """(n, 10) rows of the first hits of the measured queries, among the held-out images if there are such."""
    rows = ~sample.fit_mask
    given = scores[rows].astype(np.float32)
    if sample.held_out is not None:
        given[:, ~sample.held_out] = -np.inf
    return ranked(given, sample.references[rows], DEPTH)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
