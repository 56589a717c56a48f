"""The encoder that commands use: a `Sprc` with its preprocessing and its device, numpy arrays in and out."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cir import devices
from cir.arrays import Floats
from cir.errors import SpaceMismatchError, UsageError
from cir.forks import no_fork
from cir.given import shown, strings
from cir.images.picture import as_picture, as_pixels
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
        self._turn: AbstractContextManager[object] = no_fork if device.type == "cpu" else _Turns()

    @property
    def min_side(self) -> int | None:
        """How large decoded pictures need to be; None if they may never be reduced."""
        return self._preprocess.min_side

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture of any size and mode, or an array (`cir.images.picture.as_picture`) -> (3, H, W) float32.

        Raises:
            UsageError: not a picture; ImageDecodeError: one that cannot be read.
        """
        return self._preprocess(as_picture(image))

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call `encode_images` at once."""
        return devices.shared_by(workers, self._device)

    @torch.inference_mode()
    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, H, W) float32 pixels -> vectors (B, D), tokens (B, T, D) or both, float32 and unit-norm.

        Raises:
            UsageError: not pixels of this model's size.
        """
        pixels = as_pixels(pixels, self._preprocess.size)
        if not len(pixels):
            vectors = _none(self.card.dims) if self.card.vector else None
            return Encoded(vectors, _none(self.card.tokens, self.card.dims) if self.card.tokens else None)
        with self._turn:
            features = self.sprc.image_features(torch.from_numpy(pixels).to(self._device))
            states = self.sprc.target_states(features)
            return Encoded(
                _numpy(self.sprc.project_vector(states)) if self.card.vector else None,
                _numpy(self.sprc.project_tokens(states)) if self.card.tokens else None,
            )

    @torch.inference_mode()
    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, D) float32, unit-norm: passes A and B.

        Args:
            pixels: from `preprocess`.
            captions: relative captions; a string is one.
            space: id of an older space in `card.query_heads`; the model's own space if None.

        Raises:
            UsageError: captions that are no texts, other pixels than this model's, or not one caption for each.
            SpaceMismatchError: the model has no query head for the space.
        """
        return self.project_states(self.query_states(pixels, captions), space)

    @torch.inference_mode()
    def query_states(self, pixels: Floats, captions: Sequence[str]) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, width) float32, the input of the heads; not normalised."""
        pixels, captions = as_pixels(pixels, self._preprocess.size), strings(captions, "captions")
        if len(pixels) != len(captions):
            raise UsageError(f"{len(captions)} captions for {len(pixels)} pictures; give one for each")
        if not captions:
            return _none(self.sprc.config.width)
        with self._turn:
            return _numpy(self.sprc.query_states(torch.from_numpy(pixels).to(self._device), captions))

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm: pass D. All else as in `encode_queries`."""
        return self.project_states(self.text_states(captions), space)

    @torch.inference_mode()
    def text_states(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, width) float32, the input of the heads; not normalised."""
        captions = strings(captions, "captions")
        if not captions:
            return _none(self.sprc.config.width)
        with self._turn:
            return _numpy(self.sprc.prompted_text_state(*self.sprc.tokenize(captions)))

    def unread(self, caption: str) -> str:
        """The end of a caption that the model does not read, because it is too long; "" if it reads all of it."""
        tokenizer = self.sprc.tokenizer
        return tokenizer.unread(caption, self.sprc.config.text_length) if tokenizer else ""

    @torch.inference_mode()
    def project_states(self, states: Floats, space: str | None = None) -> Floats:
        """(B, width) of `query_states` or `text_states` -> (B, D) float32, unit-norm."""
        if space is not None and space not in self.card.query_heads:
            raise SpaceMismatchError(f"{self.card.name} has no query head for the space {shown(space)}")
        with self._turn:
            return _numpy(self.sprc.project_query(torch.from_numpy(states).to(self._device), space))


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


def _none(*shape: int) -> Floats:
    """What an empty batch gives."""
    return np.zeros((0, *shape), np.float32)


def _numpy(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.float().cpu().numpy())
