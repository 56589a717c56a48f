"""`cir convert` as a person runs it; and a converted model wherever a model is named."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cir.testing.commands import Run

CLASS = "Blip2QformerCirAlignPrompt"
HEADS = ("--vision-heads", 4, "--qformer-heads", 4)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)[CLASS]
    return found


def truncated(good: Path, bad: Path) -> None:
    bad.write_bytes(good.read_bytes()[:-1000])


def another_class(good: Path, bad: Path) -> None:
    torch.save({"epoch": 0, "Blip2QformerCirRerank": state(good)}, bad)


def bare(good: Path, bad: Path) -> None:
    torch.save(state(good), bad)


def one_missing(good: Path, bad: Path) -> None:
    torch.save({CLASS: {key: value for key, value in state(good).items() if key != "query_tokens"}}, bad)


def one_misshapen(good: Path, bad: Path) -> None:
    torch.save({CLASS: {**state(good), "text_proj.weight": torch.zeros(256, 65)}}, bad)


def not_tensors(good: Path, bad: Path) -> None:
    torch.save({CLASS: {**state(good), "temp": 0.07}}, bad)


def a_list(good: Path, bad: Path) -> None:
    torch.save([1, 2], bad)


def code(good: Path, bad: Path) -> None:
    torch.save({CLASS: state(good), "config": Bomb(bad.parent / "executed")}, bad)


def plain_pickle_with_code(good: Path, bad: Path) -> None:
    bad.write_bytes(pickle.dumps({CLASS: Bomb(bad.parent / "executed")}, protocol=2))


def newer_pickle_with_code(good: Path, bad: Path) -> None:
    bad.write_bytes(pickle.dumps({CLASS: Bomb(bad.parent / "executed")}))


def before_zip_files(good: Path, bad: Path) -> None:
    torch.save({"other": state(good)}, bad, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "not a readable checkpoint"),
        (another_class, "holds Blip2QformerCirRerank, epoch; an SPRC checkpoint has Blip2QformerCirAlignPrompt"),
        (bare, "an SPRC checkpoint has Blip2QformerCirAlignPrompt"),
        (one_missing, "missing: query_tokens"),
        (one_misshapen, "misshapen: text_proj.weight (256, 65) for (256, 64)"),
        (not_tensors, "temp is a float, not a tensor"),
        (a_list, "holds a list"),
        (code, "holds code"),
        (plain_pickle_with_code, "holds code"),
        (newer_pickle_with_code, "not a readable checkpoint"),
        (before_zip_files, "holds other; an SPRC checkpoint has"),
        (lambda good, bad: bad.write_bytes(b""), "not a readable checkpoint"),
        (lambda good, bad: bad.write_text("<html>Sign in to OneDrive</html>"), "not a readable checkpoint"),
        (lambda good, bad: None, "no such file or folder, and not a hub id"),
    ],
)
def test_a_bad_checkpoint_is_one_line_and_leaves_nothing(
    cli: Run, sprc_checkpoint: Path, tmp_path: Path, damage: Callable[[Path, Path], None], says: str
) -> None:
    bad = tmp_path / "bad.pt"
    damage(sprc_checkpoint, bad)
    outcome = cli("convert", bad, "-o", tmp_path / "models" / "bad", *HEADS)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"cir: {bad}: ")
    assert outcome.err.count("\n") == 1
    assert says in outcome.err
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.pt"}  # nothing executed, nothing written


def test_a_hub_id_without_a_network(cli: Run, tmp_path: Path) -> None:
    outcome = cli("convert", "Salesforce/blip2-itm-vit-g", "-o", tmp_path / "model")
    assert outcome.code == 2
    assert outcome.err.startswith("cir: Salesforce/blip2-itm-vit-g: no such file or folder, and the Hugging Face hub")
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_checkpoint_lacks_is_reported(cli: Run, sprc_checkpoint: Path, tmp_path: Path) -> None:
    tensors = {key: value for key, value in state(sprc_checkpoint).items() if key not in ("temp", "prompt_tokens")}
    torch.save({"model": tensors}, tmp_path / "blip2.pth")
    done = cli("convert", tmp_path / "blip2.pth", "-o", tmp_path / "model", *HEADS)
    assert done.code == 0
    assert done.out.startswith(f"{tmp_path / 'model'}: 2 M parameters, 32 tokens of 256 dims (")
    assert done.err.splitlines()[0] == "cir: no temp in the checkpoint: 0.07, with which training starts"
    assert done.err.splitlines()[1].startswith("cir: no prompt_tokens in the checkpoint: drawn from N(0, 0.02), seed 0")


@pytest.fixture(scope="module")
def photos(wardrobe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve garments."""
    folder = tmp_path_factory.mktemp("converted") / "photos"
    folder.mkdir()
    for path in sorted(wardrobe_folder.rglob("*.jpg"))[:12]:
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.mark.slow
def test_a_model_of_tokens_alone_does_everything(cli: Run, sprc_checkpoint: Path, photos: Path) -> None:
    """Convert, index, search in every way, evaluate: all by the model's name."""
    work = photos.parent
    models, index = work / "models", work / "my.index"
    assert cli("convert", sprc_checkpoint, "-o", models / "sprc-tiny", *HEADS).code == 0
    line = next(line for line in cli("models", "--model-dir", models).out.splitlines() if line.startswith("sprc-tiny"))
    assert "32 tokens of 256 dims" in line
    assert "one vector" not in line
    named = ("--model", "sprc-tiny", "--model-dir", models)
    built = cli("build-index", photos, "-o", index, *named)
    assert (built.code, built.err) == (0, "")
    assert "12 images" in built.out
    shown = cli("info", index, "--json").json
    assert (shown["vectors"], shown["tokens"]) == (False, 32)
    assert cli("verify", index).code == 0

    names = sorted(path.name for path in photos.iterdir())
    picture = photos / names[0]
    for words in (
        ("-i", picture, "-t", "in red"),
        ("-i", picture),
        ("-t", "a red dress", "--not", "stripes"),
        ("-i", picture, "-i", photos / names[1], "-t", "in red"),
    ):
        found = cli("query", index, *words, "--json", "-k", 20)
        assert (found.code, found.err) == (0, "")
        hits = [hit["id"] for hit in json.loads(found.out)["hits"]]
        used = [path.name for path in words if isinstance(path, Path)]
        assert sorted([*hits, *used]) == names  # a reference is not its own answer
        exact = cli("query", index, *words, "--json", "-k", 20, "--exact")
        assert [hit["id"] for hit in json.loads(exact.out)["hits"]] == hits
    sheet = work / "sheet.png"
    assert cli("query", index, "-i", picture, "-t", "in red", "--sheet", sheet).code == 0
    assert np.asarray(Image.open(sheet)).std() > 1

    queries = work / "queries.jsonl"
    rows = [
        {"id": f"q{i}", "reference": names[i], "caption": "in red", "targets": [names[i + 1]]}
        for i in range(len(names) - 1)
    ]
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluated = cli("evaluate", "jsonl", "--data-root", photos, "--queries", queries, "--json", *named)
    assert evaluated.code == 0, evaluated.err
    assert set(json.loads(evaluated.out)["baselines"]) == {"image", "text", "sum"}


def test_an_index_without_tokens_needs_vectors(cli: Run, sprc_model: Path, photos: Path, tmp_path: Path) -> None:
    outcome = cli("build-index", photos, "-o", tmp_path / "my.index", "--model", sprc_model, "--no-tokens")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "--no-tokens" in outcome.err
    assert list(tmp_path.iterdir()) == []
