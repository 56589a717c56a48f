"""The official benchmarks: what the annotation files say, figures of runs, comparisons, submissions, manifests."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir.errors import DataError, MissingImageError, UsageError
from cir.data.annotations import read_entries, read_names
from cir.data.benchmark import Benchmark, ids_sha256
from cir.eval.comparison import compare_runs, render
from cir.data.fashioniq import join_captions
from cir.data.check import check_data, read_manifest
from cir.stats import compare, interval, mean
from cir.data.protocols import READERS, load_official
from cir.eval.render import render as render_report
from cir.eval.runs import Run, ordered, read_run, write_run
from cir.eval.report import make_report
from cir.eval.submissions import check_circo, check_cirr, encode, make_submission, write_submission

COUNTS = {  # specs of the protocols: queries, images
    "fashioniq-val": ({"dress": (2017, 3817), "shirt": (2038, 6346), "toptee": (1961, 5373)}, 15415),
    "fashioniq-val-union": ({"dress": (2017, 2628), "shirt": (2038, 3089), "toptee": (1961, 2902)}, 8582),
    "cirr-val": ({"": (4181, 2297)}, 2297),
    "cirr-test1": ({"": (4148, 2315)}, 2315),
    "circo-val": ({"": (220, 0)}, 0),
    "circo-test": ({"": (800, 0)}, 0),
}


def folder_of(name: str) -> str:
    return name.split("-")[0]


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


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_real_annotations(shared: Path, name: str) -> None:
    benchmark = load_official(name, shared / "data" / "annotations" / folder_of(name), pictures=False)
    galleries, images = COUNTS[name]
    queries = {part: sum(query.gallery == part for query in benchmark.queries) for part in galleries}
    assert {part: (queries[part], len(benchmark.galleries[part])) for part in galleries} == galleries
    assert len(benchmark.gallery) == images
    assert len({query.id for query in benchmark.queries}) == len(benchmark.queries)
    manifest = read_manifest(name)
    should = manifest["benchmarks"][name]
    assert should["protocol"] == benchmark.protocol
    assert should["queries"] == len(benchmark.queries)
    assert should["images"] == (images or 123_403)
    assert should["sha256"] == benchmark.gallery_sha256
    for part, entry in should.get("galleries", {}).items():
        ids = benchmark.galleries[part]
        assert entry == {"queries": queries[part], "images": len(ids), "sha256": ids_sha256(ids)}
    for file, entry in manifest["files"].items():
        data = (shared / "data" / "annotations" / folder_of(name) / file).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_train_splits_have_manifests_too(shared: Path, tmp_path: Path) -> None:
    annotations = shared / "data" / "annotations"
    found = check_data("fashioniq-train", annotations / "fashioniq")
    assert set(found.files.values()) == {"ok"}
    assert (found.ids, found.problem, len(found.missing)) == (True, "", found.images)
    assert found.manifest["benchmarks"]["fashioniq-train"]["queries"] == 18_000
    root, split = tmp_path / "cirr", Path("image_splits", "split.rc2.train.json")
    for folder in ("captions", "image_splits"):
        (root / folder).mkdir(parents=True)
    (root / split).write_bytes((annotations / "cirr" / split).read_bytes())
    found = check_data("cirr-train", root)
    assert found.files["captions/cap.rc2.train.json"] == "missing"
    assert found.files["image_splits/split.rc2.train.json"] == "ok"
    assert "cap.rc2.train.json" in found.problem
    entry = {"pairid": 1, "reference": "train-11041-2-img0", "target_hard": "train-11041-0-img1", "caption": "older"}
    (root / "captions" / "cap.rc2.train.json").write_text(json.dumps([entry]))
    found = check_data("cirr-train", root)
    assert (found.ids, found.problem, len(found.missing)) == (True, "", 16_939)
    assert "not known" in found.files["captions/cap.rc2.train.json"]


def test_the_official_circo_sample_is_a_valid_submission(shared: Path) -> None:
    folder = shared / "data" / "annotations" / "circo"
    content = json.loads((folder / "submission_val.json").read_text())
    benchmark = load_official("circo-val", folder, pictures=False)
    assert len(content) == len(benchmark.queries)
    run = {
        query: [(str(image), -float(rank)) for rank, image in enumerate(images)] for query, images in content.items()
    }
    assert make_submission(benchmark, run, {}) == {"submission_val.json": content}


@pytest.mark.parametrize("name", ["fashioniq-val", "fashioniq-val-union", "cirr-val", "circo-val"])
@pytest.mark.parametrize("real", [False, True], ids=["small", "real"])
def test_agreement_with_ir_measures(
    name: str, real: bool, official_data: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Success@k, Recall and AP by an independent program; it breaks ties the other way, so it gets ranks as scores."""
    import ir_measures
    from ir_measures import AP, Qrel, ScoredDoc, Success

    root = request.getfixturevalue("shared") / "data" / "annotations" if real else official_data
    benchmark = load_official(name, root / folder_of(name), pictures=False)
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
            assert report["metrics"][f"m{measure}"]["value"] == pytest.approx(value, abs=1e-9)
        for k in (5, 10):
            few = [query for query in benchmark.queries if len(query.targets) <= k]
            subset = make_report(
                Benchmark(name, name, (), tuple(few), benchmark.measures, keep_reference=True, unlisted=1),
                {"composed": {query.id: run[query.id] for query in few if query.id in run}},
                model={},
                seconds=0,
            )
            assert subset["metrics"][f"mAP@{k}"]["value"] == pytest.approx(theirs([AP @ k], few)[f"AP@{k}"], abs=1e-9)
        for measure, value in theirs([Success @ k for k in (5, 10, 25, 50)], list(judged.values()), first=True).items():
            ours = report["metrics"][measure.replace("Success", "Recall")]["value"]
            assert ours == pytest.approx(value, abs=1e-9)
        return
    measures = [Success @ measure.k for measure in benchmark.measures if measure.name == "R"]
    parts = {part: theirs(measures, [q for q in judged.values() if q.gallery == part]) for part in benchmark.galleries}
    for measure in map(str, measures):
        ours = measure.replace("Success", "R")
        for part, values in parts.items():
            figures = report["groups"][part] if part else report["metrics"]
            assert figures[ours]["value"] == pytest.approx(values[measure], abs=1e-9)
        average = np.mean([values[measure] for values in parts.values()])
        assert report["metrics"][ours]["value"] == pytest.approx(average, abs=1e-9)


@pytest.mark.parametrize("real", [False, True], ids=["small", "real"])
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
        assert report["metrics"][str(measure).replace("Success", "Rs")]["value"] == pytest.approx(value, abs=1e-9)


def test_fashioniq_is_three_benchmarks_in_one(official_data: Path) -> None:
    split = load_official("fashioniq-val", official_data / "fashioniq")
    union = load_official("fashioniq-val-union", official_data / "fashioniq")
    assert (split.protocol, union.protocol) == ("fashioniq-val/split", "fashioniq-val/val-union")
    assert all(union.galleries[part] < split.galleries[part] for part in ("dress", "shirt", "toptee"))
    assert split.keep_reference
    assert [query.id for query in split.queries][:2] == ["dress-0", "dress-1"]
    assert split.queries[8].id == "shirt-0"
    assert split.queries[1].caption == "Is red and has 1 stripes"
    suffixes = {Path(image.path).suffix for image in split.images}
    assert suffixes == {".png", ".jpg"}
    report = make_report(split, {"composed": random_run(split, 3)}, model={}, seconds=0)
    parts = [report["groups"][part] for part in ("dress", "shirt", "toptee")]
    for name in ("R@10", "R@50"):
        assert report["metrics"][name]["value"] == pytest.approx(np.mean([part[name]["value"] for part in parts]))
    assert report["headline"]["name"] == "(R@10 + R@50) / 2"
    both = [report["metrics"][name]["value"] for name in ("R@10", "R@50")]
    assert report["headline"]["value"] == pytest.approx(np.mean(both))
    assert report["gallery"]["images"] == 55  # the categories share images
    assert [part["images"] for part in report["gallery"]["parts"].values()] == [20, 20, 20]


def test_empty_captions_are_joined_as_the_official_code_does() -> None:
    assert join_captions(["", "is an off the shoulder top"]) == " and is an off the shoulder top"
    assert join_captions([" ?It, is. ", "b"]) == "It, is and b"


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

    def values(**more: Any) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
        report = make_report(lone, {"composed": run}, model={}, seconds=0, **more)
        soft = report["groups"]["target_soft"]
        return *({k: v["value"] for k, v in each.items()} for each in (report["metrics"], soft)), report

    hard, soft, report = values()
    # The run lacks members of the subset, so nothing is said about Rs@k; the reference took no place.
    assert hard == {"R@1": 0.0, "R@5": 1.0, "R@10": 1.0, "R@50": 1.0}
    assert soft == {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0, "R@50": 1.0}
    assert "headline" not in report
    # The subset run decides Rs@k; what is no member takes no place either.
    ranked = [(query.reference, 9.0), (strangers[0], 8.0), (members[0], 7.0), (target, 6.0)]
    hard, _, report = values(subset_run={query.id: ranked})
    assert [hard[f"Rs@{k}"] for k in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert (report["headline"]["name"], report["headline"]["value"]) == ("(R@5 + Rs@1) / 2", 0.5)


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
    assert report["metrics"]["mAP@5"]["value"] == pytest.approx(3 / 5)
    assert report["metrics"]["Recall@5"]["value"] == 1.0
    assert list(benchmark.groups) == ["addition", "negation"]
    assert [image.id for image in benchmark.images][:2] == ["100", "107"]


def test_circo_without_the_list_of_coco(official_data: Path, tmp_path: Path) -> None:
    shutil.copytree(official_data / "circo" / "annotations", tmp_path / "annotations")
    benchmark = load_official("circo-val", tmp_path, pictures=False)
    report = make_report(benchmark, {"composed": {"0": [("42", 1.0)]}}, model={}, seconds=0)
    assert report["gallery"] == {"images": 123_403, "sha256": None}
    for wrong in ("000000000042", "cat.jpg", "¹"):
        with pytest.raises(DataError, match="1 images are not in benchmark circo-val"):
            make_report(benchmark, {"composed": {"0": [(wrong, 1.0)]}}, model={}, seconds=0)
    with pytest.raises(DataError, match=r"image_info_unlabeled2017\.json: cannot be read .*cir data check"):
        load_official("circo-val", tmp_path)


def test_missing_pictures(official_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "fashioniq"
    shutil.copytree(official_data / "fashioniq", root)
    for picture in (root / "images").glob("B00[0-2].*"):
        picture.unlink()
    with pytest.raises(MissingImageError, match=r"3 of 55 images .* first .*B000 \(\.png or \.jpg\).*--allow-missing"):
        load_official("fashioniq-val", root)
    benchmark = load_official("fashioniq-val", root, allow_missing=True)
    assert benchmark.absent == {"B000", "B001", "B002"}
    assert not benchmark.absent & set(benchmark.gallery)
    report = make_report(benchmark, {"composed": {}}, model={"name": "m"}, seconds=0)
    assert report["missing"] == 3
    assert {figure["missing"] for figures in report["groups"].values() for figure in figures.values()} == {3}
    lines = render_report(report).splitlines()
    assert "3 MISSING" in lines[0]
    assert lines[2].endswith("missing")
    assert [line.split()[-1] for line in lines[3:] if "±" in line] == ["3"] * 4
    shutil.rmtree(root / "images")
    with pytest.raises(MissingImageError, match="55 of 55"):
        load_official("fashioniq-val", root, allow_missing=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("cirr/cirr/captions/cap.rc2.val.json", "{", "not JSON"),
        ("cirr/cirr/captions/cap.rc2.val.json", "{}", "not what it should be"),
        ("cirr/cirr/captions/cap.rc2.val.json", "[]", "lists nothing"),
        ("cirr/cirr/captions/cap.rc2.val.json", '[{"pairid": "1"}]', "entry 0 has no 'pairid' of type int"),
        ("cirr/cirr/captions/cap.rc2.val.json", "[1]", "entry 0 has no 'pairid'"),
        (
            "cirr/cirr/captions/cap.rc2.val.json",
            '[{"pairid": 1, "reference": "", "caption": "", "img_set": {}, "target_hard": "", "target_soft": {}}]',
            "entry 0 has no 'members'",
        ),
        ("cirr/cirr/image_splits/split.rc2.val.json", '{"a": 1}', "not a table"),
        ("cirr/cirr/image_splits/split.rc2.val.json", '{"a": "a.png"}', "names 'dev-.*', which is not in the gallery"),
        ("fashioniq/image_splits/split.dress.val.json", '["a", 1]', "not a list of image names"),
        ("fashioniq/captions/cap.dress.val.json", None, "cannot be read .* --data-root is the data set's own folder"),
        ("circo/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", '{"images": {}}', "lists nothing"),
    ],
)
def test_broken_annotations(official_data: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    shutil.copytree(official_data, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    name = {"cirr": "cirr-val", "fashioniq": "fashioniq-val", "circo": "circo-val"}[file.split("/")[0]]
    with pytest.raises(DataError, match=message):
        load_official(name, tmp_path / folder_of(name))


def test_readers_of_plain_lists(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('["x"]')
    assert read_names(tmp_path / "a") == ["x"]
    with pytest.raises(DataError, match="not what it should be"):
        read_entries(tmp_path / "a", {"id": int}, within="images")


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
    for figures in (found["metrics"]["R@10"], found["groups"]["dress"]["R@50"], found["headline"]):
        assert (figures["a"], figures["b"], figures["difference"], figures["ci95"]) == (1.0, 0.0, 1.0, [1.0, 1.0])
        assert figures["p"] < 0.01
    assert found["headline"]["name"] == "(R@10 + R@50) / 2"
    assert json.loads(json.dumps(found)) == found
    lines = render(found).splitlines()
    assert lines[:3] == ["fashioniq-val  fashioniq-val/split, 24 queries", "A good", "B none"]
    assert lines[5].split() == ["(R@10", "+", "R@50)", "/", "2", "100.0", "0.0", "+100.0", "±", "0.0", "0.002"]
    same = compare_runs(benchmark, good, good)
    assert {figures["p"] for figures in same["metrics"].values()} == {1.0}
    cirr = load_official("cirr-val", official_data / "cirr", pictures=False)
    without = compare_runs(cirr, {"100": [(min(cirr.queries[0].targets), 1.0)]}, {})
    assert list(without["metrics"]) == ["R@1", "R@5", "R@10", "R@50"]
    assert "headline" not in without
    _, subsets = full_runs(cirr)
    short: Run = {query.id: [(min(query.targets), 1.0)] for query in cirr.queries}
    with_subsets = compare_runs(cirr, short, short, subset_runs=(subsets, {}))
    assert with_subsets["metrics"]["Rs@3"]["a"] > with_subsets["metrics"]["Rs@3"]["b"] == 0
    assert with_subsets["headline"]["name"] == "(R@5 + Rs@1) / 2"
    with pytest.raises(DataError, match="queries are not in benchmark"):
        compare_runs(cirr, good, {})


def full_runs(benchmark: Benchmark) -> tuple[Run, Run]:
    run, subsets = {}, {}
    for query in benchmark.queries:
        images = [image for image in sorted(benchmark.searched(query)) if image != query.reference]
        run[query.id] = [(image, -float(rank)) for rank, image in enumerate(images)]
        subsets[query.id] = [hit for hit in run[query.id] if hit[0] in query.subset]
    return run, subsets


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
    (lambda content: content.update({"x" * 5_000_001: []}), "the server takes 5,000,000 at most"),
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
    with pytest.raises(DataError, match="may not be among its answers"):
        check_cirr(benchmark, subset, "file.json")
    with pytest.raises(DataError, match="has 0 distinct images, the server wants 3"):
        make_submission(benchmark, run, {})
    circo = load_official("circo-val", official_data / "circo", pictures=False)
    numbers = json.loads(encode(make_submission(circo, *full_runs(circo))["submission_val.json"]))
    numbers["0"][0] = "5"
    with pytest.raises(DataError, match="not whole numbers"):
        check_circo(circo, numbers, "file.json")


def test_what_of_the_data_is_there(official_data: Path, tmp_path: Path) -> None:
    found = check_data("cirr-val", official_data / "cirr")
    assert set(found.files.values()) == {"not the official file"}
    assert (found.ids, found.missing, found.complete) == (False, (), False)
    (tmp_path / "images").mkdir()
    nothing = check_data("fashioniq-val", tmp_path)
    assert set(nothing.files.values()) == {"missing"}
    assert "cap.dress.val.json: cannot be read" in nothing.problem
    circo = check_data("circo-test", official_data / "circo")
    assert circo.ids is False  # by their number, where there is no digest
    with pytest.raises(DataError, match="no such folder"):
        check_data("circo-val", tmp_path / "gone")


def test_real_annotations_with_pictures_are_complete(shared: Path, tmp_path: Path) -> None:
    annotations = shared / "data" / "annotations" / "cirr"
    for folder in ("captions", "image_splits"):
        (tmp_path / folder).symlink_to(annotations / folder)
    (tmp_path / "dev").mkdir()
    for image in READERS["cirr-val"](tmp_path, True).places:
        (tmp_path / "dev" / f"{image}.png").touch()
    assert check_data("cirr-val", tmp_path).complete
    (tmp_path / "dev" / "dev-1-0-img1.png").unlink()
    found = check_data("cirr-val", tmp_path)
    assert not found.complete
    assert [Path(place).name for place in found.missing] == ["dev-1-0-img1"]


def test_order_of_a_run_is_by_score_then_id(tmp_path: Path) -> None:
    write_unordered(tmp_path / "run", {"q": [("b", 1.0), ("a", 1.0), ("c", 2.0)]})
    assert read_run(tmp_path / "run")["q"] == ordered([("a", 1.0), ("b", 1.0), ("c", 2.0)])
    write_run(tmp_path / "ours", read_run(tmp_path / "run"))
    assert [image for image, _ in read_run(tmp_path / "ours")["q"]] == ["c", "a", "b"]
