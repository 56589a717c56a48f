"""`cir train`, as a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cir import build_index, load_model
from cir.images import scan
from cir.testing import commands
from cir.testing.commands import Run
from cir.training.checkpoint import CHECKPOINT
from cir.training.loop import LOG

pytestmark = pytest.mark.slow

mistake = partial(commands.mistake, alone=False)  # after progress and warnings


def test_a_training_from_start_to_end(
    cli: Run, training_config: Path, fashioniq_train: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ["train", training_config, "--data-root", fashioniq_train, "--start", tiny_model, "--work", tmp_path / "w"]
    done = cli(*words, "--out", tmp_path / "model", "--device", "cpu")
    assert done.code == 0, done.err
    assert done.out.startswith(f"{tmp_path / 'model'}: tiny-trained, its best at step ")
    assert "held-out R@10" in done.err
    log = (tmp_path / "w" / LOG).read_text().splitlines()
    assert log[0] == "step,part,name,value"
    assert any(line.startswith("0,train,itc,") for line in log)
    assert list((tmp_path / "w").glob("events.out.tfevents.*"))
    assert cli("models", "--model-dir", tmp_path).out.count("tiny-trained") == 1
    again = cli(*words, "--out", tmp_path / "model", "--device", "cpu")
    assert (again.code, again.out) == (0, done.out)
    mistake(cli(*words, "--out", tmp_path / "other"), "does not hold the best model", "--work")
    mine = tmp_path / "mine.toml"
    mine.write_text(training_config.read_text().replace("1e-3", "2e-3"))
    nowhere = ["train", mine, *words[2:3], tmp_path / "not looked at", *words[4:], "--out", tmp_path / "model"]
    mistake(cli(*nowhere), "a checkpoint of another configuration", "--work")
    assert not (tmp_path / "other").exists()


def test_broken_pictures_are_counted(
    cli: Run, training_config: Path, fashioniq_train: Path, tiny_model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "fashioniq"
    shutil.copytree(fashioniq_train, root)
    (root / "images" / "dress1a.png").write_bytes(b"not a picture")
    words = ["train", training_config, "--data-root", root, "--start", tiny_model, "--work", tmp_path / "w"]
    mistake(cli(*words, "--out", tmp_path / "model"), "dress1a.png: cannot be read", "--allow-unreadable")
    shutil.rmtree(tmp_path / "w")
    done = cli(*words, "--out", tmp_path / "model", "--allow-unreadable")
    assert done.code == 0, done.err
    assert "1 pictures are missing or broken" in done.err


def test_mistakes(cli: Run, training_config: Path, fashioniq_train: Path, tiny_model: Path, tmp_path: Path) -> None:
    rest = ["--work", tmp_path / "w", "--out", tmp_path / "model"]
    mistake(cli("train", "large", "--data-root", fashioniq_train, *rest), "no configuration 'large'", "fashioniq")
    mistake(cli("train", "cirr", "--data-root", fashioniq_train, *rest), "--start DIR")
    nowhere = ["--data-root", tmp_path / "gone", "--start", tiny_model]
    mistake(cli("train", training_config, *nowhere, *rest), "gone", "--data-root")
    no_model = ["--data-root", fashioniq_train, "--start", tmp_path]
    mistake(cli("train", training_config, *no_model, *rest), "no card.json")
    (tmp_path / "file").touch()
    under_a_file = ["--data-root", fashioniq_train, "--start", tiny_model, "--work", tmp_path / "file" / "w"]
    mistake(cli("train", training_config, *under_a_file, "--out", tmp_path / "model"), "cannot be written", "file/w")
    assert not (tmp_path / "model").exists()


def test_models_to_replace_are_named_by_folder_or_by_index(
    cli: Run,
    training_config: Path,
    fashioniq_train: Path,
    wardrobe_folder: Path,
    make_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The task of this configuration replaces no model; the message comes after the models have been looked up."""
    older = make_model(tmp_path / "tiny-trained", seed=3)  # the name in the configuration
    build_index(scan([wardrobe_folder])[:3], tmp_path / "my.index", load_model(older))
    words = ["train", training_config, "--data-root", fashioniq_train, "--start", older, "--out", tmp_path / "out"]
    for place in (older, tmp_path / "my.index"):
        done = cli(*words, "--work", tmp_path / "w", "--replaces", place)
        mistake(done, "only the task attributes")
        assert "tiny-trained is a model that it replaces; the new model is called tiny-trained-2" in done.err
    mistake(cli(*words, "--work", tmp_path / "w", "--replaces", tmp_path), "no card.json")


@pytest.mark.slow
def test_two_processes_train_one_model(
    training_config: Path, fashioniq_train: Path, tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    words = ["train", training_config, "--data-root", fashioniq_train, "--start", tiny_model, "--device", "cpu"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "cir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    places = ["--work", tmp_path / "w", "--out", tmp_path / "model"]
    done = subprocess.run(
        [*launch, *map(str, [*words, *places])], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tiny-trained, its best") == 1
    trained, start = load_file(tmp_path / "w" / CHECKPOINT), load_file(tiny_model / "model.safetensors")
    moved = trained["parameter.query_tokens"] - start["query_tokens"].float()
    assert moved.abs().max() > 0
