"""Image backbones: they turn pixels into features, and training leaves them frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cir.models.efficientnet import EfficientNetLite0

VIT_G: dict[str, Any] = {
    "type": "vit",
    "image_size": 224,
    "patch_size": 14,
    "hidden_size": 1408,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "qkv_bias": True,
}

VIT_L: dict[str, Any] = {
    "type": "clip",
    "image_size": 224,
    "patch_size": 14,
    "hidden_size": 1024,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}


class VisionTransformer(nn.Module):
    """BLIP-2's ViT without its last norm, which SPRC keeps apart as the trainable `ln_vision`."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        from transformers import Blip2VisionConfig, Blip2VisionModel

        self.width: int = sizes["hidden_size"]
        self.model = Blip2VisionModel(Blip2VisionConfig(**sizes))
        self.model.post_layernorm = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + patches, W), class token first."""
        features: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return features


class ClipTransformer(nn.Module):
    """CLIP's ViT without its last norm: the image side of SPRC's ViT-L. It has a norm before its first block."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.width: int = sizes["hidden_size"]
        model = CLIPVisionModel(CLIPVisionConfig(**sizes))
        self.model = getattr(model, "vision_model", model)  # transformers before 5.6 wraps it once more
        self.model.post_layernorm = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + patches, W), class token first."""
        features: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return features


def make_backbone(settings: Mapping[str, Any]) -> nn.Module:
    """The backbone of {"type": "vit" | "clip" | "efficientnet-lite0", ...its arguments}, randomly initialised.

    Its `width` is W, the length of its features. Raises KeyError or TypeError for other settings.
    """
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items() if key != "type"}
    backbones: dict[str, Any] = {
        "vit": VisionTransformer,
        "clip": ClipTransformer,
        "efficientnet-lite0": EfficientNetLite0,
    }
    return backbones[settings["type"]](**arguments)
