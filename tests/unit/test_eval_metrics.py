"""Measures by hand, their properties, and the statistics over queries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir.errors import UsageError
from cir.eval.runs import ordered
from cir.stats import (
    Measure,
    average_precision,
    compare,
    hit_rate,
    interval,
    parse_measure,
    recall,
    score,
)

RANKING = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("text", "targets", "expected"),
    [
        ("R@1", {"b"}, 0.0),
        ("R@2", {"b"}, 1.0),
        ("R@5", {"z"}, 0.0),
        ("R@2", {"b", "z", "y"}, 1.0),
        ("R@50", {"e"}, 1.0),
        ("Recall@2", {"b", "e"}, 0.5),
        ("Recall@5", {"b", "e"}, 1.0),
        ("Recall@5", {"b", "y", "z"}, 1 / 3),
        ("mAP@5", {"a"}, 1.0),
        ("mAP@5", {"d"}, 0.25),
        ("mAP@3", {"d"}, 0.0),
        # Found at ranks 1 and 3 of two: (1/1 + 2/3) / 2.
        ("mAP@5", {"a", "c"}, 5 / 6),
        # Five targets but three places: all three places right is 1, not 3/5.
        ("mAP@3", {"a", "b", "c", "y", "z"}, 1.0),
        # Ranks 2 and 3 of three places, four targets: (1/2 + 2/3) / 3.
        ("mAP@3", {"b", "c", "y", "z"}, 7 / 18),
        # The whole ranking, by trapezoids: at rank 1 (1 + 1) / 2, at rank 3 (1/2 + 2/3) / 2, over two.
        ("mAP", {"a", "c"}, (1 + 7 / 12) / 2),
        # At rank 5 (0 + 1/5) / 2, over two of which one is not ranked.
        ("mAP", {"e", "z"}, 1 / 20),
        ("mAP", {"a", "b", "c", "d", "e"}, 1.0),
    ],
)
def test_values_computed_by_hand(text: str, targets: set[str], expected: float) -> None:
    assert score(parse_measure(text), RANKING, targets) == pytest.approx(expected)


def test_subset_hit_rate_ranks_within_the_subset_only() -> None:
    subset = ("c", "e", "y")
    assert score(Measure("Rs", 1), RANKING, {"e"}, subset) == 0.0
    assert score(Measure("Rs", 2), RANKING, {"e"}, subset) == 1.0
    assert score(Measure("R", 2), RANKING, {"e"}, subset) == 0.0


def test_undefined_values_are_errors() -> None:
    with pytest.raises(UsageError, match="R@1 of a query without targets"):
        score(Measure("R", 1), RANKING, set())
    with pytest.raises(UsageError, match=r"Rs@2 of a query without a subset .* use R@2"):
        score(Measure("Rs", 2), RANKING, {"a"})


@pytest.mark.parametrize("text", ["R@1", "Rs@3", "Recall@50", "mAP@10", "mAP"])
def test_parse_is_the_inverse_of_str(text: str) -> None:
    assert str(parse_measure(text)) == text


@pytest.mark.parametrize("text", ["", "R", "R@", "R@0", "R@-1", "R@01", "R@1.5", "r@1", "AP@5", "R@1 ", "R@\u0661"])
def test_parse_refuses_what_is_no_measure(text: str) -> None:
    with pytest.raises(UsageError, match=r"unknown measure .*R@k.*mAP@k"):
        parse_measure(text)


rankings = st.lists(st.sampled_from("abcdefgh"), unique=True)
target_sets = st.sets(st.sampled_from("abcdefgh"), min_size=1)
ks = st.integers(1, 10)


@given(rankings, target_sets, ks)
def test_hit_rate_and_recall_do_not_fall_with_k(ranking: list[str], targets: set[str], k: int) -> None:
    assert hit_rate(ranking, targets, k) <= hit_rate(ranking, targets, k + 1)
    assert recall(ranking, targets, k) <= recall(ranking, targets, k + 1)


@given(rankings, target_sets, ks)
def test_bounds(ranking: list[str], targets: set[str], k: int) -> None:
    precision = average_precision(ranking, targets, k)
    assert 0 <= precision <= hit_rate(ranking, targets, k)
    assert recall(ranking, targets, k) <= hit_rate(ranking, targets, k)
    assert (precision > 0) == (recall(ranking, targets, k) > 0)


@given(target_sets, ks)
def test_ideal_ranking_has_average_precision_one(targets: set[str], k: int) -> None:
    ideal = sorted(targets) + sorted(set("abcdefgh") - targets)
    assert average_precision(ideal, targets, k) == pytest.approx(1.0)


@given(rankings, st.sampled_from("abcdefgh"), ks)
def test_with_one_target_recall_is_hit_rate_and_ap_the_reciprocal_rank(ranking: list[str], target: str, k: int) -> None:
    assert recall(ranking, {target}, k) == hit_rate(ranking, {target}, k)
    found = target in ranking[:k]
    assert average_precision(ranking, {target}, k) == (1 / (ranking.index(target) + 1) if found else 0)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([0.1, 0.2, 0.3])).flatmap(
        lambda scores: st.tuples(st.just(scores), st.permutations(sorted(scores)))
    ),
    target_sets,
    ks,
)
def test_the_order_in_which_tied_ids_come_does_not_matter(
    case: tuple[dict[str, float], list[str]], targets: set[str], k: int
) -> None:
    scores, permuted = case
    expected = [image for image, _ in ordered(sorted(scores.items()))]
    ranking = [image for image, _ in ordered((image, scores[image]) for image in permuted)]
    assert ranking == expected
    assert all(scores[a] > scores[b] or (scores[a] == scores[b] and a < b) for a, b in pairwise(ranking))
    assert average_precision(ranking, targets, k) == average_precision(expected, targets, k)


def test_interval_is_the_normal_one_for_many_queries() -> None:
    values = np.repeat([0.0, 1.0], [700, 300])
    low, high = interval(values)
    error = np.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx(0.3 - 1.96 * error, abs=0.005)
    assert high == pytest.approx(0.3 + 1.96 * error, abs=0.005)
    assert interval(values) == (low, high)
    assert interval(values, seed=1) != (low, high)


@pytest.mark.slow
def test_interval_covers_the_true_mean_about_95_times_in_a_hundred() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = interval(draw.random(100) < 0.4, seed=trial, resamples=300)
        covered += low <= 0.4 <= high
    assert 180 <= covered <= 198  # 190 expected; four standard errors are 12


def test_interval_of_equal_values_is_a_point() -> None:
    assert interval([1.0] * 7) == (1.0, 1.0)


@pytest.mark.parametrize("values", [[], [[1.0, 0.0]]])
def test_interval_needs_one_value_per_query(values: list[float]) -> None:
    with pytest.raises(UsageError, match="one value per query"):
        interval(values)


def test_compare_finds_a_real_difference() -> None:
    theirs = np.random.default_rng(0).random(400) < 0.4
    ours = theirs.astype(float)
    ours[np.flatnonzero(~theirs)[:20]] = 1  # right on 20 more: 5 points, consistent
    found = compare(ours, theirs)
    assert found.difference == pytest.approx(0.05)
    assert 0 < found.ci95[0] < 0.05 < found.ci95[1]
    assert found.p == pytest.approx(2 / 1001)
    other = compare(theirs, ours)
    assert other.difference == -found.difference
    assert other.p == found.p
    # Unpaired, the same 5 points would drown in the spread of either system.
    assert interval(ours)[0] < interval(theirs)[1]


def test_compare_finds_a_graded_difference_that_flips_no_hit() -> None:
    theirs = np.random.default_rng(0).random(300)
    assert compare(theirs + 0.01, theirs).p < 0.01


@pytest.mark.slow
def test_compare_seldom_finds_what_is_not_there() -> None:
    draw = np.random.default_rng(0)
    alarms = sum(
        compare(draw.random(150) < 0.4, draw.random(150) < 0.4, seed=trial, resamples=200).p < 0.05
        for trial in range(200)
    )
    assert alarms <= 22  # 10 expected; four standard errors are 12


def test_compare_of_equal_systems() -> None:
    assert compare([1], [0]).p == 1  # one query shows nothing
    assert compare([1, 1, 1, 1], [0, 0, 0, 0]).p == 0.125
    assert compare([1, 0, 1], [1, 0, 1]) == (0.0, (0.0, 0.0), 1.0)


def test_compare_needs_the_same_queries() -> None:
    with pytest.raises(UsageError, match="the same queries"):
        compare([1.0, 0.0], [1.0])
