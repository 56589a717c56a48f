"""Names of tensors: ours, and those of LAVIS, SPRC and Hugging Face for the same tensor.

Taken from the official code and transformers; `docs/design/0004-lavis.md` shows the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from cir.errors import WeightsError
from cir.models.checkpoints import HUGGING_FACE, Checkpoint

# Our names -> the checkpoint's. The rules are applied in order.
_BERT = (
    ("qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
    ("qformer.encoder.", "Qformer.bert.encoder."),
    ("attention.attention.", "attention.self."),
    ("embeddings.word_", "Qformer.bert.embeddings.word_"),
    ("embeddings.position_", "Qformer.bert.embeddings.position_"),
)
_EVA = (
    ("vision.model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision.model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision.model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision.model.encoder.layers.", "visual_encoder.blocks."),
    ("layer_norm", "norm"),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
)
_CLIP = (
    ("vision.model.embeddings.class_embedding", "visual_encoder.class_embedding"),
    ("vision.model.embeddings.position_embedding.weight", "visual_encoder.positional_embedding"),
    ("vision.model.embeddings.patch_embedding", "visual_encoder.conv1"),
    ("vision.model.pre_layrnorm", "visual_encoder.ln_pre"),
    ("vision.model.encoder.layers.", "visual_encoder.transformer.resblocks."),
    ("layer_norm", "ln_"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
_HUB = (
    ("ln_vision.", "vision_model.post_layernorm."),
    ("vision.model.", "vision_model."),
    ("vision_proj.", "vision_projection."),
    ("text_proj.", "text_projection."),
)
_IN_PROJ = re.compile(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)")


class Names:
    """A checkpoint's names for our tensors."""

    def __init__(self, source: Checkpoint, given: Mapping[str, Tensor]) -> None:
        self.hub = source.kind == HUGGING_FACE
        self.clip = "visual_encoder.class_embedding" in given or "visual_encoder.conv1.weight" in given
        if not self.hub and not any(key.startswith("visual_encoder.") for key in given):
            raise WeightsError(
                f"{source.path}: no image encoder in it (visual_encoder.*); "
                "give the image encoder it was trained with: --vision eva_vit_g.pth"
            )

    def __call__(self, ours: str) -> str:
        """The checkpoint's name for one of our tensors."""
        rules = _HUB if self.hub else _BERT if not ours.startswith("vision.") else _CLIP if self.clip else _EVA
        name = ours
        for part, replacement in rules:
            name = name.replace(part, replacement)
        return name

    def sources(self, ours: str) -> tuple[list[str | None], int | None]:
        """The sources of one of our tensors.

        Returns:
            Names of tensors to join along the first axis (None stands for zeros), and which third of the result is our
            tensor (None: all of it).
        """
        if self.hub or not ours.startswith("vision."):
            return [self(ours)], None
        if self.clip and (match := _IN_PROJ.fullmatch(ours)):
            return [f"{self(match[1])}.attn.in_proj_{match[3]}"], "qkv".index(match[2])
        if ours.endswith("qkv.bias"):  # LAVIS has no bias on keys
            stem = self(ours).removesuffix("qkv.bias")
            return [f"{stem}q_bias", None, f"{stem}v_bias"], None
        return [self(ours)], None
