"""Figures of runs against an independent program, ir_measures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir.data.benchmark import Benchmark
from cir.data.protocols import load_official
from cir.eval.report import make_report
from cir.eval.runs import Run, ordered, read_run, write_run


def random_run(benchmark: Benchmark, seed: int, depth: int = 60) -> Run:
    """Random answers with many ties; now and then none, and the reference among them."""
    rng = random.Random(seed)
    pools = {part: sorted(ids) for part, ids in benchmark.galleries.items()}
    run: Run = {}
    for query in benchmark.queries:
        if rng.random() < 0.05:
            continue
        images = pools[query.gallery] or [str(rng.randrange(600_000)) for _ in range(300)]
        helped = [image for image in sorted(query.targets) if rng.random() < 0.5]
        chosen = dict.fromkeys([*helped, query.reference, *rng.sample(images, min(depth, len(images)))])
        scored = [(image, rng.randrange(20) / 8) for image in chosen]
        rng.shuffle(scored)
        run[query.id] = scored
    return run


def write_unordered(path: Path, run: Run) -> None:
    """A foreign run: lines in any order, wrong ranks."""
    lines = [f"{query} Q0 {image} 1 {score} foreign\n" for query, hits in run.items() for image, score in hits]
    path.write_text("".join(lines))


@pytest.mark.parametrize("name", ["fashioniq-val", "fashioniq-val-union", "cirr-val", "circo-val"])
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "real"])
def test_agreement_with_ir_measures(
    name: str, real: bool, official_data: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Success@k, Recall and AP by an independent program; it breaks ties the other way, so it gets ranks as scores."""
    import ir_measures
    from ir_measures import AP, Qrel, ScoredDoc, Success

    root = request.getfixturevalue("shared") / "data" / "annotations" if real else official_data
    benchmark = load_official(name, root / name.split("-")[0], pictures=False)
    write_unordered(tmp_path / "run", random_run(benchmark, seed=len(name)))
    run = read_run(tmp_path / "run")
    report = make_report(benchmark, {"composed": run}, model={}, seconds=0)
    judged = {query.id: query for query in benchmark.queries}
    docs: dict[str, list[Any]] = {query_id: [] for query_id in judged}
    for query_id, hits in run.items():
        order = sorted(hits, key=lambda hit: hit[0])
        order.sort(key=lambda hit: hit[1], reverse=True)
        dropped = judged[query_id].reference if name.startswith("cirr") else None
        kept = [image for image, _ in order if image != dropped]
        docs[query_id] = [ScoredDoc(query_id, image, -float(rank)) for rank, image in enumerate(kept)]

    def theirs(measures: list[Any], queries: list[Any], *, first: bool = False) -> dict[str, float]:
        qrels = [
            Qrel(query.id, image, 1)
            for query in queries
            for image in ([query.first_target] if first else query.targets)
        ]
        found = ir_measures.calc_aggregate(measures, qrels, [doc for query in queries for doc in docs[query.id]])
        return {str(measure): value for measure, value in found.items()}

    if name == "circo-val":
        many = max(len(query.targets) for query in benchmark.queries)
        wanted = [AP @ k for k in (25, 50)]  # below, the divisor is another: min(truths, k)
        assert many <= 25
        for measure, value in theirs(wanted, list(benchmark.queries)).items():
            assert report.metrics[f"m{measure}"].value == pytest.approx(value, abs=1e-9)
        for k in (5, 10):
            few = [query for query in benchmark.queries if len(query.targets) <= k]
            subset = make_report(
                Benchmark(name, name, (), tuple(few), benchmark.measures, keep_reference=True, unlisted=1),
                {"composed": {query.id: run[query.id] for query in few if query.id in run}},
                model={},
                seconds=0,
            )
            assert subset.metrics[f"mAP@{k}"].value == pytest.approx(theirs([AP @ k], few)[f"AP@{k}"], abs=1e-9)
        for measure, value in theirs([Success @ k for k in (5, 10, 25, 50)], list(judged.values()), first=True).items():
            ours = report.metrics[measure.replace("Success", "Recall")].value
            assert ours == pytest.approx(value, abs=1e-9)
        return
    measures = [Success @ measure.k for measure in benchmark.measures if measure.name == "R"]
    parts = {part: theirs(measures, [q for q in judged.values() if q.gallery == part]) for part in benchmark.galleries}
    for their_name in map(str, measures):
        our_name = their_name.replace("Success", "R")
        for part, values in parts.items():
            figures = report.groups[part] if part else report.metrics
            assert figures[our_name].value == pytest.approx(values[their_name], abs=1e-9)
        average = np.mean([values[their_name] for values in parts.values()])
        assert report.metrics[our_name].value == pytest.approx(average, abs=1e-9)


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "real"])
def test_subsets_agree_with_ir_measures(real: bool, official_data: Path, request: pytest.FixtureRequest) -> None:
    """Rs@k of a subset run with ties: Success@k over the members of the subset alone."""
    import ir_measures
    from ir_measures import Qrel, ScoredDoc, Success

    root = request.getfixturevalue("shared") / "data" / "annotations" if real else official_data
    benchmark = load_official("cirr-val", root / "cirr", pictures=False)
    rng = random.Random(5)
    subset_run = {
        query.id: [(image, rng.randrange(4) / 4) for image in rng.sample(query.subset, len(query.subset))]
        for query in benchmark.queries
        if rng.random() < 0.95
    }
    run = {query: ordered(hits) for query, hits in random_run(benchmark, seed=6).items()}
    subset_run = {query: ordered(hits) for query, hits in subset_run.items()}
    report = make_report(benchmark, {"composed": run}, model={}, seconds=0, subset_run=subset_run)
    docs = []
    for query in benchmark.queries:
        members = sorted(hit for hit in subset_run.get(query.id, ()) if hit[0] != query.reference)
        members.sort(key=lambda hit: hit[1], reverse=True)
        docs += [ScoredDoc(query.id, image, -float(rank)) for rank, (image, _) in enumerate(members)]
    qrels = [Qrel(query.id, image, 1) for query in benchmark.queries for image in query.targets]
    for measure, value in ir_measures.calc_aggregate([Success @ k for k in (1, 2, 3)], qrels, docs).items():
        assert report.metrics[str(measure).replace("Success", "Rs")].value == pytest.approx(value, abs=1e-9)


def test_order_of_a_run_is_by_score_then_id(tmp_path: Path) -> None:
    write_unordered(tmp_path / "run", {"q": [("b", 1.0), ("a", 1.0), ("c", 2.0)]})
    assert read_run(tmp_path / "run")["q"] == ordered([("a", 1.0), ("b", 1.0), ("c", 2.0)])
    write_run(tmp_path / "ours", read_run(tmp_path / "run"))
    assert [image for image, _ in read_run(tmp_path / "ours")["q"]] == ["c", "a", "b"]
