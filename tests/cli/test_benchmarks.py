"""Official benchmarks, runs and data sets at the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cir.testing.commands import Run, mistake

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["fashioniq-val", "fashioniq-val-union", "cirr-val", "circo-val"])
def test_a_run_scores_as_it_was_evaluated(
    cli: Run, name: str, official_data: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    tokens_only = make_model(tmp_path / "tokens-1", seed=3, vector=False)
    root, run = official_data / name.split("-")[0], tmp_path / "run.trec"
    done = cli("evaluate", name, "--data-root", root, "--model", tokens_only, "--run", run, "--json")
    assert (done.code, done.err) == (0, "")
    evaluated = json.loads(done.out)
    assert (evaluated["benchmark"], evaluated["missing"]) == (name, 0)
    assert evaluated["precision"] == {"computed": "float32", "stored": "float32"}
    assert set(evaluated["baselines"]) == {"image", "text", "sum"}
    scored = json.loads(cli("score", name, run, "--data-root", root, "--json").out)
    assert scored["metrics"] == evaluated["metrics"]
    assert scored["groups"] == evaluated["groups"]
    assert scored["gallery"] == evaluated["gallery"]
    assert scored.keys() == evaluated.keys() - {"comparison", "precision"}
    assert (scored["model"], scored["baselines"]) == ({"name": "run", "run": "run.trec"}, {})
    if "headline" in scored:
        assert scored["headline"]["value"] == evaluated["headline"]["value"]
    table = cli("score", name, run, "--data-root", root, "--output", tmp_path / "report.json").out
    assert evaluated["protocol"] in table
    assert json.loads((tmp_path / "report.json").read_text())["metrics"] == scored["metrics"]
    same = json.loads(cli("compare", run, run, name, "--data-root", root, "--json").out)
    assert {figures["difference"] for figures in same["metrics"].values()} == {0.0}
    assert "A - B" in cli("compare", run, run, name, "--data-root", root).out


def test_submissions(cli: Run, official_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("cirr-test1", "circo-test", "circo-val"):
        root = official_data / name.split("-")[0]
        done = cli("evaluate", name, "--data-root", root, "--model", tiny_model, "--submission", out)
        assert done.code == 0, done.err
        if name != "circo-val":
            assert "not public" in done.out
    names = ["recall_submission.json", "recall_subset_submission.json", "submission_test.json", "submission_val.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    cirr = {name: json.loads((out / name).read_text()) for name in names[:2]}
    for content, metric, length in zip(cirr.values(), ("recall", "recall_subset"), (50, 3), strict=True):
        assert (content.pop("version"), content.pop("metric")) == ("rc2", metric)
        assert {len(images) for images in content.values()} == {length}
    fashion = official_data / "fashioniq"
    mistake(cli("evaluate", "fashioniq-val", "--data-root", fashion, "--submission", out), "no server", "cirr-test1")
    (tmp_path / "run").write_text("")
    unjudged = cli("score", "cirr-test1", tmp_path / "run", "--data-root", official_data / "cirr")
    mistake(unjudged, "not public", "--submission")


def test_missing_and_broken_pictures(cli: Run, official_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "cirr"
    shutil.copytree(official_data / "cirr", root)
    (root / "test1" / "test1-59-img0.png").unlink()
    (root / "test1" / "test1-58-img0.png").write_bytes(b"not a picture")
    asked = ["evaluate", "cirr-test1", "--data-root", root, "--model", tiny_model]
    mistake(cli(*asked), "1 of 60 images", "test1-59-img0", "cir data check", "--allow-missing")
    allowed = cli(*asked, "--allow-missing")
    assert allowed.code == 0
    assert "58 images, 2 MISSING" in allowed.out
    for number in range(40, 58):
        (root / "test1" / f"test1-{number}-img0.png").unlink()
    refused = cli(*asked, "--allow-missing", "--submission", tmp_path / "out", "--output", tmp_path / "report.json")
    mistake(refused, "distinct images, the server wants 50")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "report.json").exists()
    (root / "dev" / "dev-0-img0.png").write_bytes(b"not a picture")
    asked[1] = "cirr-val"
    mistake(cli(*asked), "1 images of the gallery cannot be read", "--allow-missing")
    report = json.loads(cli(*asked, "--allow-missing", "--json").out)
    assert report["missing"] == report["metrics"]["R@1"]["missing"] == 1


def test_an_index_is_made_once_and_kept(cli: Run, official_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    index = tmp_path / "cirr.index"
    asked = ["evaluate", "cirr-val", "--data-root", official_data / "cirr", "--index", index]
    first = json.loads(cli(*asked, "--model", tiny_model, "--json").out)
    mistake(cli(*asked, "--model", tiny_model), "exclude each other")
    again = json.loads(cli(*asked, "--model-dir", tiny_model.parent, "--json").out)
    assert again["metrics"] == first["metrics"]
    with_gaps = cli(*asked, "--allow-missing", "--json")
    assert json.loads(with_gaps.out)["missing"] == 0


def test_runs_that_lack_their_subsets(cli: Run, official_data: Path, tmp_path: Path) -> None:
    root = official_data / "cirr"
    (tmp_path / "run").write_text("100 Q0 dev-30-img0 1 0.5 mine\n")
    scored = cli("score", "cirr-val", tmp_path / "run", "--data-root", root)
    assert scored.code == 0
    assert "Rs@1" not in scored.out
    assert scored.err.splitlines() == [
        "cir: run answers 1 of 9 queries; the others count as misses",
        "cir: left out: Rs@1, Rs@2, Rs@3; the run lacks members of the subsets: give --subset-run",
    ]
    whole = cli("score", "cirr-val", tmp_path / "run", "--subset-run", tmp_path / "run", "--data-root", root)
    assert "Rs@1" in whole.out
    assert "the subset run lacks members of 9 subsets" in whole.err
    (tmp_path / "empty").write_text("")
    mistake(cli("score", "cirr-val", tmp_path / "empty", "--data-root", root), "empty: no line of a run")
    mistake(
        cli(
            "score",
            "circo-val",
            tmp_path / "run",
            "--subset-run",
            tmp_path / "run",
            "--data-root",
            root.parent / "circo",
        ),
        "no subsets",
    )
    mistake(cli("score", "cirr-val", tmp_path / "gone", "--data-root", root), "gone", "cannot be read")
    mistake(cli("score", "cirr-val", tmp_path / "run"), "--data-root")
    mistake(cli("score", "cirr-val", tmp_path / "run", "--data-root", tmp_path), "cannot be read", "cir data check")
    mistake(cli("score", "wardrobe", tmp_path / "run"), "--data-root")
    mistake(
        cli("compare", tmp_path / "run", tmp_path / "run", "circo-val", "--data-root", root.parent / "circo"), "'100'"
    )


def test_scores_of_other_benchmarks(cli: Run, wardrobe_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cli("evaluate", "wardrobe", "--data-root", wardrobe_folder, "--model", tiny_model, "--run", run, "--json")
    scored = json.loads(cli("score", "wardrobe", run, "--data-root", wardrobe_folder, "--json").out)
    assert scored["metrics"] == json.loads(done.out)["metrics"]


def test_data_check(cli: Run, official_data: Path, tmp_path: Path) -> None:
    found = cli("data", "check", "cirr-val", "--data-root", official_data / "cirr")
    assert (found.code, found.err) == (1, "")
    for words in ("not the official file", "0 of 2,297 missing", "not the official list", "nlvr", "licence"):
        assert words in found.out
    (tmp_path / "images").mkdir()
    for folder in ("captions", "image_splits"):
        shutil.copytree(official_data / "fashioniq" / folder, tmp_path / folder)
    found = json.loads(cli("data", "check", "fashioniq-val", "--data-root", tmp_path, "--json").out)
    assert (found["complete"], len(found["missing"])) == (False, 55)
    assert "and 50 more" in cli("data", "check", "fashioniq-val", "--data-root", tmp_path).out
    nothing = cli("data", "check", "circo-val", "--data-root", tmp_path)
    assert nothing.code == 1
    assert "problem" in nothing.out
    mistake(cli("data", "check", "circo-val", "--data-root", tmp_path / "gone"), "no such folder")


def test_data_check_of_whole_data(cli: Run, shared: Path, tmp_path: Path) -> None:
    for folder in ("captions", "image_splits"):
        (tmp_path / folder).symlink_to(shared / "data" / "annotations" / "cirr" / folder)
    (tmp_path / "test1").mkdir()
    for name in json.loads((tmp_path / "image_splits" / "split.rc2.test1.json").read_text()):
        (tmp_path / "test1" / f"{name}.jpg").touch()
    found = cli("data", "check", "cirr-test1", "--data-root", tmp_path)
    assert (found.code, found.out.splitlines()[-1]) == (0, "complete")
