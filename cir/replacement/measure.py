"""Measuring a route on the judged queries that its fit has not seen, beside the current index and a re-index."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cir.arrays import Floats, Mask
from cir.evidence import Gain, RouteResult, SliceResult
from cir.replacement.paired_sample import PairedSample
from cir.replacement.routes import FittedRoute, unmapped_scores
from cir.stats import lower_bound95

MEASURES = {"R@1": 1, "R@10": 10}
FLIP_MEASURE = "R@10"  # a negative flip: answered within 10 before, and no longer
HALF_SEED = 0
MIN_SLICE_QUERIES, SLICE_LOSS = 50, 0.05

Hits = Mapping[str, Mask]


def measure(sample: PairedSample, fitted: FittedRoute) -> RouteResult:
    """Measure a fitted route on the queries that fits may not see."""
    current, mapped = _hits(sample, sample.current), _hits(sample, fitted.scores)
    reindexed = _hits(sample, sample.reindexed)
    half = np.random.default_rng(HALF_SEED).random(sample.relevant.shape[1]) < 0.5
    mixed = _hits(sample, np.where(half, sample.reindexed, fitted.calibrated))
    better = max((current[FLIP_MEASURE], mapped[FLIP_MEASURE]), key=lambda hits: float(hits.mean()))
    gains = {name: _gain(mapped[name], current[name]) for name in MEASURES}
    slices = {name: members[~sample.fit_mask] for name, members in sample.slices.items()}
    slices = {name: members for name, members in slices.items() if members.sum() >= MIN_SLICE_QUERIES}
    return RouteResult(
        route=fitted.mapping.route.value,
        values=_means(mapped),
        gains=gains,
        negative_flips=float((current[FLIP_MEASURE] & ~mapped[FLIP_MEASURE]).mean()),
        slices={name: _slice(members, current, mapped) for name, members in slices.items()},
        losing_slices=_losing(slices, current[FLIP_MEASURE], mapped[FLIP_MEASURE]),
        half_reindexed=_means(mixed),
        half_reindexed_loss=max(0.0, _gain(better, mixed[FLIP_MEASURE]).lower95),
        recovered={
            name: _share(gains[name].difference, float(reindexed[name].mean() - current[name].mean()))
            for name in MEASURES
        },
    )


def baselines(sample: PairedSample) -> dict[str, dict[str, float]]:
    """What routes are compared with: "current", "reindexed", and "unmapped" where dims allow it."""
    scores: dict[str, Floats | None] = {
        "current": sample.current,
        "reindexed": sample.reindexed,
        "unmapped": unmapped_scores(sample),
    }
    return {name: _means(_hits(sample, given)) for name, given in scores.items() if given is not None}


def _hits(sample: PairedSample, scores: Floats) -> Hits:
    return {name: sample.measured_hits(scores, k) for name, k in MEASURES.items()}


def _means(hits: Hits) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in hits.items()}


def _gain(ours: Mask, theirs: Mask) -> Gain:
    differences = ours.astype(np.float64) - theirs
    return Gain(float(differences.mean()), lower_bound95(differences))


def _slice(members: Mask, current: Hits, mapped: Hits) -> SliceResult:
    before, after = (float(hits[FLIP_MEASURE][members].mean()) for hits in (current, mapped))
    return SliceResult(int(members.sum()), before, after)


def _losing(slices: Mapping[str, Mask], current: Mask, mapped: Mask) -> dict[str, float]:
    """Slices that lose more than `SLICE_LOSS`, significantly."""
    losses = {name: _gain(current[members], mapped[members]) for name, members in slices.items()}
    return {
        name: -loss.difference for name, loss in losses.items() if loss.difference > SLICE_LOSS and loss.lower95 > 0
    }


def _share(gain: float, whole: float) -> float | None:
    return gain / whole if whole > 0 else None
