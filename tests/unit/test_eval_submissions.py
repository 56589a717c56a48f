"""Submissions: files that the CIRR and CIRCO servers accept, and everything that they would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cir.data.benchmark import Benchmark
from cir.data.protocols import load_official
from cir.errors import DataError, UsageError
from cir.eval.runs import Run
from cir.eval.submissions import check_circo, check_cirr, encode, make_submission, write_submission


def full_runs(benchmark: Benchmark) -> tuple[Run, Run]:
    run, subsets = {}, {}
    for query in benchmark.queries:
        images = [image for image in sorted(benchmark.searched(query)) if image != query.reference]
        run[query.id] = [(image, -float(rank)) for rank, image in enumerate(images)]
        subsets[query.id] = [hit for hit in run[query.id] if hit[0] in query.subset]
    return run, subsets


def test_the_official_circo_sample_is_a_valid_submission(shared: Path) -> None:
    folder = shared / "data" / "annotations" / "circo"
    content = json.loads((folder / "submission_val.json").read_text())
    benchmark = load_official("circo-val", folder, pictures=False)
    assert len(content) == len(benchmark.queries)
    run = {
        query: [(str(image), -float(rank)) for rank, image in enumerate(images)] for query, images in content.items()
    }
    assert make_submission(benchmark, run, {}) == {"submission_val.json": content}


def test_submissions_are_written_whole_and_sorted(official_data: Path, tmp_path: Path) -> None:
    benchmark = load_official("cirr-test1", official_data / "cirr")
    files = make_submission(benchmark, *full_runs(benchmark))
    paths = write_submission(tmp_path / "new", files)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        content = json.loads(path.read_text())
        assert list(content) == sorted(content)
        assert content == files[path.name]
    circo = load_official("circo-test", official_data / "circo")
    (name,) = numbers = make_submission(circo, *full_runs(circo))
    assert name == "submission_test.json"
    assert all(len(images) == 50 and isinstance(images[0], int) for images in numbers[name].values())
    with pytest.raises(UsageError, match="fashioniq-val has no server"):
        make_submission(load_official("fashioniq-val", official_data / "fashioniq"), {}, {})


CIRR_RULES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda content: content.update(version="rc1"), "version 'rc2'"),
    (lambda content: content.update(metric="mAP"), "metric 'recall'"),
    (lambda content: content.pop("100"), "query '100' is missing; the server wants all 9"),
    (lambda content: content.update({"7": []}), "query '7' is not of this benchmark"),
    (lambda content: content["100"].pop(), "has 49 distinct images, the server wants 50"),
    (lambda content: content["100"].__setitem__(0, content["100"][1]), "has 49 distinct"),
    (lambda content: content["100"].__setitem__(0, "cat"), "names 'cat', which may not be"),
    (lambda content: content.update({"x" * 5_000_001: []}), "the server accepts 5,000,000 at most"),
]


@pytest.mark.parametrize(("spoil", "message"), CIRR_RULES)
def test_what_the_cirr_server_would_refuse(
    official_data: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    benchmark = load_official("cirr-test1", official_data / "cirr", pictures=False)
    content = json.loads(encode(make_submission(benchmark, *full_runs(benchmark))["recall_submission.json"]))
    spoil(content)
    with pytest.raises(DataError, match=message):
        check_cirr(benchmark, content, "file.json")


def test_further_refusals(official_data: Path) -> None:
    benchmark = load_official("cirr-test1", official_data / "cirr", pictures=False)
    run, subsets = full_runs(benchmark)
    subset = json.loads(encode(make_submission(benchmark, run, subsets)["recall_subset_submission.json"]))
    subset["100"][0] = benchmark.queries[0].reference
    with pytest.raises(DataError, match="may not be among its hits"):
        check_cirr(benchmark, subset, "file.json")
    with pytest.raises(DataError, match="has 0 distinct images, the server wants 3"):
        make_submission(benchmark, run, {})
    circo = load_official("circo-val", official_data / "circo", pictures=False)
    numbers = json.loads(encode(make_submission(circo, *full_runs(circo))["submission_val.json"]))
    numbers["0"][0] = "5"
    with pytest.raises(DataError, match="not whole numbers"):
        check_circo(circo, numbers, "file.json")
