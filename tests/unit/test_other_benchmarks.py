"""GeneCIS, Shoes, Fashion200K and i-CIR: what their readers make of the files, and figures of runs with ties."""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir.data.benchmark import Benchmark
from cir.data.check import UNKNOWN, check_data
from cir.data.fashion200k import change
from cir.data.genecis import TASKS
from cir.data.judged_query import JudgedQuery
from cir.data.protocols import load_official
from cir.errors import DataError, MissingImageError
from cir.eval.engine import evaluate, systems_of
from cir.eval.gallery import index_galleries
from cir.eval.report import Report, make_report
from cir.eval.runs import Run, ordered
from cir.indexer.reading.gallery import Gallery
from cir.search.searcher import Searcher
from cir.stats import parse_measure
from cir.testing.benchmark_folders import FEW, write_fashion200k, write_genecis, write_icir, write_shoes
from cir.testing.fakes import FakeEncoder

WRITERS: dict[str, Callable[[Path], Path]] = {
    **{f"genecis-{task}": write_genecis for task in TASKS},
    "genecis": write_genecis,
    "shoes-eval": write_shoes,
    "fashion200k-test": write_fashion200k,
    "icir": write_icir,
}


def random_run(benchmark: Benchmark, seed: int = 0) -> Run:
    """Rankings of all that a query searches, and its reference, with many ties; now and then none, or a part."""
    rng = random.Random(seed)
    run: Run = {}
    for query in benchmark.queries:
        images = sorted({*benchmark.searched(query), query.reference})
        if rng.random() > 0.1:
            kept = rng.sample(images, len(images) - (rng.random() < 0.2) * len(images) // 3)
            run[query.id] = [(image, rng.randrange(5) / 4) for image in kept]
    return run


def ranking_of(run: Run, query: JudgedQuery) -> list[str]:
    return [image for image, _ in sorted(run.get(query.id, []), key=lambda hit: (-hit[1], hit[0]))]


def report_on(benchmark: Benchmark, run: Run) -> Report:
    return make_report(benchmark, {"composed": {q: ordered(hits) for q, hits in run.items()}}, model={}, seconds=0)


@pytest.mark.parametrize("task", ["focus_object", "change_object"])
def test_galleries_are_those_of_the_real_files(shared: Path, task: str) -> None:
    root = shared / "data" / "annotations" / "genecis"
    name = task.replace("_", "-")
    benchmark = load_official(f"genecis-{name}", root, pictures=False)
    entries = json.loads((root / f"{task}.json").read_text())
    assert len(benchmark.queries) == len(entries) == 1960
    for number, (query, entry) in enumerate(zip(benchmark.queries, entries, strict=True)):
        target = str(entry["target"]["val_image_id"])
        others = [str(image["val_image_id"]) for image in entry["gallery"]]
        assert query.id == f"{name}-{number}"
        assert query.reference == str(entry["reference"]["val_image_id"])
        assert (query.caption, query.targets) == (entry["condition"], {target})
        assert benchmark.searched(query) == {target, *others}
        assert query.subset[0] == target
        # The one query of "change" whose target stands in its gallery as well ranks 14 images, all others 15.
        assert len(query.subset) == 15 - (target in others)
    assert sum(len(query.subset) == 14 for query in benchmark.queries) == (task == "change_object")
    assert benchmark.keep_reference


def test_shoes_of_the_real_files(shared: Path) -> None:
    root = shared / "data" / "annotations" / "shoes"
    benchmark = load_official("shoes-eval", root, pictures=False)
    listed = (root / "eval_im_names.txt").read_text().split()
    assert benchmark.galleries == {"": set(listed)}
    entries = json.loads((root / "relative_captions_shoes.json").read_text())
    kept = [e for e in entries if e["ImageName"] in listed and e["ReferenceImageName"] in listed]
    found = [(query.reference, *query.targets, query.caption) for query in benchmark.queries]
    assert found == [(e["ReferenceImageName"], e["ImageName"], e["RelativeCaption"]) for e in kept]
    # One query names its reference as its target; with the reference removed, as in VAL, nobody answers it.
    impossible = [query for query in benchmark.queries if query.reference in query.targets]
    assert len(impossible) == 1
    perfect = {query.id: [(min(query.targets), 1.0)] for query in benchmark.queries}
    assert report_on(benchmark, perfect).metrics["R@1"].value == pytest.approx(1760 / 1761)


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_of_every_benchmark_are_found(name: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path)
    benchmark = load_official(name, root)
    places = {image.id for image in benchmark.images}
    assert places == {*benchmark.gallery, *(query.reference for query in benchmark.queries)}
    assert benchmark.protocol.endswith("reference-kept" if benchmark.keep_reference else "reference-removed")
    assert len(benchmark.queries) == {"genecis": 4 * FEW, "icir": 12}.get(name, FEW)
    first = Path(benchmark.images[0].path)
    first.unlink()
    with pytest.raises(MissingImageError, match=rf"of {name}/.* are missing, first .*cir data check {name}"):
        load_official(name, root)
    with_gaps = load_official(name, root, allow_missing=True)
    assert with_gaps.absent
    assert report_on(with_gaps, {}).missing == len(with_gaps.absent)
    found = check_data(name, root)
    assert found.missing
    assert not found.complete
    assert found.problem == ""


def test_what_an_unknown_digest_says(tmp_path: Path) -> None:
    found = check_data("icir", write_icir(tmp_path))
    assert set(found.files.values()) == {UNKNOWN}
    assert (found.ids, found.missing, found.complete) == (None, (), True)
    alone = check_data("genecis-focus-attribute", write_genecis(tmp_path / "genecis"))
    assert list(alone.files) == ["focus_attribute.json"]


def test_genecis_is_the_mean_over_its_tasks(tmp_path: Path) -> None:
    root = write_genecis(tmp_path)
    whole = load_official("genecis", root, pictures=False)
    run = random_run(whole)
    report = report_on(whole, run)
    alone = {}
    for task in TASKS:
        benchmark = load_official(f"genecis-{task}", root, pictures=False)
        ids = {query.id for query in benchmark.queries}
        alone[task] = report_on(benchmark, {query: hits for query, hits in run.items() if query in ids}).metrics
        assert report.groups[task] == alone[task]
    for k in (1, 2, 3):
        mean = np.mean([figures[f"R@{k}"].value for figures in alone.values()])
        assert report.metrics[f"R@{k}"].value == pytest.approx(mean)
    assert report.gallery.per_query == 8
    assert list(report.gallery.parts) == list(TASKS)
    assert Report.from_json(report.to_json()) == report


def test_entries_with_an_unusual_gallery_are_left_out_as_in_the_official_code(tmp_path: Path) -> None:
    path = write_genecis(tmp_path) / "genecis" / "focus_object.json"
    entries = json.loads(path.read_text())
    del entries[2]["gallery"][0]
    path.write_text(json.dumps(entries))
    found = load_official("genecis-focus-object", tmp_path, pictures=False)
    assert [query.id for query in found.queries] == [f"focus-object-{number}" for number in (0, 1, 3, 4, 5)]


def success(rankings: Sequence[Sequence[str]], targets: Sequence[Any], k: int) -> list[float]:
    return [float(bool(set(ranking[:k]) & set(goal))) for ranking, goal in zip(rankings, targets, strict=True)]


def trapezoids(ranking: Sequence[str], targets: Any) -> float:
    """AP as the area under precision over recall, from the curve's points."""
    right = np.cumsum([image in targets for image in ranking])
    recalls = np.concatenate([[0], right / len(targets)])
    precisions = np.concatenate([[1], right / np.arange(1, len(ranking) + 1)])
    return float(np.sum(np.diff(recalls) * (precisions[1:] + precisions[:-1]) / 2))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_of_runs_with_ties(name: str, seed: int, tmp_path: Path) -> None:
    """Every measure recomputed from the ranking, strata and all; the reference counts where the protocol says so."""
    benchmark = load_official(name, WRITERS[name](tmp_path), pictures=False)
    run = random_run(benchmark, seed)
    report = report_on(benchmark, run)
    by_stratum: dict[str, list[JudgedQuery]] = defaultdict(list)
    for query in benchmark.queries:
        by_stratum[query.gallery].append(query)
    for measure in benchmark.measures:
        means = []
        for queries in by_stratum.values():
            rankings = [ranking_of(run, query) for query in queries]
            if name in ("shoes-eval", "fashion200k-test"):
                rankings = [[i for i in r if i != q.reference] for r, q in zip(rankings, queries, strict=True)]
            targets = [query.targets for query in queries]
            if str(measure) == "mAP":
                means.append(np.mean([trapezoids(*pair) for pair in zip(rankings, targets, strict=True)]))
            else:
                means.append(np.mean(success(rankings, targets, measure.k)))
        assert report.metrics[str(measure)].value == pytest.approx(np.mean(means)), measure
    if name == "shoes-eval":
        assert report.headline is not None
        mean = np.mean([report.metrics[f"R@{k}"].value for k in (1, 10, 50)])
        assert report.headline.figure.value == pytest.approx(mean)


@pytest.mark.parametrize("name", ["genecis-focus-object", "shoes-eval"])
def test_figures_of_the_real_files_agree_with_ir_measures(shared: Path, name: str) -> None:
    import ir_measures
    from ir_measures import Qrel, ScoredDoc, Success

    benchmark = load_official(name, shared / "data" / "annotations" / name.split("-")[0], pictures=False)
    rng = random.Random(3)
    run: Run = {}
    for query in benchmark.queries:
        images = sorted(benchmark.searched(query))
        chosen = {*rng.sample(images, min(60, len(images))), query.reference}
        chosen |= query.targets if rng.random() < 0.5 else set()
        run[query.id] = [(image, rng.randrange(9) / 8) for image in sorted(chosen)]
    report = report_on(benchmark, run)
    docs = []
    for query in benchmark.queries:
        ranking = [i for i in ranking_of(run, query) if benchmark.keep_reference or i != query.reference]
        docs += [ScoredDoc(query.id, image, -float(rank)) for rank, image in enumerate(ranking)]
    qrels = [Qrel(query.id, image, 1) for query in benchmark.queries for image in query.targets]
    wanted = [Success @ measure.k for measure in benchmark.measures]
    for measure, value in ir_measures.calc_aggregate(wanted, qrels, docs).items():
        assert report.metrics[str(measure).replace("Success", "R")].value == pytest.approx(value, abs=1e-9)


def test_targets_of_fashion200k_have_equal_descriptions(tmp_path: Path) -> None:
    root = write_fashion200k(tmp_path)
    benchmark = load_official("fashion200k-test", root, pictures=False)
    described = {}
    for path in (root / "labels").iterdir():
        described |= {line.split("\t")[0]: line.split("\t")[2] for line in path.read_text().splitlines()}
    lines = (root / "test_queries.txt").read_text().splitlines()
    for query, line in zip(benchmark.queries, lines, strict=True):
        reference, target = line.split()
        assert query.reference == reference
        assert query.targets == {photo for photo, text in described.items() if text == described[target]}
        assert query.caption == f"replace {described[reference].split()[0]} with {described[target].split()[0]}"
    assert any(len(query.targets) > 1 for query in benchmark.queries)


@pytest.mark.parametrize(
    ("reference", "target", "caption"),
    [
        ("black silk dress", "black lace dress", "replace silk with lace"),
        ("black silk dress", "red lace dress", "replace black with red"),
        ("silk dress", "silk dress", "replace dress with dress"),
        ("dress", "long dress", "replace dress with long"),
    ],
)
def test_captions_of_fashion200k(reference: str, target: str, caption: str) -> None:
    assert change(reference, target) == caption


def test_icir_searches_the_database_of_the_instance(tmp_path: Path) -> None:
    root = write_icir(tmp_path)
    benchmark = load_official("icir", root, pictures=False)
    with (root / "database_files.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert set(benchmark.galleries) == {"temple", "homer", "mug"}
    for query in benchmark.queries:
        assert benchmark.searched(query) == {image for image, _, instance in rows if instance == query.gallery}
        assert query.targets == {image for image, text, i in rows if (text, i) == (query.caption, query.gallery)}
        assert query.reference.startswith("query/")
    prefixed = "".join(f"./icir_v1.0.0/{line}\n" for line in (root / "database_files.csv").read_text().splitlines())
    (root / "database_files.csv").write_text(prefixed)
    assert load_official("icir", root, pictures=False) == benchmark


BROKEN = [
    ("genecis", "genecis/focus_object.json", '[{"condition": "x"}]', "entry 0 has no 'gallery' of type list"),
    (
        "genecis",
        "genecis/focus_object.json",
        '[{"condition": "x", "gallery": [1], "reference": {"val_image_id": 1}, "target": {"val_image_id": 2}}]',
        "entry 0 names an image without 'val_image_id' of type int",
    ),
    (
        "genecis",
        "genecis/change_attribute.json",
        '[{"condition": "x", "gallery": [], "reference": {"image_id": "../1", "instance_bbox": []}, "target": {}}]',
        "entry 0 names an image without a number as 'image_id'",
    ),
    (
        "genecis",
        "genecis/change_attribute.json",
        '[{"condition": "x", "gallery": [], "reference": {"image_id": 1, "instance_bbox": [1, 2, true, 4]},'
        ' "target": {}}]',
        "entry 0 names an image without 'instance_bbox' of four numbers",
    ),
    ("genecis", "genecis/focus_attribute.json", None, "focus_attribute.json: cannot be read .*cir data check"),
    ("shoes-eval", "eval_im_names.txt", "", "lists no photos"),
    ("shoes-eval", "eval_im_names.txt", "../a.jpg\n", "empty, or leads out of its folder"),
    ("shoes-eval", "eval_im_names.txt", "a/b.jpg\n", "'a/b.jpg' is not the name of a photo"),
    ("shoes-eval", "train_im_names.txt", "x.jpg\n", "entry 6 names .* which is in neither"),
    ("shoes-eval", "relative_captions_shoes.json", "{}", "not a list"),
    ("fashion200k-test", "labels/top_test_detect_all.txt", "a b c\n", ":1: not path, score and description"),
    ("fashion200k-test", "labels/top_test_detect_all.txt", "/a\t1\tb\n", "'/a' is absolute"),
    ("fashion200k-test", "labels/top_test_detect_all.txt", None, "cannot be read"),
    ("fashion200k-test", "test_queries.txt", "a\n", ":1: 1 paths instead of 2"),
    ("fashion200k-test", "test_queries.txt", "a b\n", ":1: 'a' is in no label file"),
    ("fashion200k-test", "test_queries.txt", "", "no queries"),
    ("icir", "query_files.csv", "", "no queries"),
    ("icir", "query_files.csv", "query/a.jpg,at night\n", ":1: not image, text and instance"),
    ("icir", "query_files.csv", "a.jpg,at night,mug\n", ":1: the path 'a.jpg' has no query/ in it"),
    ("icir", "query_files.csv", "query/a.jpg,upside down,mug\n", "no image of the database is 'upside down' of 'mug'"),
    ("icir", "database_files.csv", "database/../../a.jpg,at night,mug\n", "no image of the database|leads out"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BROKEN)
def test_broken_annotations(name: str, file: str, content: str | None, message: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path)
    (root / file).unlink()
    if content is not None:
        (root / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load_official(name, root, pictures=False)


def test_an_unknown_image_in_a_run(tmp_path: Path) -> None:
    """An image of another query's gallery is as foreign as one of nowhere."""
    benchmark = load_official("genecis-focus-object", write_genecis(tmp_path), pictures=False)
    query = benchmark.queries[0]
    elsewhere = min(set(benchmark.gallery) - benchmark.searched(query) - {query.reference})
    for image in (elsewhere, "nowhere"):
        with pytest.raises(DataError, match=rf"1 images are not in benchmark genecis-focus-object .*'{image}'"):
            report_on(benchmark, {query.id: [(image, 1.0)]})


def test_a_gallery_of_its_own_needs_the_target() -> None:
    query = JudgedQuery("q", "r", "x", frozenset({"a"}), subset=("b", "c"))
    galleries = {"": frozenset("abc")}
    whole = Benchmark("x", "x", (), (query,), (parse_measure("R@1"),), galleries=galleries)
    with pytest.raises(MissingImageError, match="query 'q' names 'a', which is not in the gallery"):
        replace(whole, own_galleries=True)
    with pytest.raises(DataError, match="query 'q' has no subset; a gallery of its own needs a subset"):
        replace(whole, queries=(replace(query, subset=()),), own_galleries=True)


def test_every_query_ranks_its_own_gallery(tmp_path: Path) -> None:
    """The engine against inner products of the encoder's vectors, over crops and whole pictures in one index."""
    benchmark = load_official("genecis", write_genecis(tmp_path))
    encoder = FakeEncoder(tokens=0)
    (indexed,) = index_galleries([benchmark], tmp_path / "my.index", encoder)
    gallery = Gallery.open(tmp_path / "my.index")
    found = evaluate(indexed, Searcher(gallery, lambda card: encoder), systems=["text"])
    assert list(found.runs) == ["composed", "text"]
    assert found.subsets == {}
    for query in benchmark.queries:
        assert {image for image, _ in found.runs["composed"][query.id]} <= benchmark.searched(query)
        (vector,) = encoder.encode_texts([query.caption])
        scores = [(image, float(vector @ gallery.image(image).vector)) for image in query.subset]
        best = [image for image, _ in ordered(scores)][: benchmark.depth]
        assert [image for image, _ in found.runs["text"][query.id]] == best
    assert systems_of(encoder.card) == ("image", "text", "sum")
