"""The engine against random vectors whose right answers are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir import __version__
from cir.arrays import Floats, unit
from cir.data.benchmark import Benchmark
from cir.data.judged_query import JudgedQuery
from cir.errors import MissingImageError
from cir.eval import engine
from cir.eval.engine import evaluate
from cir.eval.report import Confidence, Figure, Report, make_report
from cir.eval.runs import ordered, read_run, write_run
from cir.images import ImageFile
from cir.query_vectors import QueryVectors
from cir.stats import parse_measure
from cir.types import ModelCard, Query

DIMS, SPACE = 32, "space"
GALLERY = [f"i{number:02}" for number in range(40)]
CARD = ModelCard("fake-1", *"wcvp", dims=DIMS, tokens=0, vector=True, sum_weight=0.25)


class Fake:
    """Exact search; a caption "to X" composes to the vector of X, and alone to a vector of its own."""

    def __init__(self, ids: Sequence[str] = GALLERY) -> None:
        self.card = CARD
        self.ids = list(ids)
        self.stored = {name: self.noise(f"image {name}") for name in ids}
        self.encoded: list[Query] = []
        self.batches: list[int] = []
        self.ranked: list[tuple[int, Sequence[str] | None]] = []

    @staticmethod
    def noise(name: str) -> Floats:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        return unit(np.random.default_rng(seed).normal(size=DIMS).astype(np.float32))

    def vector(self, query: Query) -> Floats:
        if query.references and query.text:
            return self.stored[query.text.removeprefix("to ")]
        return self.stored[query.references[0]] if query.references else self.noise(query.text)

    def encode(self, queries: Sequence[Query]) -> QueryVectors:
        self.encoded += queries
        self.batches.append(len(queries))
        return QueryVectors({SPACE: np.stack([self.vector(query) for query in queries])})

    def rank(
        self,
        vectors: QueryVectors,
        k: int,
        *,
        allowed: Sequence[str] | None = None,
        exclude: Sequence[frozenset[str]] | None = None,
    ) -> list[list[tuple[str, float]]]:
        self.ranked.append((k, allowed))
        names = self.ids if allowed is None else allowed
        barred = exclude if exclude is not None else [frozenset()] * len(vectors)
        return [
            ordered((name, float(self.stored[name] @ vector)) for name in names if name not in excluded)[:k]
            for vector, excluded in zip(vectors.by_space[SPACE], barred, strict=True)
        ]

    def rank_one(self, vector: Floats, k: int, **more: Any) -> list[tuple[str, float]]:
        (hits,) = self.rank(QueryVectors({SPACE: vector[None]}), k, **more)
        return hits


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
    assert report.metrics == dict.fromkeys(("R@1", "R@5", "mAP@5"), Figure(1.0, (1.0, 1.0)))
    assert list(report.baselines) == ["image", "text", "sum"]
    for figures in report.baselines.values():
        assert figures["R@5"].value < 0.5
        low, high = figures["R@5"].ci95
        assert low <= figures["R@5"].value <= high
    against = report.comparison["R@5"]
    best = max(figures["R@5"].value for figures in report.baselines.values())
    assert report.baselines[against.baseline]["R@5"].value == best
    assert against.gain.difference == pytest.approx(1 - best)
    assert against.gain.ci95[0] > 0
    assert against.gain.p < 0.01


def test_the_shape_of_the_report() -> None:
    found = evaluate(benchmark([to("q", "i00", "i01", groups=("colour",))], absent=frozenset("xyz")), Fake()).report
    report = found.to_json()
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
    assert Report.from_json(json.loads(json.dumps(report))) == found


def test_the_same_seed_gives_the_same_report() -> None:
    reports = [evaluate(benchmark(RIGHT, "mAP@40"), Fake(), seed=seed).report for seed in (1, 1, 2)]
    first, second, third = (replace(report, seconds=0) for report in reports)
    assert first == second != third


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
        expected = searcher.rank_one(vector, 5, exclude=[frozenset({"i00"})])
        assert [name for name, _ in runs[system]["q"]] == [name for name, _ in expected]
        assert [score for _, score in runs[system]["q"]] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_reference_is_removed_unless_kept() -> None:
    query = [JudgedQuery("q", "i00", "to i00", frozenset({"i01"}))]
    removed, kept = (evaluate(benchmark(query, keep_reference=keep), Fake()).runs for keep in (False, True))
    for system in removed:
        assert "i00" not in dict(removed[system]["q"])
    assert kept["composed"]["q"][0][0] == "i00"


def test_every_distinct_query_is_encoded_once_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCH", 3)
    monkeypatch.setattr(engine, "RANKED_AT_ONCE", 3)
    searcher = Fake()
    queries = [to(f"q{n}", GALLERY[n % 2], GALLERY[10 + n % 4]) for n in range(8)]
    found = evaluate(benchmark(queries), searcher)
    assert len(searcher.encoded) == len(set(searcher.encoded)) == 4 + 2 + 4
    assert max(searcher.batches) == 3
    assert len(searcher.ranked) == 4 * 3
    assert found.report.metrics["R@1"].value == 1.0


def test_depth_is_the_largest_k_and_the_search_is_kept_to_the_gallery() -> None:
    small = Fake()
    evaluate(benchmark(RIGHT, "R@1 mAP@7"), small)
    assert {k for k, _ in small.ranked} == {7}
    assert all(allowed is None for _, allowed in small.ranked)
    large = Fake([*GALLERY, "x1", "x2"])
    runs = evaluate(benchmark(RIGHT, "R@50"), large).runs
    assert all(allowed == GALLERY for _, allowed in large.ranked)
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
    assert report.queries == 1
    assert report.metrics["R@1"].value == 1.0
    assert {name: figures["R@1"].value for name, figures in report.groups.items()} == {"hard": 0.0, "all": 0.5}
    assert list(report.groups) == ["hard", "all"]


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
    assert report.baselines["image"]["R@40"].value == 0.5


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
    metrics = found.report.metrics
    assert (metrics["Rs@1"].value, metrics["Rs@3"].value) == (0.0, 1.0)
    assert searcher.ranked.count((3, subset)) == 4
    ranked = [name for name, _ in hits if name in subset]
    expected = searcher.rank_one(searcher.stored["i10"], 3, allowed=subset)
    assert ranked == [name for name, _ in expected]


def test_subset_members_that_a_search_overlooked_do_not_rise() -> None:
    class Approximate(Fake):
        def rank(self, vectors: QueryVectors, k: int, *, allowed: Any = None, exclude: Any = None) -> Any:
            return super().rank(vectors, k, allowed=GALLERY[:20] if allowed is None else allowed, exclude=exclude)

    query = to("q", "i00", "i30", subset=("i30", "i01"))
    found = evaluate(benchmark([query], "R@5 Rs@1"), Approximate())
    hits = found.runs["composed"]["q"]
    assert [name for name, _ in hits[:5]] == [name for name, _ in hits if name < "i20"][:5]
    assert dict(hits)["i30"] == hits[4][1]
    assert found.report.metrics["R@5"].value == 0.0


def test_a_run_file_scores_as_the_evaluation_did(tmp_path: Path) -> None:
    queries = [to(f"q{n}", GALLERY[n], GALLERY[n + 20], subset=tuple(GALLERY[n + 18 : n + 22])) for n in range(18)]
    with_subsets = benchmark(queries, "R@1 R@5 mAP@5 Rs@1 Rs@2")
    found = evaluate(with_subsets, Fake())
    for system, run in found.runs.items():
        write_run(tmp_path / system, run, tag=system)
        report = make_report(with_subsets, {"composed": read_run(tmp_path / system)}, model={"name": "x"}, seconds=0)
        assert report.metrics == {**found.report.baselines, "composed": found.report.metrics}[system]
        assert (report.baselines, report.model, report.comparison) == ({}, {"name": "x"}, {})
        assert "comparison" not in report.to_json()


def test_how_well_a_threshold_separates() -> None:
    searcher = Fake()
    report = evaluate(benchmark(RIGHT), searcher).report
    assert report.confidence is None
    searcher.card = replace(CARD, min_scores={"composed": 0.9})
    report = evaluate(benchmark(RIGHT), searcher).report
    assert report.confidence == Confidence(0.9, false_alarms=0.0, recognised=1.0)
    searcher.card = replace(CARD, min_scores={"text": 0.9})
    assert evaluate(benchmark(RIGHT), searcher).report.confidence is None


def test_the_sum_is_made_in_every_space() -> None:
    class TwoSpaces(Fake):
        """A second space whose vectors are mirrored."""

        def encode(self, queries: Sequence[Query]) -> QueryVectors:
            vectors = super().encode(queries).by_space[SPACE]
            return QueryVectors({SPACE: vectors, "mirrored": -vectors[:, ::-1]})

        def rank(self, vectors: QueryVectors, k: int, *, allowed: Any = None, exclude: Any = None) -> Any:
            first, second = vectors.by_space.values()
            assert np.allclose(second, -first[:, ::-1], atol=1e-6)
            assert np.linalg.norm(first, axis=1) == pytest.approx(np.ones(len(first)), abs=1e-6)
            return super().rank(QueryVectors({SPACE: first}), k, allowed=allowed, exclude=exclude)

    queries = [*RIGHT, JudgedQuery("alone", "i00", "", frozenset({"i01"}))]
    assert evaluate(benchmark(queries), TwoSpaces()).runs == evaluate(benchmark(queries), Fake()).runs


def test_a_target_may_be_missing_where_the_user_allowed_it() -> None:
    query = JudgedQuery("q", "i00", "to i01", frozenset({"gone"}))
    report = evaluate(benchmark([query], absent=frozenset({"gone"})), Fake()).report
    assert (report.missing, report.metrics["R@5"].value) == (1, 0.0)
