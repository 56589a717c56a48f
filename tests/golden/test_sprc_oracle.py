"""The passes and losses of `Sprc` against the official code's own numbers (oracles/sprc-tiny), within 1e-4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cir.models.sprc import VIT_G, Sprc, SprcConfig, scores
from cir.text import Tokenizer

TOLERANCE = 1e-4
VISION = {
    "blocks.": "encoder.layers.",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
}
TEXT = {
    "Qformer.bert.embeddings.LayerNorm": "qformer.layernorm",
    "Qformer.bert.embeddings": "embeddings",
    "Qformer.bert.encoder": "qformer.encoder",
    "attention.self": "attention.attention",
}
UNUSED = ("Qformer.cls.", "Qformer.bert.embeddings.position_ids", "itm_head.")


def our_state(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {}
    for key, value in theirs.items():
        if key.startswith(UNUSED) or key.endswith("v_bias"):
            continue
        if key.endswith("q_bias"):  # the key bias that LAVIS does not have is zero here
            parts = [value, torch.zeros_like(value), theirs[key.replace("q_bias", "v_bias")]]
            key, value = key.replace("q_bias", "qkv.bias"), torch.cat(parts)
        vision = key.startswith("visual_encoder.")
        for old, new in (VISION if vision else TEXT).items():
            key = key.replace(old, new)
        ours[key.replace("visual_encoder.", "vision.model.")] = value.float()
    return ours


@pytest.fixture(scope="module")
def oracle(shared: Path) -> tuple[Sprc, dict[str, torch.Tensor], list[str]]:
    folder = shared / "oracles" / "sprc-tiny"
    known: dict[str, Any] = json.loads((folder / "oracle.json").read_text())
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / "oracle.npz").items()}
    state = torch.load(folder / "model.pt", weights_only=True)["Blip2QformerCirAlignPrompt"]
    former = known["config"]["qformer"]
    config = SprcConfig(
        vision={
            **VIT_G,
            **known["config"]["vision"],
            "intermediate_size": len(state["visual_encoder.blocks.0.mlp.fc1.weight"]),
        },
        width=former["hidden_size"],
        layers=former["num_hidden_layers"],
        heads=former["num_attention_heads"],
        intermediate=former["intermediate_size"],
    )
    model = Sprc(config).eval()
    model.load_state_dict(our_state(state), strict=True)
    return model, arrays, known["captions_raw"]


@torch.inference_mode()
def test_the_four_passes(oracle: tuple[Sprc, dict[str, torch.Tensor], list[str]]) -> None:
    model, known, _ = oracle
    ids, mask = known["input_ids"], known["attention_mask"]
    prompt = model.sentence_prompt(model.image_features(known["reference"]), ids, mask)
    query = model.sentence_vector(prompt, ids, mask)
    gallery = model.gallery_tokens(known["gallery"])
    for name, ours, theirs in (
        ("A", prompt, known["fusion_hidden"][:, : prompt.shape[1]]),
        ("B", query, known["query_feat"]),
        ("C", gallery, known["gallery_feats"]),
        ("similarities", scores(query, gallery), known["sim"]),
    ):
        assert (ours - theirs).abs().max() < TOLERANCE, name


def test_the_losses(oracle: tuple[Sprc, dict[str, torch.Tensor], list[str]]) -> None:
    model, known, captions = oracle
    model.tokenizer = None
    with pytest.raises(ValueError, match="without a tokenizer"):
        model.tokenize(captions)
    model.tokenizer = FixedTokenizer(known)  # type: ignore[assignment]
    ours = model.losses(known["reference"], known["target"], captions)
    for name, value in ours.items():
        assert value.item() == pytest.approx(known[f"loss_{name}"].item(), abs=TOLERANCE), name


class FixedTokenizer:
    """The oracle's own ids; that ours are the same is tested with the vocabulary of the embedded model."""

    def __init__(self, known: dict[str, torch.Tensor]) -> None:
        self.ids, self.mask = known["input_ids"].numpy(), known["attention_mask"].numpy()

    def __call__(self, captions: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        return self.ids, self.mask


def test_token_ids_are_the_official_ones(oracle: tuple[Sprc, dict[str, torch.Tensor], list[str]]) -> None:
    from cir.models import PACKAGED

    _, known, captions = oracle
    tokenizer = Tokenizer(PACKAGED / "small-1" / "vocab.txt", pad_to_longest=False)
    ids, mask = tokenizer(captions, 32)
    assert np.array_equal(ids, known["input_ids"].numpy())
    assert np.array_equal(mask, known["attention_mask"].numpy())
