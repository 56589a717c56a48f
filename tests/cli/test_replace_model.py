"""`cir replace-model` and `cir rollback`, with two tiny models that share nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from cir import build_index, load_model, open_index
from cir.errors import StaleEvidenceError
from cir.files import sha256_file
from cir.images import scan
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.writing.build import BuildOptions
from cir.indexer.writing.serve import serve_model
from cir.models.folder import read_card
from cir.testing import commands
from cir.testing.commands import Outcome, Run

mistake = partial(commands.mistake, alone=False)  # after progress and warnings
VECTORS_ONLY = BuildOptions(tokens=False)
Write = Callable[..., Path]


def live(index: Path) -> Manifest:
    return read_manifest(IndexFolder(index))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_worse_model_is_refused_and_nothing_changes(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, questions_for: Write
) -> None:
    questions = questions_for(tiny_model)  # the old model is right by definition
    before = contents(index)
    words = ["--questions", questions, "--model-dir", tiny_model.parent, "--apply"]
    refused = cli("replace-model", index, other_model, *words)
    assert refused.code == 1, refused.err
    assert "no better even after a full re-index" in refused.out
    assert "verdict: refused\nadvice: keep the current model" in refused.out
    assert contents(index) == before


@pytest.mark.slow
def test_few_questions_are_refused(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, questions_for: Write
) -> None:
    questions = questions_for(other_model, count=199)
    words = ["replace-model", index, other_model, "--questions", questions, "--accept-noninferior", "100", "--apply"]
    refused = cli(*words, "--model-dir", tiny_model.parent)
    assert refused.code == 1
    assert "199 judged queries, 200 are needed" in refused.out
    assert live(index).generation == 1


@pytest.mark.slow
def test_apply_search_add_and_roll_back(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, questions_for: Write, coloured: Path, tmp_path: Path
) -> None:
    questions = questions_for(other_model)  # the new model is right by definition
    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    query = ["query", index, "-i", "007.png", "-t", "red", "--json", *dirs]
    first = cli(*query).json
    stored = {path: sha256_file(path) for path in index.rglob(GALLERY)}
    # They share no weights, so that little can be gained: this is a test of the way there and back.
    words = ["replace-model", index, other_model, "--questions", questions, "--accept-noninferior", "100", *dirs]
    measured = cli(*words)
    assert measured.code == 0, measured.out + measured.err
    assert "nothing has changed; --apply lets it serve" in measured.out
    assert live(index).generation == 1
    report = cli(*words, "--apply", "--json").json
    assert (report["passed"], report["applied"], report["stale"]) == (True, 2, "")
    (space,) = report["spaces"]
    assert space["baselines"]["reindexed"] == {"R@1": 1.0, "R@10": 1.0}
    assert space["baselines"]["current"]["R@10"] < 0.5
    assert (space["questions"], space["measured"], space["images"]) == (220, 113, 260)
    assert live(index).card.name == "other-1"
    assert {path: sha256_file(path) for path in stored} == stored
    answer = cli(*query).json
    assert (answer["model"], answer["searched"], answer["unsearched"]) == ("other-1", 260, 0)
    shown = cli("info", index).out
    assert f"searched by {space['verdict']['route']}: R@1 " in shown
    assert "earlier     1, " in shown
    assert "260 images, served by tiny-1" in shown
    values = cli("info", index, "--json").json
    assert [generation["generation"] for generation in values["generations"]] == [2, 1]
    assert [mapping["stale"] for mapping in values["mappings"].values()] == [False]
    assert [mapping["evidence"]["questions"] for mapping in values["mappings"].values()] == [220]
    mistake(cli(*words), "other-1 serves this index already")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "more.png")
    grown = cli("build-index", coloured, tmp_path / "more.png", "-o", index, "--json", *dirs)
    assert (grown.code, grown.json["added"]) == (0, ["more.png"])
    assert cli("verify", index).code == 0
    for generation in (1, 2):
        assert cli("rollback", index, "--to", generation).code == 0
    back = cli("rollback", index, "--to", "1")
    assert (back.code, "260 images, served by tiny-1" in back.out) == (0, True)
    assert cli(*query).json["hits"] == first["hits"]


def test_mistakes(cli: Run, index: Path, tiny_model: Path, other_model: Path, tmp_path: Path) -> None:
    rest = ["--model-dir", tiny_model.parent]
    questions = tmp_path / "questions.jsonl"

    def replace_with(model: Path = other_model, **values: object) -> Outcome:
        good = {"id": "1", "reference": "001.png", "caption": "red", "targets": ["002.png"]}
        questions.write_text(json.dumps(good | values) + "\n")
        return cli("replace-model", index, model, "--questions", questions, *rest)

    mistake(replace_with(reference="gone.png"), "gone.png", "not an id of", "--data-root")
    mistake(replace_with(caption=" "), "a judged query needs a caption")
    mistake(replace_with(targets=["001.png"]), "'001.png' is a target too")
    mistake(replace_with(targets=[]), "'targets' is empty")
    few = replace_with(targets=["003.png"])
    assert few.code == 1
    assert "1 judged queries are about its 260 images, 200 are needed" in few.out
    mistake(replace_with(tmp_path / "no-model"), "no-model")
    questions.write_text("\n")
    mistake(cli("replace-model", index, other_model, "--questions", questions, *rest), "no queries")
    mistake(cli("replace-model", index, other_model, "--questions", tmp_path / "none", *rest), "none")
    not_a_share = cli("replace-model", index, other_model, "--accept-noninferior", "nan", *rest)
    mistake(not_a_share, "between 0 and 100")
    mistake(cli("rollback", index), "no earlier generation")
    mistake(cli("rollback", tmp_path / "no.index"), "no such index")
    assert not (tmp_path / "no.index").exists()


def test_a_name_that_is_taken_is_refused(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, questions_for: Write, tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(other_model, tmp_path / "twin"))
    card = json.loads((twin / "card.json").read_text())
    card["card"]["name"] = read_card(tiny_model).name
    (twin / "card.json").write_text(json.dumps(card))
    words = ["--questions", questions_for(other_model, count=1), "--model-dir", tiny_model.parent]
    mistake(cli("replace-model", index, twin, *words), "already the name of another model")


@pytest.mark.slow
def test_questions_without_photos_are_counted(
    cli: Run, own_index: tuple[Path, Path], tiny_model: Path, other_model: Path, questions_for: Write
) -> None:
    own, index = own_index
    words = ["--questions", questions_for(other_model), "--model-dir", tiny_model.parent, "--json"]
    (own / "000.png").unlink()
    (space,) = cli("replace-model", index, other_model, *words).json["spaces"]
    assert space["questions"] + space["unusable"] == 220
    assert 4 <= space["unusable"] < 110
    for file in own.iterdir():
        file.unlink()
    mistake(cli("replace-model", index, other_model, *words), "none of", "bring them back")


@pytest.mark.slow
def test_a_few_images_of_an_older_model_do_not_prevent_a_replacement(
    cli: Run, make_model: Callable[..., Path], other_model: Path, questions_for: Write, coloured: Path, tmp_path: Path
) -> None:
    """Ten images of the first model, which is missing by then, with fewer than 200 judged queries about them."""
    first, third = make_model(tmp_path / "first" / "a-1", seed=21), make_model(tmp_path / "third" / "c-1", seed=22)
    space, index = read_card(first).space.id, tmp_path / "my.index"
    build_index(scan([coloured]), index, load_model(first), options=VECTORS_ONLY)
    words = ["--accept-noninferior", "100", "--apply", "--json"]
    questions = questions_for(other_model)
    served = cli("replace-model", index, other_model, "--questions", questions, *words, "--model-dir", first.parent)
    assert served.code == 0
    dirs = ["--model-dir", other_model.parent]
    assert cli("backfill", index, "--count", "250", "--model-dir", first.parent, *dirs).code == 0
    first.rename(first.with_name("gone"))
    old = open_index(index).gallery.ids_in(space)[0]
    more = {"reference": "000.png" if old != "000.png" else "001.png", "caption": "red", "targets": [old]}
    questions = tmp_path / "two.jsonl"
    lines = [json.dumps({**more, "id": f"x{n}"}) + "\n" for n in range(30)]
    questions.write_text(questions_for(third, count=239).read_text() + "".join(lines))
    done = cli("replace-model", index, third, "--questions", questions, *words, *dirs, "--model-dir", third.parent)
    assert done.code == 0, done.out + done.err
    assert {space["made_by"]: space["left_out"] for space in done.json["spaces"]} == {"a-1": True, "other-1": False}
    answer = cli("query", index, "-t", "red", "--json", *dirs, "--model-dir", third.parent).json
    assert (answer["searched"], answer["unsearched"]) == (250, 10)
    table = cli("query", index, "-t", "red", *dirs, "--model-dir", third.parent).out
    assert "10 images were not searched" in table


def test_stale_evidence_is_refused(index: Path, other_model: Path) -> None:
    with pytest.raises(StaleEvidenceError, match="generation 1 is not the one measured, 7; measure again"):
        serve_model(index, load_model(other_model), {}, generation=7)
    assert live(index).generation == 1


@pytest.mark.slow
def test_evidence_that_went_stale_while_measuring(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, questions_for: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise StaleEvidenceError("the index has changed; measure again")

    monkeypatch.setattr("cir.indexer.writing.serve.serve_model", refuse)
    words = ["--questions", questions_for(other_model), "--accept-noninferior", "100", "--apply", "--json"]
    stale = cli("replace-model", index, other_model, *words, "--model-dir", tiny_model.parent)
    assert stale.code == 1
    assert (stale.json["passed"], stale.json["applied"]) == (True, None)
    assert stale.json["stale"] == "the index has changed; measure again"
    assert stale.err.endswith("cir: refused: the index has changed; measure again\n")


@pytest.mark.slow
def test_a_changed_class_map_is_refused_before_measuring(
    cli: Run, coloured: Path, make_model: Callable[..., Path], questions_for: Write, tmp_path: Path
) -> None:
    first = make_model(tmp_path / "first-1", seed=1, classes={"colour": ["blue", "red"]})
    grown = make_model(tmp_path / "grown-1", seed=2, classes={"colour": ["blue", "red", "white"]})
    changed = make_model(tmp_path / "changed-1", seed=3, classes={"colour": ["red", "blue"]})
    index = tmp_path / "my.index"
    build_index(scan([coloured]), index, load_model(first), options=VECTORS_ONLY)
    assert "3 of 16 dims on a simplex of 2 classes" in cli("info", index).out
    before = contents(index)
    words = ["--questions", questions_for(changed), "--accept-noninferior", "100", "--apply", "--model-dir", tmp_path]
    refused = cli("replace-model", index, changed, *words)
    assert refused.code == 1, refused.err
    problem = "its class map does not extend that of first-1: vertex 0 of colour is 'red', not 'blue'"
    assert problem in refused.out
    assert contents(index) == before
    measured = cli("replace-model", index, grown, *words, "--json").json
    assert "simplex" in {route["route"] for route in measured["spaces"][0]["routes"]}
