"""`cir replace-model` without judged questions, with small hub models; vectors without photos; photos that are gone."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cir import build_index, load_model, open_index
from cir.images import scan
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.testing import commands
from cir.testing.commands import Run
from cir.testing.hub_models import save_clip

mistake = partial(commands.mistake, alone=False)  # after progress and warnings
WORDS = "this measures the mapping, not whether the new model is better"


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random CLIP models, which share nothing."""
    folder = tmp_path_factory.mktemp("clips")
    return save_clip(folder / "old-clip", seed=0), save_clip(folder / "new-clip", seed=5)


@pytest.fixture(scope="session")
def clip_index(clips: tuple[Path, Path], coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the coloured pictures by the first. No test may change it."""
    index = tmp_path_factory.mktemp("clip") / "my.index"
    build_index(scan([coloured]), index, load_model(clips[0]))
    return index


def own_copy(index: Path, place: Path) -> Path:
    return Path(shutil.copytree(index, place / "copy.index"))


def generation(index: Path) -> int:
    return read_manifest(IndexFolder(index)).generation


@pytest.mark.slow
def test_measure_trust_search_and_roll_back(
    cli: Run, clips: tuple[Path, Path], clip_index: Path, tmp_path: Path
) -> None:
    index, new, dirs = own_copy(clip_index, tmp_path), clips[1], ["--model-dir", clips[0].parent]
    query = ["query", index, "-t", "red dress", "--json", *dirs]
    before = cli(*query).json
    measured = cli("replace-model", index, new, *dirs)
    assert measured.code == 0, measured.err
    assert "no judged queries; 260 images encoded by both models\ntexts from 37 plain words" in measured.out
    assert f"note: {WORDS}" in measured.out
    assert "verdict: the mapping is faithful, by " in measured.out
    assert "nothing has changed" in measured.out
    refused = cli("replace-model", index, new, *dirs, "--apply")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "nothing shows that" in refused.err
    assert "--trust-model" in refused.err
    assert generation(index) == 1
    applied = cli("replace-model", index, new, *dirs, "--apply", "--trust-model", "--json").json
    assert (applied["passed"], applied["applied"]) == (True, 2)
    (space,) = applied["spaces"]
    route = space["verdict"]["route"]
    assert (space["questions"], space["routes"], space["fitted_on"]) == (0, [], [])
    assert {"current", "ridge", "gallery mlp", "query mlp"} <= set(space["fidelity"])
    assert space["fidelity"][route]["text"]["overlap"] > 0.5 > space["fidelity"]["query ridge"]["text"]["overlap"]
    assert space["verdict"]["warnings"][0].startswith(WORDS)
    answer = cli(*query).json
    assert (answer["model"], answer["searched"], answer["unsearched"]) == (new.name, 260, 0)
    assert answer["hits"] != before["hits"]
    shown = cli("info", index).out
    assert f"searched by {route}: first ten shared with a re-index, image" in shown
    assert "without judged queries" in shown
    assert cli("verify", index).code == 0
    assert cli("backfill", index, "--count", "100", *dirs).code == 0
    assert cli(*query).json["searched"] == 260
    assert cli("rollback", index, "--to", "1").code == 0
    assert cli(*query).json["hits"] == before["hits"]


@pytest.mark.slow
def test_vectors_without_photos_are_replaced_on_photos_that_are_given(
    cli: Run, clips: tuple[Path, Path], clip_index: Path, coloured: Path, tmp_path: Path
) -> None:
    """The model of the vectors is known by name only: it answers images by their vectors, and no texts."""
    gallery, index = open_index(clip_index, model_dirs=clips[0].parent).gallery, tmp_path / "vectors.index"
    np.save(tmp_path / "v.npy", np.stack([gallery.image(name).stored for name in gallery.ids]))
    (tmp_path / "ids.txt").write_text("".join(f"sku/{Path(name).stem}\n" for name in gallery.ids))
    words = ["import", tmp_path / "v.npy", "--ids", tmp_path / "ids.txt", "--foreign-model", "some-clip", "-o", index]
    assert cli(*words).code == 0
    none = cli("replace-model", index, clips[1])
    assert none.code == 1
    assert "0 of its 260 images have a photo that can be read, 200 are needed to fit a mapping" in none.out
    assert "give some of them: --photos DIR" in none.out
    given = tmp_path / "given"
    (given / "sku").mkdir(parents=True)
    for number, name in enumerate(gallery.ids):
        if number < 230:  # ids are paths below the folder, without their ending
            shutil.copy(coloured / name, given / "sku" / name)
    mistake(cli("replace-model", index, clips[1], "--photos", given / "sku"), "is named as an image of", "'sku/000'")
    shutil.copy(coloured / "000.png", given / "other.png")
    done = cli("replace-model", index, clips[1], "--photos", given, "--apply", "--trust-model", "--json")
    assert done.code == 0, done.out + done.err
    assert f"{given}: 230 photos are named as images of {index}, 1 others are not" in done.err
    (space,) = done.json["spaces"]
    assert space["sample"] == 230
    assert set(space["fidelity"]["current"]) == {"image"}
    assert set(space["fidelity"]["ridge"]) == {"image", "text", "composed", "all"}
    assert "model that made these vectors is missing" in space["absent"]["fitted head"]
    answer = cli("query", index, "-t", "red", "--json", "--model-dir", clips[1].parent).json
    assert (answer["model"], answer["searched"], len(answer["hits"])) == (clips[1].name, 260, 10)
    for file in list((given / "sku").iterdir())[:31]:
        file.unlink()
    few = cli("replace-model", own_copy(index, tmp_path), clips[0], "--photos", given)
    assert few.code == 1
    assert "199 of its 260 images have a photo that can be read, 200 are needed" in few.out


@pytest.mark.slow
def test_photos_that_are_gone(cli: Run, clips: tuple[Path, Path], coloured: Path, tmp_path: Path) -> None:
    own, index = Path(shutil.copytree(coloured, tmp_path / "photos")), tmp_path / "my.index"
    build_index(scan([own]), index, load_model(clips[0]))
    files, dirs = sorted(own.iterdir()), ["--model-dir", clips[0].parent]
    for file in files[:40]:
        file.unlink()
    files[40].write_bytes(files[41].read_bytes())  # there, but another
    left = cli("replace-model", index, clips[1], *dirs)
    assert "219 images encoded by both models" in left.out
    for file in files[42:62]:
        file.unlink()
    refused = cli("replace-model", index, clips[1], *dirs, "--apply", "--trust-model")
    assert refused.code == 1
    assert "199 of its 260 images have a photo that can be read, 200 are needed to fit a mapping" in refused.out
    assert "bring the photos back, or give some of them: --photos DIR" in refused.out
    assert generation(index) == 1


@pytest.mark.slow
def test_tokens_say_which_routes_cannot_work(
    cli: Run, tiny_model: Path, other_model: Path, coloured: Path, tmp_path: Path
) -> None:
    index = tmp_path / "tokens.index"
    build_index(scan([coloured]), index, load_model(tiny_model))
    report = cli("replace-model", index, other_model, "--model-dir", tiny_model.parent, "--json").json
    (space,) = report["spaces"]
    for route in ("ridge", "gallery mlp"):
        assert space["absent"][route] == "images are ranked by tokens, and those of two models have no pairs"
    assert {"fitted head", "procrustes", "query ridge", "low rank", "query mlp"} <= set(space["fidelity"])


def test_mistakes(cli: Run, clips: tuple[Path, Path], clip_index: Path, tmp_path: Path) -> None:
    dirs = ["--model-dir", clips[0].parent]
    mistake(cli("replace-model", clip_index, clips[0], *dirs), "serves this index already")
    (tmp_path / "empty").mkdir()
    mistake(cli("replace-model", clip_index, clips[1], *dirs, "--photos", tmp_path / "empty"), "none of its 0 photos")
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"id": "1", "reference": "001.png", "caption": "red", "targets": ["002.png"]}\n')
    words = ["--questions", questions, "--photos", tmp_path / "empty"]
    mistake(cli("replace-model", clip_index, clips[1], *dirs, *words), "--photos is for a study without judged queries")
