"""The encoder on torch: a `Sprc` with its preprocessing and its device, numpy arrays in and out."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cir import devices
from cir.arrays import Floats
from cir.errors import UsageError
from cir.forks import no_fork
from cir.models.base_encoder import BaseEncoder, Pieces
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
        turn: entered around whatever computes.
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
        self.sprc = sprc.to(device).eval()
        self.device = device
        # A CPU runs several threads in parallel; an accelerator takes one batch after another.
        self.turn: AbstractContextManager[object] = no_fork if device.type == "cpu" else _Turns()

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call the encoder at once."""
        return devices.shared_by(workers, self.device)

    @torch.inference_mode()
    def _encode_images(self, pixels: Floats) -> Encoded:
        with self.turn:
            states = self.sprc.target_states(self.sprc.image_features(self._tensor(pixels)))
            return Encoded(
                _numpy(self.sprc.project_vector(states)) if self.card.vector else None,
                _numpy(self.sprc.project_tokens(states)) if self.card.tokens else None,
            )

    @torch.inference_mode()
    def _query_states(self, pixels: Floats, ids: Pieces, mask: Pieces) -> Floats:
        with self.turn:
            features = self.sprc.image_features(self._tensor(pixels))
            caption = self._tensor(ids), self._tensor(mask)
            return _numpy(self.sprc.sentence_state(self.sprc.sentence_prompt(features, *caption), *caption))

    @torch.inference_mode()
    def _text_states(self, ids: Pieces, mask: Pieces) -> Floats:
        with self.turn:
            return _numpy(self.sprc.prompted_text_state(self._tensor(ids), self._tensor(mask)))

    @torch.inference_mode()
    def _project_states(self, states: Floats, space: str | None) -> Floats:
        with self.turn:
            return _numpy(self.sprc.project_query(self._tensor(states), space))

    def _tensor(self, values: Floats | Pieces) -> Tensor:
        return torch.from_numpy(values).to(self.device)


class _Turns:
    """One thread after another, of the process that opened the accelerator: a forked one cannot use it."""

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                "a forked process cannot use its parent's accelerator; open the index in the new process, or start it "
                "with 'spawn'"
            )
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _numpy(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.float().cpu().numpy())
