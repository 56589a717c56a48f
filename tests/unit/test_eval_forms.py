"""Queries by text alone and by image alone: one row beside chance, and chance is what random rankings score."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir.data.benchmark import Benchmark
from cir.data.judged_query import JudgedQuery
from cir.eval.comparison import compare_runs
from cir.eval.engine import evaluate
from cir.eval.render import render
from cir.eval.report import Figure, Report, make_report
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.search.searcher import Searcher
from cir.stats import Measure, chance, parse_measure, score
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.types import Query

COUNT = 20


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "photos", COUNT)


@pytest.fixture(scope="module")
def searcher(photos: Path) -> Searcher:
    """Twenty pictures behind a model with thresholds for both kinds of queries."""
    encoder = FakeEncoder(tokens=0)
    encoder.card = replace(encoder.card, min_scores={"composed": -1.0, "text": 1.0})
    build(photos, photos.parent / "my.index", encoder)
    return Searcher(Gallery.open(photos.parent / "my.index"), lambda card: encoder)


def benchmark(photos: Path, queries: list[JudgedQuery], measures: str = "R@1 R@5", **more: Any) -> Benchmark:
    return Benchmark(
        "mine", "mine/x", scan([photos]), tuple(queries), tuple(map(parse_measure, measures.split())), **more
    )


def name(number: int) -> str:
    return f"{number:04d}.png"


TEXTS = [JudgedQuery(f"q{n}", "", f"caption {n}", frozenset({name(n)}), groups=("all",)) for n in range(COUNT)]
PICTURES = [replace(query, reference=name((n + 1) % COUNT), caption="") for n, query in enumerate(TEXTS)]


def test_queries_by_text_stand_beside_chance(photos: Path, searcher: Searcher) -> None:
    found = evaluate(benchmark(photos, TEXTS), searcher)
    report = found.report
    assert list(found.runs) == ["composed"]
    assert report.form == "text"
    assert list(report.baselines) == ["chance"]
    assert report.baselines["chance"]["R@5"] == Figure(0.25, (0.25, 0.25))
    assert report.comparison == {}
    assert [line.split()[0] for line in render(report).splitlines()[3:5]] == ["text", "chance"]
    assert "text, by group" in render(report)
    for word in ("composed", "image  ", "sum", "gain"):
        assert word not in render(report)
    hits = searcher.search(Query(text="caption 7", k=5)).hits
    assert [image for image, _ in found.runs["composed"]["q7"]] == [hit.id for hit in hits]


def test_the_threshold_is_that_of_queries_by_text(photos: Path, searcher: Searcher) -> None:
    confidence = evaluate(benchmark(photos, TEXTS), searcher).report.confidence
    assert confidence is not None
    assert (confidence.threshold, confidence.false_alarms) == (1.0, 1.0)
    assert evaluate(benchmark(photos, PICTURES), searcher).report.confidence is None


def test_queries_by_image_stand_beside_chance(photos: Path, searcher: Searcher) -> None:
    report = evaluate(benchmark(photos, PICTURES), searcher).report
    assert (report.form, list(report.baselines)) == ("image", ["chance"])
    assert report.baselines["chance"]["R@5"].value == pytest.approx(5 / 19)  # the reference is not ranked
    kept = evaluate(benchmark(photos, PICTURES, keep_reference=True), searcher).report
    assert kept.baselines["chance"]["R@5"].value == pytest.approx(5 / 20)


def test_one_composed_query_brings_the_baselines_back(photos: Path, searcher: Searcher) -> None:
    for other in (PICTURES[1], replace(TEXTS[1], reference=name(9))):
        found = evaluate(benchmark(photos, [TEXTS[0], other]), searcher)
        assert found.report.form == "composed"
        assert list(found.report.baselines) == ["image", "text", "sum"]


def test_a_foreign_run_is_scored_alike(photos: Path, searcher: Searcher) -> None:
    texts = benchmark(photos, TEXTS, headline=(Measure("R", 5),))
    found = evaluate(texts, searcher)
    report = make_report(texts, found.runs, model={}, seconds=0)
    assert report.metrics == found.report.metrics
    assert report.baselines == found.report.baselines
    assert report.headline is not None
    assert report.headline.baselines["chance"].value == 0.25
    assert "form" in report.to_json()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert render(report).splitlines()[4].split()[-3:] == ["25.0", "±", "0.0"]
    assert compare_runs(texts, found.runs["composed"], {}).a == "A"


def test_missing_photos_are_not_found_by_chance_either(photos: Path) -> None:
    holes = benchmark(photos, TEXTS).without([name(0), name(1)])
    report = make_report(holes, {"composed": {}}, model={}, seconds=0)
    assert report.baselines["chance"]["R@5"].value == pytest.approx(18 / 20 * 5 / 18)
    assert report.baselines["chance"]["R@5"].missing == 2
    for measure, value in (("Recall@1", 1 / 5 / 2), ("mAP@2", (1 / 5 + 1 / 5 / 2) / 2)):
        assert chance(parse_measure(measure), 1, 5, missing=1) == pytest.approx(value)


def test_subsets_have_their_own_chance(photos: Path) -> None:
    subset = (name(0), name(1), name(2), name(3))
    queries = [replace(query, subset=subset) for query in TEXTS[:4]]
    report = make_report(benchmark(photos, queries, "Rs@1 R@1"), {"composed": {}}, model={}, seconds=0, subset_run={})
    assert report.baselines["chance"]["Rs@1"].value == 0.25
    assert report.baselines["chance"]["R@1"].value == pytest.approx(0.05)


@pytest.mark.parametrize("measure", ["R@1", "R@3", "R@9", "Recall@2", "mAP@1", "mAP@3", "mAP@9", "mAP"])
@pytest.mark.parametrize("targets", [1, 2, 4])
def test_chance_is_the_mean_over_all_orders(measure: str, targets: int) -> None:
    images = "abcdef"
    wanted = frozenset(images[:targets])
    values = [score(parse_measure(measure), order, wanted) for order in itertools.permutations(images)]
    assert chance(parse_measure(measure), targets, len(images)) == pytest.approx(np.mean(values))


def test_chance_at_the_ends() -> None:
    assert chance(parse_measure("mAP@10"), 1, 1) == 1.0
    for measure in ("R@3", "Recall@3", "mAP@3", "mAP"):
        assert chance(parse_measure(measure), 0, 5, missing=1) == 0.0
    assert chance(parse_measure("R@50"), 1, 123_403) == pytest.approx(50 / 123_403)


def test_the_digest_of_the_queries_is_that_of_what_is_asked(photos: Path) -> None:
    asked = benchmark(photos, TEXTS).queries_sha256
    assert benchmark(photos, [replace(query, id=f"x{query.id}") for query in reversed(TEXTS)]).queries_sha256 == asked
    for change in ({"caption": "other"}, {"targets": frozenset({name(9)})}, {"reference": name(3)}):
        other = [replace(TEXTS[0], **change), *TEXTS[1:]]  # type: ignore[arg-type]
        assert benchmark(photos, other).queries_sha256 != asked
