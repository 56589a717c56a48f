"""Measures of a ranking, intervals over many rankings, and the comparison of two systems.

A ranking is a sequence of distinct image ids, best first; the targets are the set of relevant images.

A warning about names. "Recall@k" or "R@k" in papers on composed image retrieval means that *the* target is among the
first k: with one target per query that is TREC's Success@k, the hit rate. With several targets hit rate and recall
differ. Here `R@k` is the hit rate, as in the papers; `Recall@k` is the share of targets among the first k.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cir.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
WHOLE = sys.maxsize  # the k of a measure of the whole ranking


def hit_rate(ranking: Sequence[str], targets: AbstractSet[str], k: int) -> float:
    """1.0 when any target is among the first k, else 0.0: "R@k" in the papers, Success@k in TREC."""
    return float(any(image in targets for image in ranking[:k]))


def recall(ranking: Sequence[str], targets: AbstractSet[str], k: int) -> float:
    """Share of the targets that are among the first k; equals `hit_rate` for a single target."""
    return sum(image in targets for image in ranking[:k]) / len(targets)


def average_precision(ranking: Sequence[str], targets: AbstractSet[str], k: int) -> float:
    """AP@k as CIRCO defines it: the precisions at the targets within the first k, summed, over min(targets, k).

    The divisor makes 1.0 reachable when there are more than k targets.
    """
    retrieved = 0
    total = 0.0
    for rank, image in enumerate(ranking[:k], start=1):
        if image in targets:
            retrieved += 1
            total += retrieved / rank
    return total / min(len(targets), k)


def whole_average_precision(ranking: Sequence[str], targets: AbstractSet[str]) -> float:
    """AP of a whole ranking as i-CIR and the Oxford buildings define it: precision over recall, by trapezoids.

    At each target the mean of the precisions just before it and at it counts; a target that is not ranked counts 0.
    """
    retrieved = 0
    total = 0.0
    for before, image in enumerate(ranking):
        if image in targets:
            total += (retrieved / before if before else 1.0) + (retrieved + 1) / (before + 1)
            retrieved += 1
    return total / (2 * len(targets))


_FUNCTIONS = {"R": hit_rate, "Rs": hit_rate, "Recall": recall, "mAP": average_precision}


class Measure(NamedTuple):
    """A measure as a value; `str(measure)` is its name in reports.

    Attributes:
        name: "R" hit rate, "Rs" hit rate within the query's subset (CIRR), "Recall", or "mAP".
        k: number of ranks that count; WHOLE for a measure of the whole ranking, which only "mAP" is
            (`whole_average_precision`; with a k it is CIRCO's, `average_precision`).
    """

    name: str
    k: int

    def __str__(self) -> str:
        return self.name if self.k == WHOLE else f"{self.name}@{self.k}"


def parse_measure(text: str) -> Measure:
    """The measure with a name such as "R@10", or "mAP". Raises UsageError if there is no such measure."""
    if text == "mAP":
        return Measure(text, WHOLE)
    match = re.fullmatch(r"([A-Za-z]+)@([1-9][0-9]*)", text, flags=re.ASCII)
    if match is None or match[1] not in _FUNCTIONS:
        known = ", ".join(f"{name}@k" for name in _FUNCTIONS)
        raise UsageError(f"unknown measure {text!r}: write one of {known}, such as 'R@10', or mAP")
    return Measure(match[1], int(match[2]))


def score(measure: Measure, ranking: Sequence[str], targets: AbstractSet[str], subset: Collection[str] = ()) -> float:
    """The value of a measure for one query, in [0, 1].

    Args:
        measure: what to compute; reports give its mean over queries.
        ranking: distinct image ids, best first.
        targets: the relevant images, at least one.
        subset: for "Rs", the images to rank; all others are removed from the ranking first.

    Raises:
        UsageError: no targets, or no subset for "Rs".
    """
    if not targets:
        raise UsageError(f"{measure} of a query without targets is not defined: give at least one target")
    if measure.name == "Rs":
        if not subset:
            raise UsageError(
                f"{measure} of a query without a subset is not defined: give a subset, or use R@{measure.k}"
            )
        ranking = [image for image in ranking if image in subset]
    if measure.k == WHOLE:
        return whole_average_precision(ranking, targets)
    return _FUNCTIONS[measure.name](ranking, targets, measure.k)


def chance(measure: Measure, targets: int, images: int, missing: int = 0) -> float:
    """The expected value of a measure for a query whose images are ranked at random.

    Args:
        measure: what to expect.
        targets: how many of the images are relevant.
        images: how many are ranked, at least one; for "Rs" those of the subset.
        missing: how many further targets are not among them.
    """
    k = min(measure.k, images)
    if measure.name == "Recall":
        return k / images * targets / (targets + missing)
    if measure.name == "mAP":
        # Any place holds a target with probability targets / images, and each place before it then another one with
        # probability `others`.
        others = (targets - 1) / max(images - 1, 1)
        precisions = sum((1 + before * others) / (before + 1) for before in range(k))
        if measure.k == WHOLE:  # half of each is the precision just before the place
            precisions = (precisions + 1 + (k - 1) * others) / 2
        return targets / images * precisions / min(targets + missing, measure.k)
    return 1 - math.comb(images - targets, k) / math.comb(images, k)


def mean(values: ArrayLike, strata: ArrayLike | None = None) -> float:
    """The mean over queries; with strata the unweighted mean of the strata's means.

    Args:
        values: (Q,) the value of each query.
        strata: (Q,) the stratum of each query, such as its category; None for a single stratum.
    """
    return float(np.mean([group.mean() for group in _by_stratum(np.asarray(values, dtype=np.float64), strata)]))


def interval(
    values: ArrayLike, *, strata: ArrayLike | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of `mean`. Strata are resampled separately.

    If all queries have the same value, the interval is that point: the bootstrap knows no other values.

    Args:
        values: (Q,) the value of each query.
        strata: as for `mean`.
        seed: the same seed and the same Q resample the same queries, so that measures are comparable.
        resamples: how many times Q queries are drawn with replacement.

    Raises:
        UsageError: no values.
    """
    return _percentiles(_resampled_means(np.asarray(values, dtype=np.float64), strata, seed, resamples))


class Comparison(NamedTuple):
    """A paired comparison of two systems on the same queries.

    Attributes:
        difference: mean of ours minus mean of theirs.
        ci95: its 95 % interval.
        p: two-sided; never below 2 / (resamples + 1), nor below 2^(1 - Q).
    """

    difference: float
    ci95: tuple[float, float]
    p: float


def compare(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """The paired bootstrap test: whole queries are resampled, so that what makes a query hard cancels out.

    p is twice the smaller share of resampled differences on either side of zero, so that it agrees with the interval:
    small if the interval is clear of zero. Differences of zero count on both sides, and one resample is added to either
    count. A few queries cannot be significant, however they are resampled: by chance alone all Q differences have one
    sign with probability 2^(1 - Q), which p is never below. The test serves graded measures such as mAP as well as
    hits, which McNemar's test does not.

    Args:
        ours: (Q,) the value of each query for the first system.
        theirs: (Q,) the values of the same queries, in the same order, for the second.
        strata: as for `mean`.
        seed: of the resampling.
        resamples: how many times Q queries are drawn with replacement.

    Raises:
        UsageError: no values, or different numbers of values.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape:
        raise UsageError(f"a paired comparison needs the same queries: got {a.shape} and {b.shape} values")
    means = _resampled_means(a - b, strata, seed, resamples)
    side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = max(2 * (int(side) + 1) / (resamples + 1), 2.0 ** (1 - len(a)))
    return Comparison(mean(a - b, strata), _percentiles(means), min(1.0, p))


def lower_bound95(differences: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """The one-sided 95 % lower bound of a mean paired difference: the 5th percentile of its bootstrap.

    Args:
        differences: (Q,) ours minus theirs, query by query.
        seed, resamples: as for `interval`.

    Raises:
        UsageError: no values.
    """
    means = _resampled_means(np.asarray(differences, dtype=np.float64), None, seed, resamples)
    return float(np.percentile(means, 5))


def _by_stratum(values: NDArray[np.float64], strata: ArrayLike | None) -> list[NDArray[np.float64]]:
    """(Q,) values -> the values of each stratum."""
    if strata is None:
        return [values]
    labels = np.asarray(strata)
    return [values[labels == label] for label in np.unique(labels)]


def _resampled_means(
    values: NDArray[np.float64], strata: ArrayLike | None, seed: int, resamples: int
) -> NDArray[np.float64]:
    """(Q,) values -> (resamples,) means. One resample at a time: a (resamples, Q) matrix may not fit in memory."""
    if values.ndim != 1 or not len(values):
        raise UsageError(f"resampling needs one value per query and at least one query: got shape {values.shape}")
    draw = np.random.default_rng(seed)
    groups = _by_stratum(values, strata)

    def resampled(group: NDArray[np.float64]) -> float:
        return float(group[draw.integers(len(group), size=len(group))].mean())

    return np.array([np.mean([resampled(group) for group in groups]) for _ in range(resamples)])


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


# Compatibility of successive models: a matrix has a row per querying model and a column per model that made a gallery,
# oldest first; entries are accuracies as fractions. Only the lower triangle counts: an older model never queries a
# newer gallery.


def average_compatibility(matrix: ArrayLike) -> float:
    """Share of the pairs (newer model, older gallery) whose accuracy is strictly above the older model's own.

    AC of Biondi et al. (CVPR 2024). 1 means that every replacement gains; read it with
    `compatibility_margins`, since a near miss counts as much as a failure.

    Args:
        matrix: (M, M) accuracies, rows query model, columns gallery model; M at least 2.

    Raises:
        ValueError: not a square matrix of finite numbers, or of a single model.
    """
    margins = compatibility_margins(matrix)
    return float((margins[np.tril_indices(len(margins), -1)] > 0).mean())


def average_accuracy(matrix: ArrayLike) -> float:
    """Mean accuracy of the lower triangle, diagonal included: AA, as a fraction.

    The official code takes an exact zero for an entry that is missing; here it is an accuracy of 0.

    Args:
        matrix: (M, M) accuracies, rows query model, columns gallery model.

    Raises:
        ValueError: not a square matrix of finite numbers.
    """
    values = _compatibility_values(matrix)
    return float(values[np.tril_indices(len(values))].mean())


def compatibility_margins(matrix: ArrayLike) -> NDArray[np.float64]:
    """(M, M): below the diagonal by how much a newer model beats the older one on its own gallery; elsewhere 0.

    Raises:
        ValueError: not a square matrix of finite numbers, or of a single model.
    """
    values = _compatibility_values(matrix)
    if len(values) < 2:
        raise ValueError("compatibility needs at least two models; the matrix has one")
    return np.tril(values - values.diagonal(), -1)


def _compatibility_values(matrix: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"a compatibility matrix is square, not {values.shape}")
    if not np.isfinite(values[np.tril_indices(len(values))]).all():
        raise ValueError("a compatibility matrix has a number for each pair of the lower triangle")
    return values
