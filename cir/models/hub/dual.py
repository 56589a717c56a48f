"""Dual encoders of the hub: CLIP, MetaCLIP 2, SigLIP and SigLIP 2, as transformers computes them."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cir import devices
from cir.arrays import Floats
from cir.errors import WeightsError
from cir.images.picture import as_picture
from cir.images.preprocess import as_seen
from cir.models.computing import computes
from cir.models.dual_encoder import DualEncoder
from cir.models.hub.captions import read_part
from cir.models.hub.files import HubFiles, card_of
from cir.models.hub.loading import load_network, load_picture_processor, load_tokenizer, problems_of

if TYPE_CHECKING:
    from PIL.Image import Image


class HubDualEncoder(DualEncoder):
    """A dual encoder whose network, tokenizer and processor are those of its folder.

    Pictures are turned upright and laid on white first, which leaves ordinary ones as they are; then the model's own
    processor makes pixels of them. SigLIP 2 with a variable resolution (NaFlex) takes patches instead of a square: its
    pixels are (1 + P, patch) float32, height and width in patches in the first row, padded with zeros.

    Args:
        files: the folder.
        device: where to run.

    Raises:
        WeightsError: a file does not fit the others.
    """

    def __init__(self, files: HubFiles, device: torch.device) -> None:
        super().__init__(card_of(files), device, files.directory)
        self._pads = files.architecture.pads
        self._processor = load_picture_processor(files)
        self._tokenizer = load_tokenizer(files)
        self._network = load_network(files, device)
        self._patches = files.kind == "siglip2"
        # SigLIP 2 was trained on small letters; its checkpoints of one resolution name a tokenizer that keeps capitals.
        self._lower = type(self._tokenizer).__name__.startswith("Gemma")
        self._length = int(self._network.config.text_config.max_position_embeddings)
        self._lock = Lock()  # padding and truncation are settings of the tokenizer
        with problems_of(files, files.processor.name):
            pixels = self._pixels(_probe())
            self._shape = pixels.shape
            vectors = self.image_features(pixels[None])
        with problems_of(files, files.tokenizer[0].name):
            texts = self.text_features(["a"])
        if not vectors.shape == texts.shape == (1, self.card.dims) or not np.isfinite([vectors, texts]).all():
            raise WeightsError(f"{files.directory}: gives no finite vectors of {self.card.dims} dims; copy it again")

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """(3, H, W), or (1 + P, patch) of a variable resolution."""
        return self._shape

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture of any size and mode, or an array -> pixels by the model's own processor, float32.

        Raises:
            UsageError: not a picture; ImageDecodeError: one that cannot be read.
        """
        return self._pixels(as_seen(as_picture(image)))

    @computes
    def image_features(self, pixels: Floats) -> Floats:
        """(B, *pixel_shape) -> (B, D) float32, not normalised: the pooled output, projected where the model does so."""
        given: dict[str, Any] = {"pixel_values": torch.from_numpy(pixels)}
        if self._patches:
            shapes = torch.from_numpy(pixels[:, 0, :2]).long()
            places = torch.arange(pixels.shape[1] - 1)
            given = {
                "pixel_values": torch.from_numpy(pixels[:, 1:]),
                "pixel_attention_mask": (places[None] < shapes.prod(dim=1, keepdim=True)).int(),
                "spatial_shapes": shapes,
            }
        return self._pooled(self._network.get_image_features, given)

    @computes
    def text_features(self, captions: Sequence[str]) -> Floats:
        """B captions -> (B, D) float32, not normalised; what is longer than the model reads is cut."""
        with self._lock:
            given = self._tokenizer(
                [caption.lower() for caption in captions] if self._lower else list(captions),
                padding="max_length" if self._pads else True,
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            )
        return self._pooled(self._network.get_text_features, dict(given))

    def unread(self, caption: str) -> str:
        """The end of a caption that is longer than the model reads; "" if all of it is read."""
        with self._lock:
            return caption[len(read_part(self._tokenizer, caption, self._length)) :].strip()

    def _pixels(self, picture: Image) -> Floats:
        made = self._processor(images=[picture], return_tensors="np")
        values: Floats = np.asarray(made["pixel_values"][0], np.float32)
        if not self._patches:
            return values
        packed = np.zeros((1 + len(values), values.shape[1]), np.float32)
        packed[0, :2] = made["spatial_shapes"][0]
        packed[1:] = values
        return packed

    def _pooled(self, features: Any, given: dict[str, torch.Tensor]) -> Floats:
        on_device = {name: values.to(self.device) for name, values in given.items()}
        with devices.backbone_autocast(self.device):
            out = features(**on_device)
        pooled = out if isinstance(out, torch.Tensor) else out.pooler_output
        values: Floats = pooled.float().cpu().numpy()
        return values


def _probe() -> Image:
    """A picture whose pixels show the shape of all."""
    from PIL import Image

    return Image.new("RGB", (64, 64), "white")
