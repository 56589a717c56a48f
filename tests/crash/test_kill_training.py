"""A training that is killed with -9 and started again ends with the weights of an uninterrupted one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cir.training.checkpoint import CHECKPOINT

pytestmark = pytest.mark.slow

# Prints each step to stdout, so that the kill can follow it at once.
PROGRAM = """
import sys
from pathlib import Path
from cir.training import loop
from cir.training.config import read_config
from cir.training.tasks import facts, make_task

config, root, start, work, out = map(Path, sys.argv[1:])
settings = read_config(config)
task, recipe = make_task(settings, root, work, start=start)
record = facts(settings, start)
loop.train(task, recipe, work=work, out=out, facts=record, on_step=lambda step, _: print(step, flush=True))
"""


def train(*places: Path, kill_at: int | None = None) -> None:
    """Train, to the end or until a step has been printed, after which the process is killed."""
    command = [sys.executable, "-c", PROGRAM, *map(str, places)]
    # One thread: the order of sums, and with it the last bit, is then always the same.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if kill_at is not None and int(line) >= kill_at:
                process.kill()
    assert process.returncode == (0 if kill_at is None else -9)


def test_three_kills_change_nothing(
    training_config: Path, fashioniq_train: Path, tiny_model: Path, tmp_path: Path
) -> None:
    given = (training_config, fashioniq_train, tiny_model)
    train(*given, tmp_path / "whole", tmp_path / "whole-model")
    rng = random.Random(20261124)
    for step in sorted(rng.sample(range(1, 15), 3)):
        train(*given, tmp_path / "killed", tmp_path / "killed-model", kill_at=step)
    train(*given, tmp_path / "killed", tmp_path / "killed-model")
    whole, killed = (load_file(tmp_path / name / CHECKPOINT) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert len(whole) > 100
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("whole-model", "killed-model")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
