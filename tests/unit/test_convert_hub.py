"""Hugging Face's BLIP-2 becomes a model, in shards, in one file, and in the format before safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cir.errors import WeightsError
from cir.models import weights
from cir.models.convert import convert


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on the hub: transformers' own class, saved in shards."""
    return save_hub_model(tmp_path_factory.mktemp("hub") / "blip2-itm", max_shard_size="3MB")


def save_hub_model(folder: Path, **options: str) -> Path:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = Blip2Config(
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        qformer_config={**sizes, "vocab_size": 30523, "encoder_hidden_size": 32, "use_qformer_text_input": True},
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
    torch.manual_seed(5)
    model = Blip2ForImageTextRetrieval(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, **options)
    return folder


@torch.no_grad()
def test_hugging_face(hub_folder: Path, tmp_path: Path) -> None:
    from transformers import Blip2ForImageTextRetrieval

    assert len(list(hub_folder.glob("*.safetensors"))) > 1
    done = convert(hub_folder, tmp_path / "model")  # heads are in config.json
    assert [note.split(" in")[0] for note in done.notes] == ["no temp", "no prompt_tokens"]
    model, _, preprocess = weights.load(tmp_path / "model")
    assert preprocess.size == 28
    pixels, captions = torch.randn(3, 3, 28, 28), ["in red", "a dress", "with long sleeves"]
    ids, mask = model.tokenize(captions)
    theirs = Blip2ForImageTextRetrieval.from_pretrained(hub_folder)(pixels, ids, mask)
    # LAVIS's norm of image features has another epsilon, and ours follows LAVIS.
    assert (model.gallery_tokens(pixels) - theirs.image_embeds).abs().max() < 1e-4
    shard = max(hub_folder.glob("*.safetensors"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in hub_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / shard.name).write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{shard.name}: not a readable safetensors file"):
        convert(broken, tmp_path / "other")
    (broken / shard.name).unlink()
    with pytest.raises(WeightsError, match=shard.name):
        convert(broken, tmp_path / "other")


def test_hugging_face_before_safetensors(hub_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    tensors = {key: value for path in hub_folder.glob("*.safetensors") for key, value in load_file(path).items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_bytes((hub_folder / "config.json").read_bytes())
    one, other = convert(hub_folder, tmp_path / "a").card, convert(folder, tmp_path / "b").card
    assert one.digest == other.digest
