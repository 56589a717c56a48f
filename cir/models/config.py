"""The sizes of a model and of its image backbone, bounded: they come out of files. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cir.model_card import Dims, Simplex, SpaceId
from cir.typed_json import UNLESS_DEFAULT, Within, digest, from_json

# Twice and more what any published model has, and few enough for a model to be laid out in a second.
Width = Annotated[int, Within(1, 16_384)]
Inner = Annotated[int, Within(1, 65_536)]
Layers = Annotated[int, Within(1, 96)]
Heads = Annotated[int, Within(1, 256)]
Rows = Annotated[int, Within(1, 1_000_000)]
Share = Annotated[float, Within(0, 1)]

LAST_STAGE, LAST_CHANNELS = 6, 320  # of EfficientNet-Lite0

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


def _divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """Raises ValueError unless a size is a multiple of a number."""
    if part < 1 or whole % part:
        raise ValueError(f"{name}: {part} does not divide the {whole_name} of {whole}")


@dataclass(frozen=True)
class ClipSettings:
    """CLIP's ViT, in the words of transformers."""

    image_size: Annotated[int, Within(1, 4096)]
    patch_size: Annotated[int, Within(1, 4096)]
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Heads
    intermediate_size: Inner
    hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
    layer_norm_eps: Share = 1e-5
    attention_dropout: Share = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that contradict each other."""
        _divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        if self.patch_size > self.image_size:
            raise ValueError(f"a patch_size of {self.patch_size} for an image_size of {self.image_size}")


@dataclass(frozen=True)
class VitSettings(ClipSettings):
    """BLIP-2's ViT, in the words of transformers."""

    hidden_act: Literal["gelu", "quick_gelu"] = "gelu"
    layer_norm_eps: Share = 1e-6
    qkv_bias: bool = True


@dataclass(frozen=True)
class WholePictureSettings:
    """`cir.models.whole_picture`: its hidden width, dropout in training, and whether gallery vectors use it."""

    hidden: Inner
    dropout: Share = 0.0
    gallery: bool = True


@dataclass(frozen=True)
class EfficientNetSettings:
    """EfficientNet-Lite0: the stages whose maps are gathered, in order, and whether its last layer is pooled too."""

    stages: Annotated[tuple[Annotated[int, Within(0, 6)], ...], Within(1, 7)] = (2, 4, 6)
    whole: WholePictureSettings | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for stages out of order, or without the one that `whole` pools."""
        if list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages {list(self.stages)} are not in order, each once")
        if self.whole and self.stages[-1] != LAST_STAGE:
            raise ValueError(f"whole needs stage {LAST_STAGE} among the stages")


BackboneSettings = ClipSettings | EfficientNetSettings
BACKBONES: dict[str, type[BackboneSettings]] = {
    "vit": VitSettings,
    "clip": ClipSettings,
    "efficientnet-lite0": EfficientNetSettings,
}


def backbone_settings(values: Mapping[str, Any]) -> BackboneSettings:
    """The settings of {"type": "vit" | "clip" | "efficientnet-lite0", ...}. Raises ValueError for anything else."""
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in BACKBONES:
        raise ValueError(f"vision.type: not one of {', '.join(BACKBONES)}")
    try:
        return from_json(BACKBONES[kind], {key: value for key, value in values.items() if key != "type"})
    except ValueError as error:
        raise ValueError(f"vision: {error}") from None


@dataclass(frozen=True)
class SprcConfig:
    """The size of a model.

    Attributes:
        vision: {"type": "vit" | "clip" | "efficientnet-lite0", ...settings of that backbone}.
        width, layers, heads, intermediate: of the Q-Former.
        cross_attention_every: image attention in layers 0, n, 2n, ...
        query_tokens: T.
        dims: D.
        vocabulary: rows of the word embedding.
        text_length: L, longest caption in word pieces, [CLS] and [SEP] included.
        positions: rows of the position embedding.
        gallery_vector: whether the gallery encoder gives one vector per image.
        gallery_tokens: whether it gives T tokens per image, as the official models do.
        query_heads: id of each older space with a query head -> its dims.
        simplex: the fixed vertices that the gallery vector is trained against, or None.
        sentence: the state that stands for a sentence in passes B and D: that of its first token, [CLS], as SPRC has
            it, or the mean over prompt and caption, as sentence encoders such as MiniLM were trained.
    """

    vision: Mapping[str, Any] = field(default_factory=lambda: dict(VIT_G))
    width: Width = 768
    layers: Layers = 12
    heads: Heads = 12
    intermediate: Inner = 3072
    cross_attention_every: Layers = 2
    query_tokens: Annotated[int, Within(1, 4096)] = 32
    dims: Dims = 256
    vocabulary: Rows = 30523
    text_length: Annotated[int, Within(3, 4096)] = 32
    positions: Rows = 512
    dropout: Share = 0.1
    gallery_vector: bool = False
    gallery_tokens: bool = True
    query_heads: Annotated[Mapping[SpaceId, Dims], Within(0, 64)] = field(default_factory=dict)
    simplex: Simplex | None = None
    sentence: Literal["first", "mean"] = field(default="first", metadata=UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that contradict each other."""
        backbone_settings(self.vision)
        _divides("heads", self.heads, "width", self.width)
        if not self.gallery_vector and not self.gallery_tokens:
            raise ValueError("a model with neither gallery_vector nor gallery_tokens encodes no gallery")
        if self.query_tokens + self.text_length > self.positions:
            raise ValueError(
                f"{self.query_tokens} query_tokens and a text_length of {self.text_length} exceed {self.positions} "
                "positions"
            )
        if self.simplex is not None and self.simplex.dims > self.dims:
            raise ValueError(f"a simplex of {self.simplex.dims} dims in vectors of {self.dims}")

    @property
    def sha256(self) -> str:
        """Digest of the configuration."""
        return digest(self)


VIT_G_CONFIG = SprcConfig(vision=VIT_G)
