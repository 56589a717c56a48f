"""`cir evaluate` on pictures of one's own, on products and on wardrobes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cir.testing.commands import Run, mistake


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """Ten judged queries about the garments."""
    path = tmp_path / "queries.jsonl"
    rows = [
        {"id": f"q{i}", "reference": f"images/{i:05d}.jpg", "caption": "in red", "targets": [f"images/{i + 1:05d}.jpg"]}
        for i in range(1, 11)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_own_pictures(
    cli: Run, folder: Path, tiny_model: Path, wardrobe_index: Path, queries: Path, tmp_path: Path
) -> None:
    words = ["evaluate", "jsonl", "--data-root", folder, "--queries", queries]
    report, run = tmp_path / "report.json", tmp_path / "run.trec"
    done = cli(*words, "--model", tiny_model, "--output", report, "--run", run)
    assert done.code == 0, done.err
    for word in ("composed", "image", "text", "sum", "R@10"):
        assert word in done.out
    written = json.loads(report.read_text())
    assert written["queries"] == 10
    assert written["gallery"]["images"] == 40
    assert set(written["baselines"]) == {"image", "text", "sum"}
    assert written["model"]["name"] == "tiny-1"
    assert len(run.read_text().splitlines()) == 10 * 39
    by_index = cli(*words, "--index", wardrobe_index, "--json").json
    assert by_index["metrics"] == written["metrics"]


def test_mistakes(
    cli: Run, folder: Path, tiny_model: Path, wardrobe_index: Path, queries: Path, tmp_path: Path
) -> None:
    words = ["evaluate", "jsonl", "--data-root", folder, "--queries", queries]
    mistake(cli(*words, "--index", wardrobe_index, "--model", tiny_model), "exclude each other")
    mistake(cli(*words, "--index", tmp_path), "not an index")
    mistake(cli("evaluate", "jsonl", "--data-root", folder), "--queries")
    mistake(cli("evaluate", "products"), "--data-root")
    mistake(cli("evaluate", "products", "--data-root", folder), "styles.csv")
    mistake(cli("evaluate", "imagenet"), "imagenet")


def test_a_gallery_with_a_hole_is_refused(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(folder / "images", photos)
    (photos / "00009.jpg").write_text("broken")
    (tmp_path / "q.jsonl").write_text('{"id": "a", "reference": "00001.jpg", "caption": "x", "targets": ["00002.jpg"]}')
    words = ["evaluate", "jsonl", "--data-root", photos, "--queries", tmp_path / "q.jsonl", "--model", tiny_model]
    mistake(cli(*words), "00009.jpg")


def test_a_wardrobe_is_never_drawn_over_pictures(cli: Run, folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(folder / "images", mine)
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    mistake(cli("evaluate", "wardrobe", "--data-root", mine, "--model", tiny_model), "not empty")
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before
    (mine / "wardrobe.csv").write_text("id,x\n")
    mistake(cli("evaluate", "wardrobe", "--data-root", mine, "--model", tiny_model), "not the table")


@pytest.mark.slow
def test_products_in_a_small_copy(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A made-up data set in the Kaggle layout: every picture has a row, some are of the split."""
    (tmp_path / "images").mkdir()
    rows = ["id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"]
    for number, source in enumerate(sorted((folder / "images").iterdir()), start=1000):
        for copy in range(5):
            product = number * 10 + copy
            shutil.copy(source, tmp_path / "images" / f"{product}.jpg")
            colour, kind = ("Red", "Blue", "Green")[product % 3], ("Shirts", "Jeans")[product % 2]
            rows.append(f"{product},Men,Apparel,Topwear,{kind},{colour},Fall,2011,Casual,a name")
    (tmp_path / "styles.csv").write_text("\n".join(rows))
    words = ["evaluate", "products", "--data-root", tmp_path, "--model", tiny_model, "--json"]
    report = cli(*words).json
    assert report["benchmark"] == "products"
    assert report["protocol"] == "products-val/images"
    assert {"colour", "type", "colour+type", "phrasing:own", "phrasing:train"} <= set(report["groups"])
    assert cli(*words).json["metrics"] == report["metrics"]
