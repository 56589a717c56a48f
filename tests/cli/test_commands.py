"""The commands as a person runs them: what they print, what they write, how they end."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.testing.commands import Run, mistake


@pytest.fixture(scope="module")
def folder(wardrobe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(wardrobe_folder, tmp_path_factory.mktemp("cli") / "photos"))


@pytest.fixture(scope="module")
def index(folder: Path, tiny_model: Path) -> Path:
    """An index made by the command, in another process: the installed entry point works."""
    out = folder.parent / "my.index"
    command = [sys.executable, "-c", "from cir.cli import main; main()", "build-index", folder, "-o", out]
    command += ["--model", tiny_model, "--metadata", folder / "wardrobe.csv"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "40 images (40 added)" in done.stdout
    assert "bytes per image" in done.stdout
    assert done.stderr == ""  # no progress bar where nobody watches
    return out


def test_help_and_version(cli: Run) -> None:
    assert "build-index" in cli("--help").out
    assert cli("query", "-h").code == 0
    assert cli("--version").out.startswith("cir, version ")
    assert "Commands:" in cli().out
    mistake(cli("serve-coffee"), "serve-coffee")
    mistake(cli("query", "--colour", "red"), "--colour", "cir query --help")


def test_build_again_adds_only_what_is_new(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
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
    planned = json.loads(cli("build-index", photos, "-o", out, "--dry-run", "--json").out)
    assert planned["added"] == ["broken.jpg", "new.png"]  # a dry run reads files and decodes none
    second = json.loads(cli("build-index", photos, "-o", out, "--json").out)  # the index knows its model
    assert second["added"] == ["new.png"]
    assert second["renamed"] == [["00001.jpg", "renamed.jpg"]]
    assert second["missing"] == ["00002.jpg"]
    assert second["total"] == 41
    third = cli("build-index", photos, "-o", out, "--prune")
    assert "40 images" in third.out
    assert "were dropped" in third.out


def test_zips_and_several_paths(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pictures"), "zip", folder, "images")
    out = tmp_path / "an.index"
    done = cli("build-index", archive, folder, "-o", out, "--model", tiny_model, "--no-tokens", "--json")
    assert json.loads(done.out)["total"] == 80
    answer = json.loads(cli("query", out, "-i", "pictures.zip/images/00003.jpg", "-t", "in red", "--json").out)
    assert len(answer["hits"]) == 10
    same = json.loads(cli("query", out, "-i", "photos/images/00003.jpg", "-k", 1, "--json").out)
    assert same["hits"][0]["id"] == "pictures.zip/images/00003.jpg"  # the same picture in the zip


def test_query_prints_tables_json_paths_and_sheets(cli: Run, index: Path, folder: Path, tmp_path: Path) -> None:
    asked = ["query", index, "-i", "images/00004.jpg", "-t", "in red, with long sleeves", "-k", 4]
    table = cli(*asked)
    assert table.code == 0
    lines = table.out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    answer = json.loads(cli(*asked, "--json").out)
    assert [hit["id"] for hit in answer["hits"]] == [line.split()[2] for line in lines]
    assert answer["hits"][0]["metadata"]["type"]
    assert answer["model"] == "tiny-1"
    paths = cli(*asked, "--paths").out.splitlines()
    assert paths == [str(folder / hit["id"]) for hit in answer["hits"]]
    for name in ("sheet.png", "sheet.jpg"):
        assert cli(*asked, "--sheet", tmp_path / name).code == 0
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 1000
            assert len(np.unique(np.asarray(sheet.convert("L")))) > 100
    mistake(cli(*asked, "--sheet", tmp_path / "sheet.tiff"), ".png")
    mistake(cli(*asked, "--sheet", tmp_path / "no" / "sheet.png"), "cannot be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.jpg", "sheet.png"]


def test_query_by_text_by_image_with_negatives_and_conditions(cli: Run, index: Path, folder: Path) -> None:
    assert cli("query", index, "-t", "red").code == 0
    assert cli("query", index, "-i", folder / "images" / "00001.jpg").code == 0
    assert (
        cli("query", index, "-i", "images/00001.jpg", "-i", "images/00002.jpg", "-t", "red", "--not", "blue").code == 0
    )
    filtered = json.loads(cli("query", index, "-t", "red", "--where", "pattern=plain", "--json").out)
    assert {hit["metadata"]["pattern"] for hit in filtered["hits"]} == {"plain"}
    nothing = cli("query", index, "-t", "red", "--where", "pattern=tartan")
    assert (nothing.code, nothing.out) == (1, "")


def test_queries_on_stdin_are_answered_in_kind(cli: Run, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        {"id": "a", "references": ["images/00001.jpg"], "text": "in red", "k": 2},
        {"id": 7, "text": "blue", "where": {"pattern": "plain"}},
        {"text": ""},
        {"text": "red", "colour": "red"},
    ]
    given = "\n".join([*map(json.dumps, lines), "", "not json"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    done = cli("query", index, "-")
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 2
    assert answers[0]["id"] == "a"
    assert len(answers[0]["hits"]) == 2
    assert answers[1]["id"] == 7
    assert "line 3: an empty query" in answers[2]["error"]
    assert "line 4: unknown key colour" in answers[3]["error"]
    assert "line 6: not JSON" in answers[4]["error"]
    assert done.err == "cir: 3 lines could not be asked; their answers say why\n"
    for text, code in (('{"text": "red", "where": {"pattern": "none"}}', 1), ("", 1), ('{"text": "red"}', 0)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert cli("query", index, "-").code == code
    nothing = cli("query", index, "-t", "red", "--where", "pattern=none")
    assert (nothing.code, nothing.out) == (1, "")
    assert nothing.err == "cir: nothing found: no image has pattern = none\n"
    mistake(cli("query", index, "-", "-t", "red"), "come from stdin")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "not a query"),
        ('{"text": 5}', '"text" is a string'),
        ('{"text": "a", "k": "many"}', '"k" is a whole number'),
        ('{"text": "a", "where": {"x": null}}', "a string or a whole number"),
        ('{"text": "caf\xe9"}', "not JSON"),
        (r'{"text": "\ud800"}', "not readable as text"),
        ('{"text": "a", "k": 0}', "k is 0"),
        ('{"references": [5]}', "list of strings"),
        ('{"text": "a", "where": "x=y"}', '"where" is an object'),
    ],
)
def test_bad_lines_on_stdin(cli: Run, index: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode("latin-1"))))
    done = cli("query", index, "-")
    assert done.code == 2
    assert message in json.loads(done.out)["error"]


def test_bad_references(cli: Run, index: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is text")
    whole = (folder / "images" / "00001.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (30_000, 30_000)).save(tmp_path / "huge.png")
    assert (tmp_path / "huge.png").stat().st_size < 200_000
    mistake(cli("query", index, "-i", tmp_path / "text.jpg", "-t", "red"), "text.jpg", "not an image")
    mistake(cli("query", index, "-i", tmp_path / "half.jpg", "-t", "red"), "half.jpg", "truncated")
    mistake(cli("query", index, "-i", tmp_path / "huge.png", "-t", "red"), "huge.png", "too large")
    mistake(cli("query", index, "-i", "nowhere.jpg", "-t", "red"), "nowhere.jpg", "ids look like images/")


def test_bad_arguments(cli: Run, index: Path, folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    out, empty = tmp_path / "an.index", tmp_path / "empty"
    empty.mkdir()
    mistake(cli("build-index", tmp_path / "nowhere", "-o", out), "no such file or folder", "nowhere")
    mistake(cli("build-index", empty, "-o", out), "no images under", "empty")
    mistake(cli("build-index", folder, "-o", folder, "--model", tiny_model), "photos")
    mistake(cli("build-index", folder), "--output")
    mistake(cli("query", empty, "-t", "red"), "empty", "build-index")
    mistake(cli("query", tmp_path / "nowhere", "-t", "red"), "nowhere")
    mistake(cli("query", index), "empty query")
    mistake(cli("query", index, "-t", " "), "empty query")
    mistake(cli("query", index, "-t", "red", "-k", 0), "0")
    mistake(cli("query", index, "-t", "red", "--where", "pattern"), "COLUMN=VALUE")
    mistake(cli("query", index, "-t", "red", "--where", "shape=round"), "shape", "pattern")
    mistake(cli("query", index, "-t", "red", "--json", "--paths"), "exclude each other")
    mistake(cli("query", index, "red shirt"), "unexpected argument")
    mistake(cli("query", index, "-t", "red", "--device", "abacus"), "abacus")
    assert not out.exists()
    assert list(empty.iterdir()) == []
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_text("text")
    mistake(cli("build-index", broken, "-o", out, "--model", tiny_model), "none of the 1 images can be used", "a.jpg")
    assert not out.exists()


def test_a_newer_format_and_a_broken_model(
    cli: Run, index: Path, folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    import hashlib

    from safetensors.torch import load_file, save_file

    newer = tmp_path / "newer.index"
    shutil.copytree(index, newer)
    manifest = next((newer / "manifests").glob("*.json"))
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 99}))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    (newer / "CURRENT").write_text(f"{manifest.name} {digest}\n")
    mistake(cli("query", newer, "-t", "red"), "newer", "99")
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tensors = load_file(model / "model.safetensors")
    tensors.pop("query_tokens")
    save_file(tensors, model / "model.safetensors")
    mistake(cli("build-index", folder, "-o", tmp_path / "x", "--model", model), "missing: query_tokens")
    mistake(cli("build-index", folder, "-o", tmp_path / "x", "--model", "enormous"), "no model 'enormous'", "small")
    assert not (tmp_path / "x").exists()


def test_metadata_fits_by_id_name_or_stem_or_is_refused(
    cli: Run, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("key,price\nimages/00001.jpg,1\n00002.jpg,2\n00003,3\n99999,4\n")
    build = ["build-index", folder, "-o", tmp_path / "an.index", "--model", tiny_model]
    done = cli(*build, "--metadata", table, "--id-column", "key")
    assert done.code == 0
    assert "1 rows fit no image" in done.err
    for price, stem in (("1", "00001"), ("2", "00002"), ("3", "00003")):
        answer = json.loads(cli("query", tmp_path / "an.index", "-t", "x", "--where", f"price={price}", "--json").out)
        assert [hit["id"] for hit in answer["hits"]] == [f"images/{stem}.jpg"]
    mistake(cli(*build, "--metadata", table), "no column 'id'", "key, price")
    mistake(cli(*build, "--metadata", tmp_path / "no.csv"), "no such file")
    table.write_text("id,price\nzzz,1\n")
    mistake(cli(*build, "--metadata", table), "no row fits")
    table.write_bytes(b"id,price\n\xff\xfe\x00,1\n")
    mistake(cli(*build, "--metadata", table), "not a readable CSV")


def test_metadata_that_fits_two_images_is_refused(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        shutil.copy(folder / "images" / "00001.jpg", tmp_path / "p" / name / "same.jpg")
    (tmp_path / "t.csv").write_text("id,x\nsame,1\n")
    done = cli(
        "build-index", tmp_path / "p", "-o", tmp_path / "i", "--model", tiny_model, "--metadata", tmp_path / "t.csv"
    )
    mistake(done, "line 2", "fits 2 images")


def test_tables_are_stripped_and_checked(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "i"
    build = ["build-index", folder, "-o", out, "--model", tiny_model, "--metadata", table]
    table.write_text("id, season\n00001, Summer\n")
    assert cli(*build).code == 0
    assert len(cli("query", out, "-t", "x", "--where", "season=summer", "--paths").out.splitlines()) == 1
    table.write_text("id,season\n00001,a\n00001.jpg,b\n")
    mistake(cli(*build), "line 3", "a second row")
    table.write_text("id,season\n00001,a,b\n")
    mistake(cli(*build), "line 2", "more cells")


def test_what_is_there(cli: Run, index: Path, tiny_model: Path, tmp_path: Path) -> None:
    told = cli("info", index).out
    for word in ("40 in 1 segments", "tiny-1", "one vector of 16 and 4 tokens", "pattern", "photos"):
        assert word in told
    assert json.loads(cli("info", index, "--json").out)["images"] == 40
    assert "40 images, nothing wrong" in cli("verify", index).out
    listed = cli("models", "--model-dir", tiny_model.parent).out
    assert "small-3 (alias small)" in listed
    assert "tiny-1" in listed
    assert [model["name"] for model in json.loads(cli("models", "--json").out)] == ["small-3", "small-lite-1"]
    copy = tmp_path / "copy.index"
    shutil.copytree(index, copy)
    gallery = copy / "segments" / "000001" / "gallery.h5"
    data = bytearray(gallery.read_bytes())
    data[-1000] ^= 1
    gallery.write_bytes(data)
    mistake(cli("verify", copy), "gallery.h5")
    mistake(cli("info", tmp_path), "build-index")


def test_a_closed_pipe_is_no_error(index: Path) -> None:
    command = [sys.executable, "-c", "from cir.cli import main; main()", "query", str(index), "-t", "red", "-k", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_demo_draws_searches_and_measures(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = sys.modules["cir.cli.demo"]
    monkeypatch.setattr(demo, "PICTURES", 60)
    monkeypatch.setattr(demo, "EVALUATED", 10)
    monkeypatch.setattr(demo, "ANCHORS", 100)  # too few for a replacement, which is then refused
    monkeypatch.chdir(tmp_path)
    first = cli("demo", "new")
    assert first.code == 0, first.err
    assert sorted(path.name for path in (tmp_path / "new").glob("*.png")) == [f"sheet-{i}.png" for i in (1, 2, 3)]
    assert "composed" in first.out
    assert "refused, nothing was changed: " in first.out
    assert "200 are needed" in first.out
    assert cli("demo", "new").code == 0  # again, on what is there
    pictures = tmp_path / "mine"
    shutil.copytree(tmp_path / "new" / "wardrobe" / "images", pictures)
    own = cli("demo", pictures)
    assert own.code == 0, own.err
    assert len(list((tmp_path / "cir-demo").glob("sheet-*.png"))) == 3
    assert not list(pictures.glob("*.png"))
    (tmp_path / "file").write_text("")
    mistake(cli("demo", tmp_path / "file"), "is a file")


def test_wardrobe_is_never_drawn_over_pictures(cli: Run, folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(folder / "images", tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    mistake(cli("evaluate", "wardrobe", "--data-root", tmp_path / "mine", "--model", tiny_model), "not empty")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    (tmp_path / "mine" / "wardrobe.csv").write_text("id,x\n")
    mistake(cli("evaluate", "wardrobe", "--data-root", tmp_path / "mine", "--model", tiny_model), "not the table")


def test_evaluate_own_pictures(cli: Run, folder: Path, tiny_model: Path, index: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    rows = [
        {"id": f"q{i}", "reference": f"images/{i:05d}.jpg", "caption": "in red", "targets": [f"images/{i + 1:05d}.jpg"]}
        for i in range(1, 11)
    ]
    queries.write_text("\n".join(map(json.dumps, rows)))
    asked = ["evaluate", "jsonl", "--data-root", folder, "--queries", queries]
    report, run = tmp_path / "report.json", tmp_path / "run.trec"
    done = cli(*asked, "--model", tiny_model, "--output", report, "--run", run)
    assert done.code == 0
    for word in ("composed", "image", "text", "sum", "R@10"):
        assert word in done.out
    written = json.loads(report.read_text())
    assert written["queries"] == 10
    assert written["gallery"]["images"] == 40
    assert set(written["baselines"]) == {"image", "text", "sum"}
    assert written["model"]["name"] == "tiny-1"
    assert len(run.read_text().splitlines()) == 10 * 39
    by_index = json.loads(cli(*asked, "--index", index, "--json").out)
    assert by_index["metrics"] == written["metrics"]
    mistake(cli(*asked, "--index", index, "--model", tiny_model), "exclude each other")
    mistake(cli("evaluate", "jsonl", "--data-root", folder), "--queries")
    mistake(cli("evaluate", "products"), "--data-root")
    mistake(cli("evaluate", "products", "--data-root", folder), "styles.csv")
    mistake(cli("evaluate", "imagenet"), "imagenet")


def test_evaluate_refuses_a_gallery_with_a_hole(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(folder / "images", photos)
    (photos / "00009.jpg").write_text("broken")
    (tmp_path / "q.jsonl").write_text('{"id": "a", "reference": "00001.jpg", "caption": "x", "targets": ["00002.jpg"]}')
    asked = ["evaluate", "jsonl", "--data-root", photos, "--queries", tmp_path / "q.jsonl", "--model", tiny_model]
    mistake(cli(*asked), "00009.jpg")


def test_evaluate_products_in_a_small_copy(cli: Run, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
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
    report = json.loads(cli("evaluate", "products", "--data-root", tmp_path, "--model", tiny_model, "--json").out)
    assert report["benchmark"] == "products"
    assert report["protocol"] == "products-val/images"
    assert {"colour", "type", "colour+type", "phrasing:own", "phrasing:train"} <= set(report["groups"])
    again = json.loads(cli("evaluate", "products", "--data-root", tmp_path, "--model", tiny_model, "--json").out)
    assert again["metrics"] == report["metrics"]


def test_a_traceback_is_kept_for_our_own_bugs(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    from cir.cli import main

    monkeypatch.setattr("cir.search.searcher.open_index", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("sys.argv", ["cir", "query", str(index), "-t", "red"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_images_added_without_metadata_are_told(cli: Run, tiny_model: Path, tmp_path: Path) -> None:
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
    assert "would be dropped" in dry
    assert "images/s" not in dry
