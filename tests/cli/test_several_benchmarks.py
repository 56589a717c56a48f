"""`cir evaluate` on GeneCIS, Shoes, Fashion200K and i-CIR, and on several benchmarks in one call."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cir.testing import hub_models
from cir.testing.benchmark_folders import write_fashion200k, write_genecis, write_icir, write_shoes
from cir.testing.commands import Run, mistake

TASKS = ("focus", "change")
NAMES = ("genecis", "genecis-change-attribute", "shoes-eval", "fashion200k-test", "icir", "cirr-val")


@pytest.fixture(scope="module")
def data(official_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each data set. No test may change them."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, write in {
        "genecis": write_genecis,
        "shoes": write_shoes,
        "fashion200k": write_fashion200k,
        "icir": write_icir,
    }.items():
        write(folder / name)
    shutil.copytree(official_data / "cirr", folder / "cirr")
    return folder


def roots(data: Path, *names: str) -> list[str | Path]:
    words: list[str | Path] = []
    for name in dict.fromkeys(name.partition("-")[0] for name in names):
        words += ["--data-root", f"{name}={data / name}"]
    return words


def test_several_at_once_equal_each_alone(cli: Run, data: Path, tiny_model: Path, tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "report.json"
    words = ["evaluate", ",".join(NAMES), *roots(data, *NAMES), "--model", tiny_model]
    done = cli(*words, "--output", output, "--run", runs, "--table", tmp_path / "t.md", "--table", tmp_path / "t.tex")
    assert (done.code, done.err) == (0, ""), done.err
    assert done.out.splitlines()[0].startswith("6 benchmarks, model tiny-1, ")
    for title in (
        "genecis/reference-kept: 8 images for each query, of 135, 24 queries",
        "shoes-eval/reference-removed: gallery 12 images, 6 queries",
        "icir/reference-kept: gallery 33 images, 12 queries",
        "cirr-val: gallery 60 images, 9 queries",
    ):
        assert f"\n{title}" in done.out
    assert len([line for line in done.out.splitlines() if line.startswith("composed ")]) == len(NAMES)
    together = json.loads(output.read_text())["benchmarks"]
    assert tuple(together) == NAMES
    assert sorted(path.name for path in runs.iterdir()) == sorted(f"{name}.trec" for name in NAMES)
    for name in NAMES:
        root = data / name.partition("-")[0]
        alone = cli("evaluate", name, "--data-root", root, "--model", tiny_model, "--json").json
        scored = cli("score", name, runs / f"{name}.trec", "--data-root", root, "--json").json
        assert together[name]["metrics"] == alone["metrics"] == scored["metrics"]
        assert together[name]["baselines"] == alone["baselines"]
        assert together[name]["gallery"] == alone["gallery"] == scored["gallery"]
        assert together[name]["precision"] == {"computed": "float32", "stored": "float32"}


def test_pictures_are_encoded_once(cli: Run, data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The two object tasks share photos: the index holds each once."""
    names = ("genecis-focus-object", "genecis-change-object")
    index = tmp_path / "kept.index"
    words = ["evaluate", ",".join(names), *roots(data, *names), "--index", index]
    first = cli(*words, "--model", tiny_model, "--json").json
    indexed = cli("export", index, "-o", tmp_path / "vectors.npy", "--ids", tmp_path / "ids.txt")
    assert indexed.code == 0, indexed.err
    named = [re.findall(r"\d+", (data / "genecis/genecis" / f"{task}_object.json").read_text()) for task in TASKS]
    numbers = [{number for number in numbers if len(number) == 3} for numbers in named]
    assert numbers[0] & numbers[1]
    assert sorted((tmp_path / "ids.txt").read_text().split()) == sorted(numbers[0] | numbers[1])
    again = cli(*words, "--model-dir", tiny_model.parent, "--json").json
    for name in names:
        assert again["benchmarks"][name]["metrics"] == first["benchmarks"][name]["metrics"]


def test_tables_for_papers(cli: Run, data: Path, official_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    markdown, latex = tmp_path / "t.md", tmp_path / "t.tex"
    names = ("genecis-focus-object", "shoes-eval", "fashioniq-val", "cirr-test1")
    words = ["evaluate", ",".join(names), *roots(data, *names[:2]), "--data-root", f"cirr={official_data / 'cirr'}"]
    words += ["--data-root", f"fashioniq={official_data / 'fashioniq'}", "--model", tiny_model]
    done = cli(*words, "--table", markdown, "--table", latex, "--composition", "text,image")
    assert (done.code, done.err) == (0, "")
    assert "The targets are not public" in done.out
    lines = markdown.read_text().splitlines()
    head, rule, *rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert head[:4] == ["%", *(f"genecis-focus-object R@{k}" for k in (1, 2, 3))]
    assert head[4:] == [
        *("shoes-eval R@1", "shoes-eval R@10", "shoes-eval R@50", "shoes-eval (R@1 + R@10 + R@50) / 3"),
        *("fashioniq-val R@10", "fashioniq-val R@50", "fashioniq-val (R@10 + R@50) / 2"),
    ]
    assert {len(row) for row in (head, rule, *rows)} == {11}
    assert [row[0] for row in rows] == ["SPRC", "SPRC + SPN", "text", "image", "tiny-1"]
    assert rows[0][1:] == ["–"] * 7 + ["54.72", "74.97", "64.85"]
    assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", cell) for row in rows[2:] for cell in row[1:])
    notes = [line for line in lines if line.startswith("- ")]
    assert notes[0] == (
        "- genecis-focus-object: protocol genecis-focus-object/reference-kept, "
        + re.search(r"8 images for each query, of \d+, 6 queries", notes[0])[0]  # type: ignore[index]
    )
    assert any(note.startswith("- SPRC: Bai et al.") for note in notes)
    text = latex.read_text()
    assert "\\multicolumn{3}{c}{genecis-focus-object} & \\multicolumn{4}{c}{shoes-eval}" in text
    assert "\\begin{tabular}{lrrrrrrrrrr}" in text
    assert " $\\pm$ " in text
    assert not re.search(r"(?<!\\)[%_#]|±|–", text)
    assert text.count("{") == text.count("}")


def test_published_figures_need_all_pictures(cli: Run, official_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "fashioniq"
    shutil.copytree(official_data / "fashioniq", root)
    next((root / "images").glob("B019.*")).unlink()
    words = ["evaluate", "fashioniq-val", "--data-root", root, "--model", tiny_model, "--allow-missing"]
    assert cli(*words, "--table", tmp_path / "t.md").code == 0
    assert "SPRC" not in (tmp_path / "t.md").read_text()
    assert "1 MISSING" in (tmp_path / "t.md").read_text()


def test_compositions(cli: Run, data: Path, tiny_model: Path, tmp_path: Path) -> None:
    clip = hub_models.save_clip(tmp_path / "clip")
    words = ["evaluate", "shoes-eval", "--data-root", data / "shoes", "--json", "--model"]
    assert list(cli(*words, clip).json["baselines"]) == ["image", "text", "sum", "slerp", "product"]
    asked = cli(*words, clip, "--composition", "product, sum,slerp").json
    assert list(asked["baselines"]) == ["product", "sum", "slerp"]
    assert asked["baselines"]["sum"] == asked["metrics"]  # how this model composes
    assert list(cli(*words, tiny_model, "--composition", "image").json["baselines"]) == ["image"]
    refused = cli(*words, tiny_model, "--composition", "image,slerp")
    mistake(refused, "encodes image and text together", "take image, text, sum")
    mistake(cli(*words, clip, "--composition", "average"), "no composition 'average'", "image, text, sum, slerp")


def test_mistakes(cli: Run, data: Path, tiny_model: Path, tmp_path: Path) -> None:
    both = roots(data, "genecis", "shoes-eval")
    mistake(cli("evaluate", "genecis,imagenet", *both), "'imagenet' is no benchmark", "shoes-eval")
    mistake(cli("evaluate", "icir,icir", *both), "named twice")
    mistake(cli("evaluate", "genecis,icir", *both), "--data-root shoes=", "shoes is not evaluated")
    mistake(cli("evaluate", "genecis,icir", *both[:2]), "icir needs --data-root")
    mistake(cli("evaluate", "icir", *2 * ["--data-root", data]), "given twice without NAME=")
    mistake(cli("evaluate", "genecis", *both[:2], *both[:2]), "given twice for genecis")
    mistake(cli("evaluate", "genecis", *both[:2], "--table", tmp_path / "t.pdf"), "t.pdf", ".md or .tex")
    mistake(cli("evaluate", "genecis,shoes-eval", *both, "--submission", tmp_path), "genecis has no server")
    mistake(cli("evaluate", "shoes-eval", "--data-root", data / "genecis"), "cannot be read")
    for name, other in (("genecis-focus-object", "shoes"), ("fashion200k-test", "icir"), ("icir", "cirr")):
        mistake(cli("evaluate", name, "--data-root", data / other, "--model", tiny_model), "cannot be read")
    root = Path(shutil.copytree(data / "genecis", tmp_path / "genecis"))
    gone = next((root / "VG_100K").iterdir())
    gone.write_bytes(b"no picture")
    words = ["evaluate", "genecis", "--data-root", root, "--model", tiny_model]
    mistake(cli(*words), "of the gallery cannot be read, first", f"{gone.stem}@", "--allow-missing")
    gone.unlink()
    mistake(cli(*words), "are missing, first", "cir data check genecis", "--allow-missing")
    allowed = cli(*words, "--allow-missing")
    assert allowed.code == 0
    assert "MISSING" in allowed.out
    (tmp_path / "run").write_text("shoes-0 Q0 a.jpg 1 0.5 mine\n")
    mistake(cli("score", "shoes-eval", tmp_path / "run", "--data-root", data / "shoes"), "1 images are not in", "a.jpg")
    (tmp_path / "run").write_text("q Q0 img_womens_boots_1.jpg 1 0.5 mine\n")
    mistake(cli("score", "shoes-eval", tmp_path / "run", "--data-root", data / "shoes"), "1 queries are not in", "'q'")


def test_two_benchmarks_with_one_id(cli: Run, data: Path, tiny_model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in (1, 2):
        source = next((data / "icir" / "query").rglob("*.jpg"))
        (photos / f"img_womens_boots_{number}.jpg").write_bytes(source.read_bytes() + bytes([number]))
    queries = tmp_path / "q.jsonl"
    names = [f"img_womens_boots_{number}.jpg" for number in (1, 2)]
    queries.write_text(json.dumps({"id": "a", "reference": names[0], "caption": "x", "targets": names[1:]}))
    words = ["evaluate", "shoes-eval,jsonl", "--data-root", f"shoes={data / 'shoes'}", "--data-root", photos]
    mistake(cli(*words, "--queries", queries, "--model", tiny_model), "different pictures", names[0], "two calls")


def test_data_check(cli: Run, data: Path) -> None:
    found = cli("data", "check", "fashion200k-test", "--data-root", data / "fashion200k")
    assert (found.code, found.out.splitlines()[-1]) == (0, "complete")
    assert "its official digest is not known" in found.out
    found = cli("data", "check", "shoes-eval", "--data-root", data / "shoes", "--json").json
    assert (found["complete"], found["ids"], found["missing"]) == (False, False, [])
    assert cli("data", "check", "genecis", "--data-root", data / "shoes").code == 1
