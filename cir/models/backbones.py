"""Image backbones: they turn pixels into features, and training leaves them frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from cir.models.config import EfficientNetSettings, SprcConfig, VitSettings, backbone_settings
from cir.models.efficientnet import EfficientNetLite0
from cir.models.whole_picture import WholePicture


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


def make_backbone(values: Mapping[str, Any]) -> nn.Module:
    """The backbone of {"type": "vit" | "clip" | "efficientnet-lite0", ...its settings}, randomly initialised.

    Its `width` is W, the length of its features. Raises ValueError for other settings.
    """
    settings = backbone_settings(values)
    if isinstance(settings, EfficientNetSettings):
        return EfficientNetLite0(stages=settings.stages)
    return (VisionTransformer if isinstance(settings, VitSettings) else ClipTransformer)(**asdict(settings))


def make_whole_picture(config: SprcConfig, map_width: int) -> WholePicture | None:
    """What pools the backbone's last layer, randomly initialised; None for a model without it. `map_width` is W."""
    settings = backbone_settings(config.vision)
    if not isinstance(settings, EfficientNetSettings) or settings.whole is None:
        return None
    return WholePicture(settings.whole, map_width=map_width, width=config.width, tokens=config.query_tokens)
