"""Reports: benchmarks that make no sense, foreign runs, tables, files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cir.data.benchmark import Benchmark
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError
from cir.eval.render import render, write_report
from cir.eval.report import (
    BaselineGain,
    Confidence,
    Figure,
    GalleryFacts,
    Headline,
    Precision,
    Report,
    make_report,
)
from cir.eval.runs import Run
from cir.images import ImageFile
from cir.stats import Comparison, parse_measure

GALLERY = [f"i{number:02}" for number in range(40)]


def images(names: Sequence[str] = GALLERY) -> list[ImageFile]:
    return [ImageFile(name, "/root", f"/root/{name}") for name in names]


def benchmark(queries: Sequence[JudgedQuery], measures: str = "R@1 R@5 mAP@5", **more: Any) -> Benchmark:
    pictures = more.pop("images", images())
    return Benchmark(
        "fake", "fake/protocol", pictures, tuple(queries), tuple(map(parse_measure, measures.split())), **more
    )


def to(query_id: str, reference: str, target: str, **more: Any) -> JudgedQuery:
    return JudgedQuery(query_id, reference, f"to {target}", frozenset({target}), **more)


RIGHT = [to(f"q{n}", GALLERY[n], GALLERY[n + 20]) for n in range(20)]


def test_scoring_a_foreign_run() -> None:
    two = benchmark([to("q", "i00", "i01"), to("r", "i02", "i03")], "R@1")

    def value(run: Run, of: Benchmark = two) -> float:
        return make_report(of, {"composed": run}, model={}, seconds=0).metrics["R@1"].value

    # The reference is taken out, and a query without an answer is a miss.
    run = {"q": [("i00", 0.9), ("i01", 0.8)]}
    assert value(run) == 0.5
    assert value(run, benchmark(two.queries, "R@1", keep_reference=True)) == 0.0
    with pytest.raises(DataError, match=r"run: 2 queries are not in benchmark fake \(fake/protocol\), first 'x'"):
        value({"q": [], "x": [], "y": []})
    with pytest.raises(DataError, match=r"run: 1 images are not in benchmark fake .*, first 'i99'"):
        value({"q": [("i99", 1.0)]})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": images([*GALLERY, "i00"])}, DataError, "an image id is in the gallery twice"),
        ({"queries": [RIGHT[0], RIGHT[0]]}, DataError, "two queries have the same id"),
        ({"queries": []}, DataError, "nothing to report"),
        ({"queries": [to("q", "i00", "i01", headline=False)]}, DataError, "nothing to report"),
        ({"measures": ""}, DataError, "nothing to report"),
        ({"measures": "Rs@1"}, DataError, "query 'q0' has no subset"),
        ({"queries": [JudgedQuery("q", "i00", "x", frozenset())]}, DataError, "query 'q' has no targets"),
        (
            {"queries": [to("q", "i00", "x")]},
            MissingImageError,
            "query 'q' names 'x', which is not in the gallery",
        ),
        ({"queries": [to("q", "i00", "i01", subset=("y",))]}, MissingImageError, "query 'q' names 'y'"),
    ],
)
def test_benchmarks_that_make_no_sense(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^benchmark fake: {message}"):
        benchmark(**{"queries": RIGHT, **change})


def figures(first: Figure, second: Figure) -> dict[str, Figure]:
    return {"R@1": first, "mAP@10": second}


REPORT = Report(
    benchmark="mine",
    protocol="jsonl/reference-removed",
    version="0.1.0",
    seconds=12.34,
    queries=2000,
    missing=0,
    model={"name": "small-2"},
    gallery=GalleryFacts(4567, "0"),
    metrics=figures(Figure(0.25, (0.2, 0.3)), Figure(1.0, (0.8, 1.0))),
    groups={"colour, type": figures(Figure(0.1, (0, 0.2)), Figure(0.0, (0, 0)))},
    baselines={"sum": figures(Figure(0.2, (0.1, 0.3)), Figure(0.5, (0.4, 0.6)))},
    comparison={
        "R@1": BaselineGain("sum", Comparison(0.05, (-0.01, 0.11), 0.125)),
        "mAP@10": BaselineGain("sum", Comparison(0.5, (0.4, 0.6), 2 / 1001)),
    },
)


def test_the_table() -> None:
    assert render(REPORT).splitlines() == [
        "mine  jsonl/reference-removed, gallery 4,567 images, 2,000 queries, model small-2, 12.3 s",
        "",
        "% ± 95 %               R@1       mAP@10",
        "composed        25.0 ± 5.0  100.0 ±10.0",
        "sum             20.0 ±10.0   50.0 ±10.0",
        "",
        "gain over best  +5.0 ± 6.0  +50.0 ±10.0",
        "  which is             sum          sum",
        "  paired p           0.125        0.002",
        "",
        "composed, by group",
        "colour, type    10.0 ±10.0    0.0 ± 0.0",
    ]


def test_the_table_of_a_run_file_with_missing_images() -> None:
    plain = replace(REPORT, missing=12, groups={}, baselines={}, comparison={}, model={})
    lines = render(plain).splitlines()
    assert "gallery 4,567 images, 12 MISSING, 2,000 queries, model unknown" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["%", "composed"]


def test_the_table_says_what_a_threshold_is_worth() -> None:
    lines = render(replace(REPORT, confidence=Confidence(0.4567, 0.05, 0.625))).splitlines()
    assert lines[-2:] == [
        "",
        "not confident (best score below 0.457): 5.0% of these queries, 62.5% once their targets are removed",
    ]


def test_a_report_file_holds_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    whole = replace(
        REPORT,
        model={"name": "é"},
        gallery=GalleryFacts(3, None, {"a": GalleryFacts(1, "1"), "b": GalleryFacts(2, "2")}),
        headline=Headline("(R@1 + R@5) / 2", Figure(0.5, (0.4, 0.6), 2), {"sum": Figure(0.25, (0.2, 0.3), 2)}),
        confidence=Confidence(0.4567, 0.05, 0.625),
        precision=Precision("fast", "float16"),
    )
    for report in (REPORT, whole):
        write_report(path, report)
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content == report.to_json()
        assert Report.from_json(content) == report
    assert '"name": "é"' in path.read_text(encoding="utf-8")
    assert content["headline"] == {
        "name": "(R@1 + R@5) / 2", "value": 0.5, "ci95": [0.4, 0.6], "missing": 2,
        "baselines": {"sum": {"value": 0.25, "ci95": [0.2, 0.3], "missing": 2}},
    }  # fmt: skip
