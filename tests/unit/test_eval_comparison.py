"""Runs scored against official benchmarks, and two runs compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cir.data.benchmark import Benchmark
from cir.data.protocols import load_official
from cir.errors import DataError
from cir.eval.comparison import compare_runs
from cir.eval.render import render_comparison
from cir.eval.report import Report, make_report
from cir.eval.runs import Run
from cir.stats import compare, interval, mean


def test_a_shirt_is_no_answer_to_a_dress(official_data: Path) -> None:
    benchmark = load_official("fashioniq-val", official_data / "fashioniq", pictures=False)
    with pytest.raises(DataError, match=r"1 images are not in benchmark fashioniq-val .*first 'B030'"):
        make_report(benchmark, {"composed": {"dress-0": [("B030", 1.0)]}}, model={}, seconds=0)


def test_cirr_subsets_and_soft_targets(official_data: Path) -> None:
    benchmark = load_official("cirr-val", official_data / "cirr")
    query = benchmark.queries[0]
    (target,), (other,) = query.targets, query.acceptable
    strangers = [image for image in benchmark.gallery if image not in query.subset]
    members = [image for image in query.subset if image not in (target, query.reference)]
    assert other in members
    run = {query.id: [(query.reference, 9.0), (other, 8.0), *((image, 1.0) for image in strangers[:3]), (target, 0.5)]}
    lone = Benchmark(
        "cirr-val", "cirr-val", (), (query,), benchmark.measures,
        galleries=benchmark.galleries, headline=benchmark.headline,
    )  # fmt: skip

    def values(subset_run: Run | None = None) -> tuple[dict[str, float], dict[str, float], Report]:
        report = make_report(lone, {"composed": run}, model={}, seconds=0, subset_run=subset_run)
        hard = {name: figure.value for name, figure in report.metrics.items()}
        return hard, {name: figure.value for name, figure in report.groups["target_soft"].items()}, report

    hard, soft, report = values()
    # The run lacks members of the subset, so nothing is said about Rs@k; the reference took no place.
    assert hard == {"R@1": 0.0, "R@5": 1.0, "R@10": 1.0, "R@50": 1.0}
    assert soft == {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0, "R@50": 1.0}
    assert report.headline is None
    # The subset run decides Rs@k; what is no member takes no place either.
    ranked = [(query.reference, 9.0), (strangers[0], 8.0), (members[0], 7.0), (target, 6.0)]
    hard, _, report = values(subset_run={query.id: ranked})
    assert [hard[f"Rs@{k}"] for k in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert report.headline is not None
    assert (report.headline.name, report.headline.figure.value) == ("(R@5 + Rs@1) / 2", 0.5)


def test_circo_counts_all_truths_and_the_one(official_data: Path) -> None:
    benchmark = load_official("circo-val", official_data / "circo")
    query = benchmark.queries[1]
    others = sorted(query.targets - {query.first_target})
    run = {query.id: [(others[0], 3.0), (others[1], 2.0), (query.first_target, 1.0)]}
    lone = Benchmark(
        "circo-val", "circo-val", (), (query,), benchmark.measures, keep_reference=True, galleries=benchmark.galleries
    )
    report = make_report(lone, {"composed": run}, model={}, seconds=0)
    assert len(query.targets) == 5
    assert report.metrics["mAP@5"].value == pytest.approx(3 / 5)
    assert report.metrics["Recall@5"].value == 1.0
    assert list(benchmark.groups) == ["addition", "negation"]
    assert [image.id for image in benchmark.images][:2] == ["100", "107"]


def test_stratified_figures() -> None:
    values, strata = [1.0] * 90 + [0.0] * 10, ["a"] * 90 + ["b"] * 10
    assert mean(values) == 0.9
    assert mean(values, strata) == 0.5
    assert interval(values, strata=strata) == (0.5, 0.5)  # within each there is no doubt
    low, high = interval(values)
    assert low < 0.9 < high
    found = compare(values, [0.0] * 100, strata=strata)
    assert (found.difference, found.ci95) == (0.5, (0.5, 0.5))
    rng = np.random.default_rng(0)
    noisy = rng.random(100)
    low, high = interval(noisy, strata=strata)
    assert low < mean(noisy, strata) < high
    assert high - low > interval(noisy[:90])[1] - interval(noisy[:90])[0]  # the small stratum weighs half


def test_comparison_of_two_runs(official_data: Path) -> None:
    benchmark = load_official("fashioniq-val", official_data / "fashioniq", pictures=False)
    good: Run = {query.id: [(min(query.targets), 1.0)] for query in benchmark.queries}
    found = compare_runs(benchmark, good, {}, names=("good", "none"))
    assert found.headline is not None
    name, headline = found.headline
    assert name == "(R@10 + R@50) / 2"
    for figure in (found.metrics["R@10"], found.groups["dress"]["R@50"], headline):
        assert (figure.a, figure.b, figure.gain.difference, figure.gain.ci95) == (1.0, 0.0, 1.0, (1.0, 1.0))
        assert figure.gain.p < 0.01
    values = found.to_json()
    assert json.loads(json.dumps(values)) == values
    assert values["headline"] == {"name": name, **values["metrics"]["R@10"]}
    lines = render_comparison(found).splitlines()
    assert lines[:3] == ["fashioniq-val  fashioniq-val/split, 24 queries", "A good", "B none"]
    assert lines[5].split() == ["(R@10", "+", "R@50)", "/", "2", "100.0", "0.0", "+100.0", "±", "0.0", "0.002"]
    same = compare_runs(benchmark, good, good)
    assert {figure.gain.p for figure in same.metrics.values()} == {1.0}
    cirr = load_official("cirr-val", official_data / "cirr", pictures=False)
    without = compare_runs(cirr, {"100": [(min(cirr.queries[0].targets), 1.0)]}, {})
    assert list(without.metrics) == ["R@1", "R@5", "R@10", "R@50"]
    assert without.headline is None
    assert "headline" not in without.to_json()
    subsets: Run = {
        query.id: [(image, -float(rank)) for rank, image in enumerate(sorted(query.subset)) if image != query.reference]
        for query in cirr.queries
    }
    short: Run = {query.id: [(min(query.targets), 1.0)] for query in cirr.queries}
    with_subsets = compare_runs(cirr, short, short, subset_runs=(subsets, {}))
    assert with_subsets.metrics["Rs@3"].a > with_subsets.metrics["Rs@3"].b == 0
    assert with_subsets.headline is not None
    assert with_subsets.headline[0] == "(R@5 + Rs@1) / 2"
    with pytest.raises(DataError, match="queries are not in benchmark"):
        compare_runs(cirr, good, {})
