"""Whole benchmarks against the output of the official code (oracles/sprc-eval).

`data/sprc-eval` is the part of the oracle that comes with the project: all annotations, similarities and metrics, the
pictures of CIRR val and test1, and the tiny official model (word embeddings that no caption uses are zero). From
pictures to metrics is tested on CIRR val everywhere; the pictures of FashionIQ (9.4 MB) are read from ../shared, and
without them its metrics are tested from the official similarities.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cir import devices
from cir.data.benchmark import Benchmark
from cir.data.protocols import load_official
from cir.eval.engine import Evaluation, evaluate
from cir.eval.gallery import index_gallery
from cir.eval.report import Figures, Report, make_report
from cir.eval.runs import Run, read_run, write_run
from cir.eval.submissions import check_cirr, make_submission
from cir.images import Preprocess
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import BuildOptions
from cir.models import PACKAGED
from cir.models.config import VIT_G, SprcConfig
from cir.models.encoder import SprcEncoder
from cir.models.sprc import Sprc
from cir.search.searcher import Searcher
from cir.text import Tokenizer, clean_caption, read_vocabulary
from cir.types import ModelCard

DATA = Path(__file__).parent / "data" / "sprc-eval"
FASHIONIQ, CIRR = "fashionIQ_dataset", "cirr_dataset"
KNOWN = json.loads((DATA / "metrics.json").read_text())
PREDICTIONS = json.loads((DATA / "predictions.json").read_text())
CATEGORIES = ("dress", "shirt", "toptee")


def percent(figures: Figures, *names: str) -> list[float]:
    return [100 * figures[name].value for name in names]


def official_metrics(report: Report) -> None:
    """Every metric of a report is the official one; those are float32, hence the tolerance."""
    if report.benchmark == "cirr-val":
        names = ("Rs@1", "Rs@2", "Rs@3", "R@1", "R@5", "R@10", "R@50")
        assert percent(report.metrics, *names) == pytest.approx(
            KNOWN["cirr_val(group@1,2,3, recall@1,5,10,50)"], rel=1e-6
        )
        return
    for category in CATEGORIES:
        assert percent(report.groups[category], "R@10", "R@50") == pytest.approx(KNOWN[category], rel=1e-6)
    means = [KNOWN["average_recall_at10"], KNOWN["average_recall_at50"]]
    assert percent(report.metrics, "R@10", "R@50") == pytest.approx(means, rel=1e-6)
    assert report.headline is not None
    assert 100 * report.headline.figure.value == pytest.approx(sum(means) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["fashioniq-val", "cirr-val"])
def test_the_official_similarities_score_as_official(name: str, tmp_path: Path) -> None:
    benchmark = load_official(name, DATA / (FASHIONIQ if name.startswith("fashion") else CIRR), pictures=False)
    run: Run = {}
    parts = CATEGORIES if name.startswith("fashion") else ("cirr_val",)
    for part in parts:
        queries = [query for query in benchmark.queries if query.gallery in (part, "")]
        images = PREDICTIONS[part]["index_names"]
        with np.load(DATA / "similarities.npz") as similarities:
            scores = similarities[f"{part}_sim"]
        for query, row in zip(queries, scores, strict=True):
            run[query.id] = sorted(zip(images, map(float, row), strict=True), key=lambda hit: (-hit[1], hit[0]))
    write_run(tmp_path / "run", run)
    report = make_report(benchmark, {"composed": read_run(tmp_path / "run")}, model={}, seconds=0)
    official_metrics(report)


@pytest.mark.parametrize("part", [*CATEGORIES, "cirr_val"])
def test_queries_are_the_official_ones(part: str) -> None:
    if part == "cirr_val":
        queries = load_official("cirr-val", DATA / CIRR, pictures=False).queries
        members = PREDICTIONS[part]["group_members"]
        assert [sorted(query.subset) for query in queries] == [sorted(each) for each in members]
    else:
        benchmark = load_official("fashioniq-val", DATA / FASHIONIQ, pictures=False)
        queries = tuple(query for query in benchmark.queries if query.gallery == part)
        assert benchmark.galleries[part] == set(PREDICTIONS[part]["index_names"])
    known = PREDICTIONS[part]
    assert [clean_caption(query.caption) for query in queries] == known["captions"]
    assert [query.reference for query in queries] == known["references"]
    assert [min(query.targets) for query in queries] == known["targets"]


def test_the_official_submissions_pass_our_checks() -> None:
    benchmark = load_official("cirr-test1", DATA / CIRR, pictures=False)
    for name, content in official_submissions().items():
        check_cirr(benchmark, content, name)


def test_the_submission_files_are_the_official_ones(encoder: SprcEncoder, tmp_path: Path) -> None:
    benchmark = load_official("cirr-test1", DATA / CIRR)
    evaluation, _ = evaluated(benchmark, encoder, tmp_path)
    assert not evaluation.report.metrics
    assert not evaluation.report.baselines
    files = make_submission(benchmark, evaluation.runs["composed"], evaluation.subsets)
    assert files == official_submissions()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashioniq-val", "cirr-val"])
def test_from_pictures_to_official_metrics(
    name: str, encoder: SprcEncoder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "cirr-val":
        folder = DATA / CIRR
    else:
        folder = request.getfixturevalue("shared") / "oracles" / "sprc-eval" / FASHIONIQ
    benchmark = load_official(name, folder)
    evaluation, searcher = evaluated(benchmark, encoder, tmp_path)
    official_metrics(evaluation.report)
    with np.load(DATA / "similarities.npz") as similarities:
        for part in CATEGORIES if benchmark.galleries.keys() == set(CATEGORIES) else ("cirr_val",):
            queries = [query for query in benchmark.queries if query.gallery in (part, "")]
            vectors = searcher.encode([query.query for query in queries])
            images = PREDICTIONS[part]["index_names"]
            ranked = searcher.rank(vectors, len(images), allowed=images)
            ours = np.array([[dict(hits)[image] for image in images] for hits in ranked])
            assert np.abs(ours - similarities[f"{part}_sim"]).max() < 1e-4


def evaluated(benchmark: Benchmark, encoder: SprcEncoder, folder: Path) -> tuple[Evaluation, Searcher]:
    """As `cir evaluate` does it."""
    index_gallery(benchmark, folder / "index", encoder, options=BuildOptions(precision="float32"))
    searcher = Searcher(Gallery.open(folder / "index"), lambda card: encoder)
    return evaluate(benchmark, searcher), searcher


def official_submissions() -> dict[str, dict[str, Any]]:
    """Our name of each file -> its official content."""
    folder = DATA / "submission" / "CIRR"
    names = ("recall_submission", "recall_subset_submission")
    return {f"{name}.json": json.loads((folder / f"{name}_oracle.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def encoder() -> Iterator[SprcEncoder]:
    """The oracle's model in float32, whatever this machine multiplies faster."""
    with np.load(DATA / "model.npz") as arrays:
        state = {key: torch.from_numpy(value) for key, value in arrays.items()}
    config = json.loads((DATA / "model.json").read_text())
    former = config["qformer"]
    sprc = Sprc(
        SprcConfig(
            vision={**VIT_G, **config["vision"], "intermediate_size": len(state[f"{TRUNK}.layers.0.mlp.fc1.weight"])},
            width=former["hidden_size"],
            layers=former["num_hidden_layers"],
            heads=former["num_attention_heads"],
            intermediate=former["intermediate_size"],
        )
    )
    sprc.load_state_dict(state, strict=True)
    sprc.tokenizer = Tokenizer(read_vocabulary(PACKAGED / "vocab.txt"))
    settings = Preprocess()
    card = ModelCard("oracle-1", *[digit * 64 for digit in "abc"], settings.sha256, dims=256, tokens=32, vector=False)
    with devices.full_precision():
        yield SprcEncoder(sprc, card, settings, device=torch.device("cpu"))


TRUNK = "vision.model.encoder"
