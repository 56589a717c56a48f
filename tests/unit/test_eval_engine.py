"""The engine against random vectors whose right answers are known; benchmarks; scores of runs; reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir import __version__
from cir.errors import DataError, MissingImageError
from cir.eval import engine
from cir.data.benchmark import Benchmark, JudgedQuery
from cir.eval.engine import evaluate
from cir.stats import parse_measure
from cir.eval.render import render, write_report
from cir.eval.runs import ordered, read_run, write_run
from cir.eval.report import make_report
from cir.images import ImageFile
from cir.types import ModelCard, Query

DIMS = 32
GALLERY = [f"i{number:02}" for number in range(40)]
CARD = ModelCard("fake-1", "w", "p", dims=DIMS, tokens=0, vector=True, sum_weight=0.25)


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Fake:
    """An exact index; a caption "to X" composes to the vector of X, and alone to a vector of its own."""

    def __init__(self, ids: Sequence[str] = GALLERY) -> None:
        self.card = CARD
        self.ids = list(ids)
        self.stored = {name: self.noise(f"image {name}") for name in ids}
        self.encoded: list[Query] = []
        self.batches: list[int] = []
        self.asked: list[tuple[int, Sequence[str] | None]] = []

    @staticmethod
    def noise(name: str) -> Any:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        return unit(np.random.default_rng(seed).normal(size=DIMS))

    def vector(self, query: Query) -> Any:
        if query.references and query.text:
            return self.stored[query.text.removeprefix("to ")]
        return self.stored[query.references[0]] if query.references else self.noise(query.text)

    def query_vectors(self, queries: Sequence[Query]) -> Any:
        self.encoded += queries
        self.batches.append(len(queries))
        return np.stack([self.vector(query) for query in queries])

    def rank(
        self, vectors: Any, k: int, *, allowed: Sequence[str] | None, exclude: Sequence[frozenset[str]]
    ) -> list[list[tuple[str, float]]]:
        assert len(vectors) == len(exclude)
        self.asked.append((k, allowed))
        names = self.ids if allowed is None else allowed
        return [
            ordered((name, float(self.stored[name] @ vector)) for name in names if name not in excluded)[:k]
            for vector, excluded in zip(vectors, exclude, strict=True)
        ]


def images(names: Sequence[str] = GALLERY) -> list[ImageFile]:
    return [ImageFile(name, "/root", f"/root/{name}") for name in names]


def benchmark(queries: Sequence[JudgedQuery], measures: str = "R@1 R@5 mAP@5", **more: Any) -> Benchmark:
    return Benchmark(
        "fake",
        "fake/protocol",
        more.pop("images", images()),
        tuple(queries),
        tuple(map(parse_measure, measures.split())),
        **more,
    )


def to(query_id: str, reference: str, target: str, **more: Any) -> JudgedQuery:
    """A query that `Fake` answers perfectly when it is composed."""
    return JudgedQuery(query_id, reference, f"to {target}", frozenset({target}), **more)


RIGHT = [to(f"q{n}", GALLERY[n], GALLERY[n + 20]) for n in range(20)]


def test_perfect_composed_queries_against_baselines_at_chance() -> None:
    found = evaluate(benchmark(RIGHT), Fake())
    report = found.report
    assert report["metrics"] == {name: {"value": 1.0, "ci95": [1.0, 1.0]} for name in ("R@1", "R@5", "mAP@5")}
    assert list(report["baselines"]) == ["image", "text", "sum"]
    for figures in report["baselines"].values():
        assert figures["R@5"]["value"] < 0.5
        low, high = figures["R@5"]["ci95"]
        assert low <= figures["R@5"]["value"] <= high
    comparison = report["comparison"]["R@5"]
    best = max(report["baselines"].values(), key=lambda figures: figures["R@5"]["value"])["R@5"]["value"]
    assert report["baselines"][comparison["baseline"]]["R@5"]["value"] == best
    assert comparison["difference"] == pytest.approx(1 - best)
    assert comparison["ci95"][0] > 0
    assert comparison["p"] < 0.01


def test_the_shape_of_the_report() -> None:
    report = evaluate(benchmark([to("q", "i00", "i01", groups=("colour",))], absent=frozenset("xyz")), Fake()).report
    assert list(report) == [
        "benchmark", "protocol", "version", "seconds", "queries", "missing", "model", "gallery",
        "metrics", "groups", "baselines", "comparison",
    ]  # fmt: skip
    assert (report["benchmark"], report["protocol"], report["version"]) == (
        "fake",
        "fake/protocol",
        __version__,
    )
    assert (report["queries"], report["missing"]) == (1, 3)
    assert report["seconds"] >= 0
    assert report["model"] == CARD.to_json()
    assert report["gallery"] == {
        "images": 40, "sha256": hashlib.sha256("\n".join(GALLERY).encode()).hexdigest(),
    }  # fmt: skip
    assert report["groups"] == {"colour": report["metrics"]}
    assert json.loads(json.dumps(report)) == report


def test_the_same_seed_gives_the_same_report() -> None:
    reports = [evaluate(benchmark(RIGHT, "mAP@40"), Fake(), seed=seed).report for seed in (1, 1, 2)]
    for report in reports:
        report["seconds"] = 0
    assert reports[0] == reports[1] != reports[2]


def test_runs_are_those_of_the_three_baselines() -> None:
    searcher = Fake()
    query = to("q", "i00", "i30")
    runs = evaluate(benchmark([query]), searcher).runs
    image, text = searcher.stored["i00"], searcher.noise("to i30")
    vectors = {
        "composed": searcher.stored["i30"],
        "image": image,
        "text": text,
        "sum": unit(0.25 * image + 0.75 * text),
    }
    assert list(runs) == list(vectors)
    for system, vector in vectors.items():
        (expected,) = searcher.rank(vector[None], 5, allowed=None, exclude=[frozenset({"i00"})])
        assert [name for name, _ in runs[system]["q"]] == [name for name, _ in expected]
        assert [score for _, score in runs[system]["q"]] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_reference_is_removed_unless_kept() -> None:
    query = [JudgedQuery("q", "i00", "to i00", frozenset({"i01"}))]
    removed, kept = (evaluate(benchmark(query, keep_reference=keep), Fake()).runs for keep in (False, True))
    for system in removed:
        assert "i00" not in dict(removed[system]["q"])
    assert kept["composed"]["q"][0][0] == "i00"


def test_each_thing_is_encoded_once_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCH", 3)
    monkeypatch.setattr(engine, "RANKED_AT_ONCE", 3)
    searcher = Fake()
    queries = [to(f"q{n}", GALLERY[n % 2], GALLERY[10 + n % 4]) for n in range(8)]
    found = evaluate(benchmark(queries), searcher)
    assert len(searcher.encoded) == len(set(searcher.encoded)) == 4 + 2 + 4
    assert max(searcher.batches) == 3
    assert len(searcher.asked) == 4 * 3
    assert found.report["metrics"]["R@1"]["value"] == 1.0


def test_depth_is_the_largest_k_and_the_search_is_kept_to_the_gallery() -> None:
    small = Fake()
    evaluate(benchmark(RIGHT, "R@1 mAP@7"), small)
    assert {k for k, _ in small.asked} == {7}
    assert all(allowed is None for _, allowed in small.asked)
    large = Fake([*GALLERY, "x1", "x2"])
    runs = evaluate(benchmark(RIGHT, "R@50"), large).runs
    assert all(allowed == GALLERY for _, allowed in large.asked)
    assert {name for run in runs.values() for hits in run.values() for name, _ in hits} == set(GALLERY)


def test_images_that_are_not_in_the_index() -> None:
    with pytest.raises(
        MissingImageError, match=r"index: 4 of 40 images of benchmark fake .*: i36, i37, i38, \.\.\.; add"
    ):
        evaluate(benchmark(RIGHT), Fake(GALLERY[:36]))
    outside = [JudgedQuery("q", "x", "", frozenset({"i01"}))]
    with pytest.raises(MissingImageError, match=r"1 of 41 images of benchmark fake are not in it: x; add"):
        evaluate(benchmark(outside), Fake())


def test_headline_and_groups() -> None:
    wrong = JudgedQuery("w", "i05", "to i06", frozenset({"i07"}), groups=("hard", "all"), headline=False)
    right = to("r", "i01", "i02", groups=("all",))
    report = evaluate(benchmark([wrong, right], "R@1"), Fake()).report
    assert report["queries"] == 1
    assert report["metrics"]["R@1"]["value"] == 1.0
    assert {name: figures["R@1"]["value"] for name, figures in report["groups"].items()} == {
        "hard": 0.0,
        "all": 0.5,
    }
    assert list(report["groups"]) == ["hard", "all"]


def test_a_query_that_lacks_a_part_gets_no_answer_from_that_baseline() -> None:
    only_image = JudgedQuery("i", "i03", "", frozenset({"i04"}))
    only_text = JudgedQuery("t", "", "warm coat", frozenset({"i04"}))
    searcher = Fake()
    runs = evaluate(benchmark([only_image, only_text], "R@40"), searcher).runs
    assert runs["text"]["i"] == runs["image"]["t"] == []
    assert [name for name, _ in runs["sum"]["i"]] == [name for name, _ in runs["image"]["i"]]
    assert runs["composed"]["i"] == runs["image"]["i"]
    assert [name for name, _ in runs["sum"]["t"]] == [name for name, _ in runs["text"]["t"]]
    assert runs["composed"]["t"] == runs["text"]["t"]
    assert Query() not in searcher.encoded
    report = evaluate(benchmark([only_image, only_text], "R@40"), searcher).report
    assert report["baselines"]["image"]["R@40"]["value"] == 0.5


def test_subsets_are_ranked_to_the_end_whatever_k() -> None:
    subset = ("i10", "i11", "i12")
    # Composed finds i10 at once; among the subset the right one is wherever the vectors put it.
    query = JudgedQuery("q", "i00", "to i10", frozenset({"i12"}), subset=subset)
    searcher = Fake()
    found = evaluate(benchmark([query], "R@2 Rs@1 Rs@3"), searcher)
    hits = found.runs["composed"]["q"]
    assert hits[0][0] == "i10"
    assert {name for name, _ in hits} >= set(subset)
    assert 3 <= len(hits) <= 5
    assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)
    metrics = found.report["metrics"]
    assert (metrics["Rs@1"]["value"], metrics["Rs@3"]["value"]) == (0.0, 1.0)
    assert searcher.asked.count((3, subset)) == 4
    ranked = [name for name, _ in hits if name in subset]
    (expected,) = searcher.rank(searcher.stored["i10"][None], 3, allowed=subset, exclude=[frozenset()])
    assert ranked == [name for name, _ in expected]


def test_subset_members_that_a_search_overlooked_do_not_rise() -> None:
    class Approximate(Fake):
        def rank(self, vectors: Any, k: int, *, allowed: Any, exclude: Any) -> Any:
            blind = GALLERY[:20] if allowed is None else allowed
            return super().rank(vectors, k, allowed=blind, exclude=exclude)

    query = to("q", "i00", "i30", subset=("i30", "i01"))
    found = evaluate(benchmark([query], "R@5 Rs@1"), Approximate())
    hits = found.runs["composed"]["q"]
    assert [name for name, _ in hits[:5]] == [name for name, _ in hits if name < "i20"][:5]
    assert dict(hits)["i30"] == hits[4][1]
    assert found.report["metrics"]["R@5"]["value"] == 0.0


def test_a_run_file_scores_as_the_evaluation_did(tmp_path: Path) -> None:
    queries = [to(f"q{n}", GALLERY[n], GALLERY[n + 20], subset=tuple(GALLERY[n + 18 : n + 22])) for n in range(18)]
    asked = benchmark(queries, "R@1 R@5 mAP@5 Rs@1 Rs@2")
    found = evaluate(asked, Fake())
    for system, run in found.runs.items():
        write_run(tmp_path / system, run, tag=system)
        report = make_report(asked, {"composed": read_run(tmp_path / system)}, model={"name": "x"}, seconds=0)
        assert report["metrics"] == (found.report["baselines"] | {"composed": found.report["metrics"]})[system]
        assert (report["baselines"], report["model"]) == ({}, {"name": "x"})
        assert "comparison" not in report


def test_scoring_a_foreign_run() -> None:
    asked = benchmark([to("q", "i00", "i01"), to("r", "i02", "i03")], "R@1")

    def value(run: dict[str, list[tuple[str, float]]], of: Benchmark = asked) -> float:
        report = make_report(of, {"composed": run}, model={}, seconds=0)
        return float(report["metrics"]["R@1"]["value"])

    # The reference is taken out, and a query without an answer is a miss.
    run = {"q": [("i00", 0.9), ("i01", 0.8)]}
    assert value(run) == 0.5
    assert value(run, benchmark(asked.queries, "R@1", keep_reference=True)) == 0.0
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


def test_a_target_may_be_missing_where_the_user_allowed_it() -> None:
    query = JudgedQuery("q", "i00", "to i01", frozenset({"gone"}))
    report = evaluate(benchmark([query], absent=frozenset({"gone"})), Fake()).report
    assert (report["missing"], report["metrics"]["R@5"]["value"]) == (1, 0.0)


REPORT = {
    "benchmark": "mine",
    "protocol": "jsonl/reference-removed",
    "version": "0.1.0",
    "seconds": 12.34,
    "queries": 2000,
    "missing": 0,
    "model": {"name": "small-2"},
    "gallery": {"images": 4567, "sha256": "0"},
    "metrics": {"R@1": {"value": 0.25, "ci95": [0.2, 0.3]}, "mAP@10": {"value": 1.0, "ci95": [0.8, 1.0]}},
    "groups": {"colour, type": {"R@1": {"value": 0.1, "ci95": [0, 0.2]}, "mAP@10": {"value": 0.0, "ci95": [0, 0]}}},
    "baselines": {"sum": {"R@1": {"value": 0.2, "ci95": [0.1, 0.3]}, "mAP@10": {"value": 0.5, "ci95": [0.4, 0.6]}}},
    "comparison": {
        "R@1": {"baseline": "sum", "difference": 0.05, "ci95": [-0.01, 0.11], "p": 0.125},
        "mAP@10": {"baseline": "sum", "difference": 0.5, "ci95": [0.4, 0.6], "p": 2 / 1001},
    },
}


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
    plain = {**REPORT, "missing": 12, "groups": {}, "baselines": {}, "model": {}}
    del plain["comparison"]
    lines = render(plain).splitlines()
    assert "gallery 4,567 images, 12 MISSING, 2,000 queries, model unknown" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["%", "composed"]


def test_a_report_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, {"z": 1, "a": {"é": [0.5]}})
    assert path.read_text(encoding="utf-8") == '{\n  "z": 1,\n  "a": {\n    "é": [\n      0.5\n    ]\n  }\n}\n'
