"""The encoder on torch: a `Sprc` with its preprocessing and its device, numpy arrays in and out."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cir import devices
from cir.arrays import Floats
from cir.models.base_encoder import BaseEncoder, Pieces
from cir.models.computing import computes, placed
from cir.types import Encoded

if TYPE_CHECKING:
    from cir.images import Preprocess
    from cir.models.sprc import Sprc
    from cir.types import ModelCard


class SprcEncoder(BaseEncoder):
    """An encoder that torch computes, on any device.

    Args:
        sprc: the module; it is moved to the device and set to eval mode.
        card, preprocess, directory: see `BaseEncoder`.
        device: where to run.

    Attributes:
        device: where it runs.
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
        super().__init__(card, sprc.config, preprocess, sprc.tokenizer, directory)
        self.sprc = placed(sprc, device)
        self.device = device

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call the encoder at once."""
        return devices.shared_by(workers, self.device)

    @computes
    def _encode_images(self, pixels: Floats) -> Encoded:
        states = self.sprc.target_states(self.sprc.image_features(self._tensor(pixels)))
        return Encoded(
            _numpy(self.sprc.project_vector(states)) if self.card.vector else None,
            _numpy(self.sprc.project_tokens(states)) if self.card.tokens else None,
        )

    @computes
    def _query_states(self, pixels: Floats, ids: Pieces, mask: Pieces) -> Floats:
        features = self.sprc.image_features(self._tensor(pixels))
        caption = self._tensor(ids), self._tensor(mask)
        return _numpy(self.sprc.sentence_state(self.sprc.sentence_prompt(features, *caption), *caption))

    @computes
    def _text_states(self, ids: Pieces, mask: Pieces) -> Floats:
        return _numpy(self.sprc.prompted_text_state(self._tensor(ids), self._tensor(mask)))

    @computes
    def _project_states(self, states: Floats, space: str | None) -> Floats:
        return _numpy(self.sprc.project_query(self._tensor(states), space))

    def _tensor(self, values: Floats | Pieces) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _numpy(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.float().cpu().numpy())
