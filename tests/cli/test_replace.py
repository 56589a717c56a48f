"""`cir replace-model` and `cir rollback`, with two tiny models that agree about nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cir
from cir import Query, load_model, open_index
from cir.images import scan
from cir.indexer.storage.manifest import GALLERY, SEGMENTS, read_manifest
from cir.models import weights
from cir.testing import commands
from cir.testing.commands import Run

mistake = partial(commands.mistake, alone=False)  # after progress and warnings
CAPTIONS = ("red", "blue with long sleeves", "long", "with red sleeves")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """260 pictures of two colours."""
    folder = tmp_path_factory.mktemp("replace") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(260):
        pixels = np.empty((32, 32, 3), np.uint8)
        pixels[:16], pixels[16:] = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def other_model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("other") / "other-1", seed=8)


@pytest.fixture
def index(photos: Path, tiny_model: Path, tmp_path: Path) -> Path:
    cir.build_index(scan([photos]), tmp_path / "my.index", load_model(tiny_model), tokens=False)
    return tmp_path / "my.index"


def anchors_of(model: Path, photos: Path, folder: Path, count: int = 220) -> Path:
    """Questions that this model answers best of all: its own first hit is the right answer."""
    cir.build_index(scan([photos]), folder / "own.index", load_model(model), tokens=False)
    own = open_index(folder / "own.index", model=model)
    ids = own.ids
    asked = [Query((ids[n % 60],), CAPTIONS[n // 60], k=1) for n in range(count)]
    found = own.search_many(asked)
    lines = [
        {"id": str(n), "reference": ids[n % 60], "caption": query.text, "targets": [result.hits[0].id]}
        for n, (query, result) in enumerate(zip(asked, found, strict=True))
    ]
    path = folder / "anchors.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def index_of_a_copy(photos: Path, model: Path, folder: Path) -> tuple[Path, Path]:
    """Photos that a test may remove, and an index of them."""
    own, index = folder / "photos", folder / "own-photos.index"
    shutil.copytree(photos, own)
    cir.build_index(scan([own]), index, load_model(model), tokens=False)
    return own, index


def test_a_worse_model_is_refused_and_nothing_changes(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path
) -> None:
    anchors = anchors_of(tiny_model, photos, tmp_path)  # the old model is right by definition
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    refused = cli(
        "replace-model", index, other_model, "--anchors", anchors, "--model-dir", tiny_model.parent, "--apply"
    )
    assert refused.code == 1, refused.err
    assert "no better even with everything encoded again" in refused.out
    assert "verdict: refused; keep the model there is" in refused.out
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == before


def test_few_anchors_are_refused(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path
) -> None:
    anchors = anchors_of(other_model, photos, tmp_path, count=199)
    words = ["replace-model", index, other_model, "--anchors", anchors, "--accept-noninferior", "100", "--apply"]
    refused = cli(*words, "--model-dir", tiny_model.parent)
    assert refused.code == 1
    assert "199 anchors, 200 are needed" in refused.out
    assert read_manifest(index).generation == 1


def test_apply_search_add_and_go_back(
    cli: Run, index: Path, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path
) -> None:
    anchors = anchors_of(other_model, photos, tmp_path)  # the new model is right by definition
    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    ask = ["query", index, "-i", "007.png", "-t", "red", "--json", *dirs]
    first = json.loads(cli(*ask).out)
    stored = {path: path.read_bytes() for path in (index / SEGMENTS).rglob(GALLERY)}
    # They share no weights, so that little can be gained; what is tested is the way there and back.
    words = ["replace-model", index, other_model, "--anchors", anchors, "--accept-noninferior", "100", *dirs]
    looked = cli(*words)
    assert looked.code == 0, looked.out + looked.err
    assert "nothing was changed; --apply lets it serve" in looked.out
    assert read_manifest(index).generation == 1
    told = json.loads(cli(*words, "--apply", "--json").out)
    assert (told["passed"], told["applied"]) == (True, 2)
    (space,) = told["spaces"]
    assert space["compared"]["encoded again"] == {"R@1": 1.0, "R@10": 1.0}
    assert space["compared"]["now"]["R@10"] < 0.5
    assert (space["anchors"], space["measured"], space["images"]) == (220, 111, 260)
    manifest = read_manifest(index)
    assert manifest.card.name == "other-1"
    assert {path: path.read_bytes() for path in stored} == stored
    answered = json.loads(cli(*ask).out)
    assert (answered["model"], answered["searched"], answered["unsearched"]) == ("other-1", 260, 0)
    known = cli("info", index).out
    assert f"asked by {space['verdict']['route']}: R@1 " in known
    assert "earlier     1, " in known
    assert "260 images, served by tiny-1" in known
    told = json.loads(cli("info", index, "--json").out)
    assert [one["generation"] for one in told["generations"]] == [2, 1]
    assert [mapping["stale"] for mapping in told["mappings"].values()] == [False]
    again = cli(*words)
    mistake(again, "other-1 serves this index already")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "more.png")
    grown = cli("build-index", photos, tmp_path / "more.png", "-o", index, "--json", *dirs)
    assert grown.code == 0, grown.err
    assert cli("verify", index).code == 0
    for generation in (1, 2):
        assert cli("rollback", index, "--to", generation).code == 0
    assert cli("rollback", index, "--to", "1").code == 0
    assert json.loads(cli(*ask).out)["hits"] == first["hits"]


def test_mistakes(cli: Run, index: Path, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path) -> None:
    rest = ["--model-dir", tiny_model.parent]
    anchors = tmp_path / "anchors.jsonl"

    def asked(**values: Any) -> Any:
        good = {"id": "1", "reference": "001.png", "caption": "red", "targets": ["002.png"]}
        anchors.write_text(json.dumps(good | values) + "\n")
        return cli("replace-model", index, other_model, "--anchors", anchors, *rest)

    mistake(asked(reference="gone.png"), "gone.png", "not an id of", "--data-root")
    mistake(asked(caption=" "), "an anchor needs a caption")
    mistake(asked(targets=["001.png"]), "'001.png' is a target too")
    mistake(asked(targets=[]), "'targets' is empty")
    anchors.write_text("\n")
    mistake(cli("replace-model", index, other_model, "--anchors", anchors, *rest), "no anchors")
    mistake(cli("replace-model", index, other_model, "--anchors", tmp_path / "none", *rest), "none")
    few = asked(targets=["003.png"])
    assert few.code == 1
    assert "1 anchors are about its 260 images, 200 are needed" in few.out
    mistake(cli("replace-model", index, tmp_path / "no-model", "--anchors", anchors, *rest), "no-model")
    mistake(cli("rollback", index), "no earlier generation")
    mistake(cli("rollback", tmp_path / "no.index"), "no such index")
    assert not (tmp_path / "no.index").exists()
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in other_model.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    card = json.loads((twin / "card.json").read_text())
    card["card"]["name"] = weights.read_card(tiny_model).name
    (twin / "card.json").write_text(json.dumps(card))
    line = {"id": "1", "reference": "001.png", "caption": "red", "targets": ["002.png"]}
    anchors.write_text(json.dumps(line) + "\n")
    mistake(cli("replace-model", index, twin, "--anchors", anchors, *rest), "already the name of another model")


def test_anchors_may_name_files(cli: Run, index: Path, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    from cir.indexer.reading.gallery import Gallery
    from cir.replacement.questions import read_anchors

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.png").write_bytes((photos / "004.png").read_bytes())
    line = {"id": "1", "reference": "a.png", "caption": "red", "targets": ["005.png"]}
    (tmp_path / "anchors.jsonl").write_text(json.dumps(line) + "\n")
    (anchor,) = read_anchors(tmp_path / "anchors.jsonl", Gallery.open(index), folder)
    assert (anchor.reference, anchor.targets) == ("004.png", frozenset(["005.png"]))


def test_anchors_are_kept_with_their_photos(
    cli: Run, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path
) -> None:
    own = tmp_path / "photos"
    own.mkdir()
    for file in sorted(photos.iterdir())[:240]:
        (own / file.name).write_bytes(file.read_bytes())
    table = "id,tint,what\n" + "".join(
        f"{n:03d},{('Red', 'Blue', 'Green')[n % 3]},{('Shirt', 'Dress')[n // 3 % 2]}\n" for n in range(240)
    )
    (tmp_path / "table.csv").write_text(table)
    index = tmp_path / "kept.index"
    built = ["build-index", own, "-o", index, "--model", tiny_model, "--no-tokens"]
    assert cli(*built, "--metadata", tmp_path / "table.csv").code == 0
    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    assert cli("anchors", index).out == f"{index}: no anchors\n"
    mistake(cli("replace-model", index, other_model, *dirs), "keeps no anchors", "cir anchors")
    mistake(cli("anchors", index, "--metadata", "smell=tint"), "no words for changes of 'smell'", "colour")
    mistake(cli("anchors", index, "--metadata", "colour=hue"), "no metadata column 'hue'", "tint")
    mistake(cli("anchors", index, "--metadata", "colour"), "KIND=COLUMN")
    mistake(cli("anchors", index, "--metadata", "colour=tint", "--count", "0"), "0 is not in the range")
    mistake(cli("anchors", index, "--count", "5"), "--metadata")
    made = cli("anchors", index, "--metadata", "colour=tint", "--metadata", "type=what", "--count", "250")
    assert made.code == 0, made.err
    assert "250 anchors" in made.out
    shown = cli("anchors", index).out
    assert shown == made.out
    (own / "003.png").rename(own / "renamed.png")
    assert cli(*built).code == 0
    assert "250 anchors" in cli("anchors", index).out  # recognised by its content
    assert cli("anchors", index, "--from", tmp_path / "none.jsonl").code == 2
    for file in own.iterdir():
        file.unlink()  # the photos go, the anchors stay
    again = cli("anchors", index, "--metadata", "colour=tint", "--metadata", "type=what", "--count", "250")
    assert again.code == 2
    assert "250 anchors" in cli("anchors", index).out  # what was kept is kept
    judged = cli("replace-model", index, other_model, *dirs, "--json")
    assert judged.code in (0, 1), judged.err
    (space,) = json.loads(judged.out)["spaces"]
    assert (space["anchors"], space["images"]) == (250, 240)


def test_metadata_ask_nothing_twice(cli: Run, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "photos"
    own.mkdir()
    for file in sorted(photos.iterdir())[:12]:
        (own / file.name).write_bytes(file.read_bytes())
    rows = "".join(f"{n:03d},{('Red', 'Blue', 'Green')[n % 3]}\n" for n in range(12))
    (tmp_path / "table.csv").write_text("id,tint\n" + rows)
    index = tmp_path / "few.index"
    built = ["build-index", own, "-o", index, "--model", tiny_model, "--metadata", tmp_path / "table.csv"]
    assert "24 anchors kept" in cli(*built, "--anchors", "colour=tint").err
    mistake(cli(*built, "--anchors", "colour"), "--anchors: write KIND=COLUMN")
    assert "24 anchors" in cli("anchors", index).out
    made = cli("anchors", index, "--metadata", "colour=tint").out
    assert "24 anchors" in made  # each of 12 pictures in two other colours
    assert "no more different questions" in made
    assert "a replacement needs 200" in made


def test_anchors_whose_photos_are_gone_are_counted(
    cli: Run, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path
) -> None:
    own, index = index_of_a_copy(photos, tiny_model, tmp_path)
    anchors = anchors_of(other_model, photos, tmp_path)
    dirs = ["--model-dir", tiny_model.parent, "--json"]
    (own / "000.png").unlink()
    judged = cli("replace-model", index, other_model, "--anchors", anchors, *dirs)
    (space,) = json.loads(judged.out)["spaces"]
    assert space["anchors"] + space["unusable"] == 220
    assert 4 <= space["unusable"] < 110
    for file in own.iterdir():
        file.unlink()
    mistake(cli("replace-model", index, other_model, "--anchors", anchors, *dirs), "none of", "bring them back")


def test_what_a_backfill_left_does_not_hold_up_the_next_model(
    cli: Run, make_model: Callable[..., Path], other_model: Path, photos: Path, tmp_path: Path
) -> None:
    """Ten images of the first model, which is gone by then, about which there are fewer than 200 anchors."""
    first, third = make_model(tmp_path / "first" / "a-1", seed=21), make_model(tmp_path / "third" / "c-1", seed=22)
    index = tmp_path / "my.index"
    cir.build_index(scan([photos]), index, load_model(first), tokens=False)
    words = ["--accept-noninferior", "100", "--apply", "--json"]
    (tmp_path / "one").mkdir()
    anchors = anchors_of(other_model, photos, tmp_path / "one")
    assert cli("replace-model", index, other_model, "--anchors", anchors, *words, "--model-dir", first.parent).code == 0
    dirs = ["--model-dir", other_model.parent]
    route = json.loads(cli("info", index, "--json").out)["mappings"][load_model(first).card.space.id]["route"]
    assert cli("backfill", index, "--count", "250", "--model-dir", first.parent, *dirs).code == 0
    if route != "encoder":
        first.rename(tmp_path / "first" / "gone")
    (tmp_path / "two").mkdir()
    lines = anchors_of(third, photos, tmp_path / "two", count=239).read_text()
    old = next(
        image_id
        for image_id in cir.open_index(index).gallery.ids_in(load_model(tmp_path / "first" / "gone").card.space.id)
    )
    more = {"id": "x", "reference": "000.png" if old != "000.png" else "001.png", "caption": "red", "targets": [old]}
    anchors = tmp_path / "two.jsonl"
    anchors.write_text(lines + "".join(json.dumps({**more, "id": f"x{n}"}) + "\n" for n in range(30)))
    found = cli("replace-model", index, third, "--anchors", anchors, *words, *dirs, "--model-dir", third.parent)
    assert found.code == 0, found.out + found.err
    left = {space["made_by"]: space["left_out"] for space in json.loads(found.out)["spaces"]}
    assert left == {"a-1": True, "other-1": False}
    answered = json.loads(cli("query", index, "-t", "red", "--json", *dirs, "--model-dir", third.parent).out)
    assert (answered["searched"], answered["unsearched"]) == (250, 10)


def test_backfill(cli: Run, index: Path, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path) -> None:
    anchors = anchors_of(other_model, photos, tmp_path)
    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    assert cli("anchors", index, "--from", anchors).code == 0
    nothing = cli("backfill", index, *dirs)
    assert (nothing.code, nothing.out) == (0, f"{index}: 0 images encoded again, 0 of older models left\n")
    applied = cli("replace-model", index, other_model, "--accept-noninferior", "100", "--apply", *dirs)
    assert applied.code == 0, applied.out
    assert cli("query", index, "-i", "007.png", "-t", "red", "--json", *dirs).code == 0
    some = json.loads(cli("backfill", index, "--count", "100", "--part", "40", "--json", *dirs).out)
    assert (some["done"], some["left"], some["skipped"], some["stopped"]) == (100, 160, [], "")
    assert set(some["anchors"]) == {"before", "31 %"}
    rest = cli("backfill", index, "--budget", "10m", *dirs)
    assert rest.code == 0, rest.err
    assert "160 images encoded again, 0 of older models left" in rest.out
    assert cli("verify", index).code == 0
    whole = json.loads(cli("query", index, "-i", "007.png", "-t", "red", "--json", *dirs).out)
    fresh = ["query", tmp_path / "own.index", "-i", "007.png", "-t", "red", "--json", *dirs]
    assert [hit["id"] for hit in whole["hits"]] == [hit["id"] for hit in json.loads(cli(*fresh).out)["hits"]]
    mistake(cli("backfill", index, "--budget", "soon", *dirs), "90s, 30m or 2h")
    nan = cli("replace-model", index, tiny_model, "--accept-noninferior", "nan", *dirs)
    mistake(nan, "between 0 and 100")


def test_a_backfill_that_makes_answers_worse_stops_and_stays_stopped(
    cli: Run,
    index: Path,
    tiny_model: Path,
    other_model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cir.replacement.guard import Watch

    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    anchors = anchors_of(other_model, photos, tmp_path)
    assert cli("anchors", index, "--from", anchors).code == 0
    assert cli("replace-model", index, other_model, "--accept-noninferior", "100", "--apply", *dirs).code == 0
    asked: list[str] = []

    def ask(self: Watch, gallery: Any, when: str) -> np.ndarray:
        """Everything is answered before, and half of it is not later."""
        asked.append(when)
        return np.arange(len(self._anchors)) % 2 if when != "before" else np.ones(len(self._anchors), int)

    monkeypatch.setattr(Watch, "_ask", ask)
    words = ["backfill", index, "--count", "70", "--part", "35", *dirs]
    stopped = cli(*words)
    assert stopped.code == 1
    assert "cir: stopped: of 111 anchors at least" in stopped.err  # those that the mapping was not fitted on
    assert "cir rollback" in stopped.err
    assert asked == ["before", "27 %"]
    again = cli(*words)
    assert again.code == 1
    assert "0 images encoded again, 190 of older models left" in again.out
    assert cli("rollback", index, "--to", "2").code == 0
    assert cli(*words).code == 1
    assert asked == ["before", "27 %", "27 %", "27 %"]
    mistake(cli(*words, "--accept-noninferior", "nan"), "between 0 and 100")
    lost = cli(*words, "--accept-noninferior", "60")
    assert lost.code == 1
    assert "% of 111 anchors were answered within 10 and are not any longer" in lost.err


def test_a_backfill_without_photos_says_so(
    cli: Run, tiny_model: Path, other_model: Path, photos: Path, tmp_path: Path
) -> None:
    own, index = index_of_a_copy(photos, tiny_model, tmp_path)
    anchors = anchors_of(other_model, photos, tmp_path)
    dirs = ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]
    words = ["--anchors", anchors, "--accept-noninferior", "100", "--apply"]
    assert cli("replace-model", index, other_model, *words, *dirs).code == 0
    for file in own.iterdir():
        file.unlink()
    done = cli("backfill", index, *dirs)
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert "0 images encoded again, 260 of older models left" in done.out
    assert "260 skipped, which stay as they are" in done.out


def test_stale_evidence_is_refused(index: Path, other_model: Path) -> None:
    from cir.errors import StaleEvidenceError
    from cir.replacement.study import apply

    with pytest.raises(StaleEvidenceError, match="generation 1 is not what was measured, 7; measure again"):
        apply(index, load_model(other_model), [], 7)
    assert read_manifest(index).generation == 1


def test_a_changed_class_map_is_refused_unmeasured(
    cli: Run, photos: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    first = make_model(tmp_path / "first-1", seed=1, classes={"colour": ["blue", "red"]})
    grown = make_model(tmp_path / "grown-1", seed=2, classes={"colour": ["blue", "red", "white"]})
    changed = make_model(tmp_path / "changed-1", seed=3, classes={"colour": ["red", "blue"]})
    index = tmp_path / "my.index"
    cir.build_index(scan([photos]), index, load_model(first), tokens=False)
    known = cli("info", index).out
    assert "3 of 16 dims on the vertices" in known
    assert "of 2 classes" in known
    anchors = anchors_of(changed, photos, tmp_path)
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    words = ["--anchors", anchors, "--accept-noninferior", "100", "--apply", "--model-dir", tmp_path]
    refused = cli("replace-model", index, changed, *words)
    assert refused.code == 1, refused.err
    assert (
        "its class map does not extend that of first-1: vertex 0 of colour is 'blue' there, 'red' here" in refused.out
    )
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == before
    measured = json.loads(cli("replace-model", index, grown, *words, "--json").out)
    assert "simplex" in {route["route"] for route in measured["spaces"][0]["routes"]}
