"""A dual encoder of this project's own parts, as `cir train dual` makes it: EfficientNet-Lite0 and MiniLM, both frozen.

The trunk's maps are averaged over the picture, MiniLM's states over the words; each is normalised and projected by one
matrix. Its folder has the form of CLIP's: `config.json`, `model.safetensors`, `preprocessor_config.json`, `vocab.txt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from cir import devices
from cir.arrays import Floats
from cir.errors import WeightsError
from cir.files import parse_json, read_regular
from cir.images import Preprocess
from cir.images.picture import as_picture
from cir.model_card import Dims
from cir.models.computing import computes, placed
from cir.models.dual_encoder import DualEncoder
from cir.models.efficientnet import EfficientNetLite0
from cir.models.hub.files import HubFiles, card_of
from cir.text import Tokenizer, read_vocabulary
from cir.typed_json import Within, from_json

if TYPE_CHECKING:
    from PIL.Image import Image

_LARGEST = 1_000_000  # bytes of the picture settings


@dataclass(frozen=True)
class DualSizes:
    """The sizes of the network.

    Attributes:
        projection_dim: D.
        stages: of the trunk, whose maps are gathered.
        text_length: longest caption in word pieces.
        text_config: MiniLM's sizes, in the words of transformers' BERT.
    """

    projection_dim: Dims = 256
    stages: Annotated[tuple[Annotated[int, Within(0, 6)], ...], Within(1, 7)] = (2, 4, 6)
    text_length: Annotated[int, Within(3, 512)] = 32
    text_config: Mapping[str, Any] = field(default_factory=dict)


class SmallDual(nn.Module):
    """The network; only norms and projections are trained."""

    def __init__(self, sizes: DualSizes) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.sizes = sizes
        self.vision_model = EfficientNetLite0(stages=sizes.stages)
        self.text_model = BertModel(BertConfig(**sizes.text_config), add_pooling_layer=False)
        self.text_model.requires_grad_(False)
        self.vision_model.requires_grad_(False)
        text_width: int = self.text_model.config.hidden_size
        self.vision_norm, self.text_norm = nn.LayerNorm(self.vision_model.width), nn.LayerNorm(text_width)
        self.visual_projection = nn.Linear(self.vision_model.width, sizes.projection_dim, bias=False)
        self.text_projection = nn.Linear(text_width, sizes.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))  # 1 / 0.07, as CLIP starts

    def pooled_pictures(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, W): the trunk's maps, averaged over the picture."""
        pooled: Tensor = self.vision_model(pixels).mean(dim=1)
        return pooled

    def pooled_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) ids and mask -> (B, W): MiniLM's states, averaged over the words."""
        states = self.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        pooled: Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
        return pooled

    def project_pictures(self, pooled: Tensor) -> Tensor:
        """(B, W) of `pooled_pictures` -> (B, D), not normalised."""
        projected: Tensor = self.visual_projection(self.vision_norm(pooled))
        return projected

    def project_texts(self, pooled: Tensor) -> Tensor:
        """(B, W) of `pooled_texts` -> (B, D), not normalised."""
        projected: Tensor = self.text_projection(self.text_norm(pooled))
        return projected


class SmallDualEncoder(DualEncoder):
    """The encoder of such a folder.

    Args:
        files: the folder.
        device: where to run.

    Raises:
        WeightsError: a file does not fit the others.
    """

    def __init__(self, files: HubFiles, device: torch.device) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        super().__init__(card_of(files), device, files.directory)
        config = {key: files.config[key] for key in vars(DualSizes()) if key in files.config}
        try:
            self._preprocess = from_json(Preprocess, parse_json(read_regular(files.processor, _LARGEST)))
            network = SmallDual(from_json(DualSizes, config))
            network.load_state_dict(load_file(files.weights[0]))
        except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise WeightsError(f"{files.directory}: cannot be loaded: {reason}; copy it again") from None
        self._network = placed(network, device)
        self._tokenizer = Tokenizer(read_vocabulary(files.tokenizer[0]))

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """(3, H, W)."""
        return 3, self._preprocess.size, self._preprocess.size

    @property
    def min_side(self) -> int | None:  # type: ignore[override]
        """How large a decoded picture needs to be."""
        return self._preprocess.min_side

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture of any size and mode, or an array -> (3, H, W) float32. Raises as `as_picture`."""
        return self._preprocess(as_picture(image))

    @computes
    def image_features(self, pixels: Floats) -> Floats:
        """(B, 3, H, W) -> (B, D) float32, not normalised."""
        with devices.backbone_autocast(self.device):
            pooled = self._network.pooled_pictures(torch.from_numpy(pixels).to(self.device))
        values: Floats = self._network.project_pictures(pooled.float()).cpu().numpy()
        return values

    @computes
    def text_features(self, captions: Sequence[str]) -> Floats:
        """B captions -> (B, D) float32, not normalised."""
        pieces = self._tokenizer(captions, self._network.sizes.text_length)
        pooled = self._network.pooled_texts(*(torch.from_numpy(part).to(self.device) for part in pieces))
        values: Floats = self._network.project_texts(pooled).cpu().numpy()
        return values

    def unread(self, caption: str) -> str:
        """The end of a caption that is too long to be read; "" if all of it is read."""
        return self._tokenizer.unread(caption, self._network.sizes.text_length)
