"""The files of a training, damaged: checkpoint, log and features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cir.errors import DataError, WeightsError
from cir.models.tensor_file import read_header
from cir.models.weights import write_tensors
from cir.training import loop
from cir.training.checkpoint import CHECKPOINT, Progress, resume, write_checkpoint
from cir.training.config import read_config
from cir.training.features import cached
from cir.training.tasks import feature_key


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    line = nn.Linear(3, 2)
    named = dict(line.named_parameters())
    path = tmp_path / CHECKPOINT

    def written() -> torch.optim.Optimizer:
        optimiser = torch.optim.AdamW(line.parameters())
        line(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        write_checkpoint(path, named, optimiser, Progress(7, None, 1.5), {})
        return optimiser

    assert resume(path, named, written(), {}) == Progress(7, None, 1.5)
    whole, metadata = load_file(path), dict(read_header(path).metadata)

    def refused(tensors: dict[str, Tensor], metadata: dict[str, str], says: str) -> None:
        write_tensors(path, tensors, metadata)
        with pytest.raises(WeightsError, match=says) as error:
            resume(path, named, torch.optim.AdamW(line.parameters()), {})
        assert "\n" not in str(error.value)
        assert "delete it to start anew" in str(error.value)

    parameter = "parameter.weight"
    refused({**whole, parameter: torch.zeros(1)}, metadata, "of another shape: parameter.weight")  # would be broadcast
    refused({name: value for name, value in whole.items() if name != parameter}, metadata, "missing.*parameter.weight")
    refused({**whole, "optimiser.more.weight": torch.zeros(2, 3)}, metadata, "unknown.*optimiser.more.weight")
    for done in ("{", "[]", '{"step": -1}', '{"step": 1.5}', '{"step": 1, "more": 2}', "1" * 5000, "[" * 9999):
        refused(whole, {**metadata, "done": done}, "not a checkpoint of this training")
    refused(whole, {**metadata, "facts": "[" * 9999}, "not a checkpoint: nested too deeply")
    refused(whole, {"done": metadata["done"]}, "not a checkpoint: 'facts'")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="not a checkpoint"):
        resume(path, named, torch.optim.AdamW(line.parameters()), {})


def test_damaged_lines_of_a_log_are_dropped(tmp_path: Path) -> None:
    (tmp_path / loop.LOG).write_bytes(
        b"step,part,name,value\n0,train,a,1\nx,y\n\xff,\n" + b"1" * 5000 + b",\n9,train,a,1\n"
    )
    with loop._Log(tmp_path, 5):
        pass
    assert (tmp_path / loop.LOG).read_text() == "step,part,name,value\n0,train,a,1\n"


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    def pixels(number: int) -> np.ndarray:
        return np.full((3, 2, 2), number, np.float32)

    backbone = torch.nn.Flatten(2)
    cached(tmp_path / "toy.npy", 5, pixels, backbone)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "toy.npy").read_bytes()[:-1])
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "objects.npy", np.array([None] * 5), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(5, np.float16))
    for name in ("cut", "empty", "objects", "flat"):
        with pytest.raises(DataError, match=rf"{name}.npy.*; delete it"):
            cached(tmp_path / f"{name}.npy", 5, pixels, backbone)


def test_features_belong_to_what_decides_them() -> None:
    config = read_config("small")
    assert config.preprocess is not None
    others = [
        replace(config, preprocess=replace(config.preprocess, fill=0)),
        replace(config, batches=replace(config.batches, wardrobe_seed=9)),  # type: ignore[call-arg]
    ]
    torch.manual_seed(0)
    backbone, another = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    keys = {feature_key(config, backbone), feature_key(config, another)}
    assert len(keys | {feature_key(one, backbone) for one in others}) == 4
    same = replace(config, batches=replace(config.batches, rtc_weight=0.5))
    assert feature_key(same, backbone) == feature_key(config, backbone)
