"""The encoder that commands use: a `Sprc` with its preprocessing and its device, numpy arrays in and out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cir import devices
from cir.arrays import Floats
from cir.types import Encoded

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.images import Preprocess
    from cir.models.sprc import Sprc
    from cir.types import ModelCard


class SprcEncoder:
    """An `Encoder` that also `ExposesQueryStates`. Safe to call from several threads.

    Args:
        sprc: the module; it is moved to the device and set to eval mode.
        card, preprocess: as stored with the weights.
        device: where to run.
        directory: the model's folder, recorded in indexes as a hint; None if it was not loaded from a folder.
    """

    def __init__(
        self,
        sprc: Sprc,
        card: ModelCard,
        preprocess: Preprocess,
        *,
        device: torch.device,
        directory: Path | None = None,
    ) -> None:
        self.sprc = sprc.to(device).eval()
        self.card = card
        self.directory = directory
        self._preprocess = preprocess
        self._device = device
        # A CPU runs several threads in parallel; an accelerator takes one batch after another.
        self._turn: AbstractContextManager[object] = nullcontext() if device.type == "cpu" else threading.Lock()

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture of any size and mode -> (3, H, W) float32."""
        return self._preprocess(image)

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call `encode_images` at once."""
        return devices.shared_by(workers, self._device)

    @torch.inference_mode()
    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, H, W) float32 pixels -> vectors (B, D), tokens (B, T, D) or both, float32 and unit-norm."""
        with self._turn:
            features = self.sprc.image_features(torch.from_numpy(pixels).to(self._device))
            states = self.sprc.target_states(features)
            vectors = self.sprc.project_vector(states) if self.card.vector else None
            tokens = self.sprc.project_tokens(states) if self.card.tokens else None
        return Encoded(None if vectors is None else _numpy(vectors), None if tokens is None else _numpy(tokens))

    @torch.inference_mode()
    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, D) float32, unit-norm: passes A and B.

        Args:
            pixels: from `preprocess`.
            captions: relative captions.
            space: id of an older space in `card.query_heads`; the model's own space if None.
        """
        return self.project_states(self.query_states(pixels, captions), space)

    @torch.inference_mode()
    def query_states(self, pixels: Floats, captions: Sequence[str]) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, width) float32, the input of the heads; not normalised."""
        with self._turn:
            return _numpy(self.sprc.query_states(torch.from_numpy(pixels).to(self._device), captions))

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm: pass D. `space` as in `encode_queries`."""
        return self.project_states(self.text_states(captions), space)

    @torch.inference_mode()
    def text_states(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, width) float32, the input of the heads; not normalised."""
        with self._turn:
            return _numpy(self.sprc.prompted_text_state(*self.sprc.tokenize(captions)))

    def unread(self, caption: str) -> str:
        """The end of a caption that the model does not read, because it is too long; "" if it reads all of it."""
        tokenizer = self.sprc.tokenizer
        return tokenizer.unread(caption, self.sprc.config.text_length) if tokenizer else ""

    @torch.inference_mode()
    def project_states(self, states: Floats, space: str | None = None) -> Floats:
        """(B, width) of `query_states` or `text_states` -> (B, D) float32, unit-norm."""
        with self._turn:
            return _numpy(self.sprc.project_query(torch.from_numpy(states).to(self._device), space))


def _numpy(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.float().cpu().numpy())
