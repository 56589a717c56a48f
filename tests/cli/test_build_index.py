"""`cir build-index`: what is added, what metadata an image gets, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from cir.testing.commands import Run, mistake


def test_building_again_adds_only_new_images(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "an.index"
    shutil.copytree(folder / "images", photos)
    (photos / "broken.jpg").write_text("no picture")
    first = cli("build-index", photos, "-o", out, "--model", tiny_model, "--batch-size", 7, "--workers", 3)
    assert first.code == 0
    assert "40 images (40 added, 1 skipped)" in first.out
    assert "broken.jpg: not an image" in first.out
    assert [json.loads(line)["id"] for line in (out / "skipped.jsonl").read_text().splitlines()] == ["broken.jpg"]
    (photos / "00001.jpg").rename(photos / "renamed.jpg")
    (photos / "00002.jpg").unlink()
    Image.new("RGB", (50, 50), "red").save(photos / "new.png")
    planned = cli("build-index", photos, "-o", out, "--dry-run", "--json").json
    assert planned["added"] == ["broken.jpg", "new.png"]  # a dry run reads files and decodes none
    second = cli("build-index", photos, "-o", out, "--json").json  # the index names its model
    assert second["added"] == ["new.png"]
    assert second["renamed"] == [["00001.jpg", "renamed.jpg"]]
    assert second["missing"] == ["00002.jpg"]
    assert second["total"] == 41
    third = cli("build-index", photos, "-o", out, "--prune")
    assert "40 images" in third.out
    assert "were deleted" in third.out


def test_zips_and_several_paths(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pictures"), "zip", folder, "images")
    out = tmp_path / "an.index"
    done = cli("build-index", archive, folder, "-o", out, "--model", tiny_model, "--no-tokens", "--json")
    assert done.json["total"] == 80
    answer = cli("query", out, "-i", "pictures.zip/images/00003.jpg", "-t", "in red", "--json").json
    assert len(answer["hits"]) == 10
    same = cli("query", out, "-i", "photos/images/00003.jpg", "-k", 1, "--json").json
    assert same["hits"][0]["id"] == "pictures.zip/images/00003.jpg"  # the same picture in the zip


def test_metadata_fit_by_id_name_or_stem_or_are_refused(
    cli: Run, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "an.index"
    table.write_text("key,price\nimages/00001.jpg,1\n00002.jpg,2\n00003,3\n99999,4\n")
    build = ["build-index", folder, "-o", out, "--model", tiny_model]
    done = cli(*build, "--metadata", table, "--id-column", "key")
    assert done.code == 0
    assert "1 rows fit no image" in done.err
    for price, stem in (("1", "00001"), ("2", "00002"), ("3", "00003")):
        answer = cli("query", out, "-t", "x", "--where", f"price={price}", "--json").json
        assert [hit["id"] for hit in answer["hits"]] == [f"images/{stem}.jpg"]
    mistake(cli(*build, "--metadata", table), "no column 'id'", "key, price")
    mistake(cli(*build, "--metadata", tmp_path / "no.csv"), "no such file")
    table.write_text("id,price\nzzz,1\n")
    mistake(cli(*build, "--metadata", table), "no row fits")
    table.write_bytes(b"id,price\n\xff\xfe\x00,1\n")
    mistake(cli(*build, "--metadata", table), "not a readable CSV")


def test_metadata_that_fit_two_images_are_refused(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        shutil.copy(folder / "images" / "00001.jpg", tmp_path / "p" / name / "same.jpg")
    (tmp_path / "t.csv").write_text("id,x\nsame,1\n")
    words = ["build-index", tmp_path / "p", "-o", tmp_path / "i", "--model", tiny_model]
    mistake(cli(*words, "--metadata", tmp_path / "t.csv"), "line 2", "fits 2 images")


def test_cells_are_stripped_and_rows_checked(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "i"
    build = ["build-index", folder, "-o", out, "--model", tiny_model, "--metadata", table]
    table.write_text("id, season\n00001, Summer\n")
    assert cli(*build).code == 0
    assert len(cli("query", out, "-t", "x", "--where", "season=summer", "--paths").out.splitlines()) == 1
    table.write_text("id,season\n00001,a\n00001.jpg,b\n")
    mistake(cli(*build), "line 3", "a second row")
    table.write_text("id,season\n00001,a,b\n")
    mistake(cli(*build), "line 2", "more cells")


def test_images_added_without_metadata_are_reported(cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (32, 32), "red").save(photos / "a.png")
    (tmp_path / "table.csv").write_text("id,colour\na,red\n")
    words = ["build-index", photos, "-o", tmp_path / "my.index", "--model", tiny_model]
    assert cli(*words, "--metadata", tmp_path / "table.csv").err == ""
    Image.new("RGB", (32, 32), "blue").save(photos / "b.png")
    assert cli(*words).err == "cir: 1 images were added without metadata; give --metadata again\n"
    assert cli(*words).err == ""
    (photos / "b.png").unlink()
    dry = cli(*words, "--prune", "--dry-run").out
    assert "would be deleted" in dry
    assert "images/s" not in dry


def test_mistakes_leave_nothing_behind(cli: Run, folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    out, empty = tmp_path / "an.index", tmp_path / "empty"
    empty.mkdir()
    mistake(cli("build-index", tmp_path / "nowhere", "-o", out), "no such file or folder", "nowhere")
    mistake(cli("build-index", empty, "-o", out), "no images under", "empty")
    mistake(cli("build-index", folder, "-o", folder, "--model", tiny_model), "photos")
    mistake(cli("build-index", folder), "--output")
    assert not out.exists()
    assert list(empty.iterdir()) == []
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_text("text")
    mistake(cli("build-index", broken, "-o", out, "--model", tiny_model), "none of the 1 images can be used", "a.jpg")
    assert not out.exists()


def test_a_broken_or_unknown_model(cli: Run, folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tensors = load_file(model / "model.safetensors")
    tensors.pop("query_tokens")
    save_file(tensors, model / "model.safetensors")
    mistake(cli("build-index", folder, "-o", tmp_path / "x", "--model", model), "missing: query_tokens")
    mistake(cli("build-index", folder, "-o", tmp_path / "x", "--model", "enormous"), "no model 'enormous'", "small")
    assert not (tmp_path / "x").exists()


def test_what_is_passed_over_is_counted_and_files_are_left_out_on_request(
    cli: Run, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for name in ("00001.jpg", "thumbs/00001.jpg", "2019/00002.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images" / Path(name).name, photos / name)
    for name in ("film.mp4", "notes.txt", "more.txt", "README", ".hidden.jpg"):
        (photos / name).write_text("x")
    build = ["build-index", photos, "-o", tmp_path / "an.index", "--model", tiny_model]
    done = cli(*build, "--exclude", "thumbs", "--exclude", "2019/*")
    assert "1 images (1 added)" in done.out
    (said,) = (line for line in done.out.splitlines() if line.startswith("passed over: "))
    for part in ("2 files excluded on request", "2 .txt files", "1 .mp4 files", "1 files without a suffix", "1 hidden"):
        assert part in said
    assert cli(*build, "--dry-run", "--json").json["passed_over"][".txt files"] == 2
    for name in ("00001.jpg", "thumbs/00001.jpg", "2019/00002.jpg"):
        (photos / name).unlink()
    mistake(cli(*build), "no images under", "passed over: 2 .txt files")


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("\ufeffid;price\n./00001.jpg;1\n00002.jpg;2\n", 2),
        ("id\tprice\nimages\\00001.JPG\t1\n", 1),
        ("id,price\n/nowhere/images/00001.jpg,1\n/nowhere/images/00002.jpg,2\n", 2),
    ],
)
def test_tables_as_people_have_them(
    cli: Run, folder: Path, tiny_model: Path, tmp_path: Path, table: str, rows: int
) -> None:
    (tmp_path / "t.csv").write_text(table, encoding="utf-16")
    words = ["build-index", folder / "images", "-o", tmp_path / "i", "--model", tiny_model]
    assert cli(*words, "--metadata", tmp_path / "t.csv").code == 0
    found = cli("query", tmp_path / "i", "-t", "x", "--where", "price!=", "--json").json
    assert {hit["id"]: hit["metadata"]["price"] for hit in found["hits"]} == {
        f"0000{row}.jpg": str(row) for row in range(1, rows + 1)
    }
