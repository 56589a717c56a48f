"""Official checkpoints are foreign files: what is not in them is not converted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cir.errors import UsageError, WeightsError
from cir.models.checkpoints import open_checkpoint
from cir.models.convert import convert


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(2**40), "not a plain tensor in the file"),
        (torch.zeros(2, 2).to_sparse(), "not a plain tensor in the file"),
        (torch.zeros(1, device="meta"), "not a plain tensor in the file|not a readable checkpoint"),
    ],
)
def test_tensors_that_are_not_in_the_file_are_refused(tmp_path: Path, tensor: Tensor, message: str) -> None:
    torch.save({"model": {"ln_vision.weight": tensor}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("names", [{"a": "../secret.safetensors"}, {"a": 1}, {"a": "/etc/passwd"}, {}, [], "x"])
def test_an_index_of_shards_names_files_of_its_folder(tmp_path: Path, names: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="does not name the files of this folder"):
        open_checkpoint(tmp_path)


def test_a_model_has_a_name_that_can_be_printed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'a\\nb' is not a name for a model"):
        convert(tmp_path / "x.pt", tmp_path / "a\nb")
