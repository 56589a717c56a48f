"""Dual encoders: a picture and a caption become vectors of one space apart, as in CLIP; a composition joins the two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir import compositions
from cir.arrays import Floats, unit
from cir.errors import SpaceMismatchError, UsageError
from cir.given import shown, strings
from cir.images.picture import as_pixels
from cir.types import Encoded

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from cir.types import ModelCard


class DualEncoder(ABC):
    """An `Encoder` that also `ExposesQueryStates`. Safe to call from several threads.

    Query states are the features of picture and caption side by side, (B, 2 D), not normalised; those of either are
    zero where there is none. A blank caption beside a picture is none: the query is the picture.

    Args:
        card: the model's identity; its `composition` says how a query is made.
        device: where torch runs.
        directory: the model's folder.
    """

    min_side: int | None = None  # processors see all pixels

    def __init__(self, card: ModelCard, device: torch.device, directory: Path | None) -> None:
        self.card = card
        self.directory = directory
        self.device = device

    @property
    @abstractmethod
    def pixel_shape(self) -> tuple[int, ...]:
        """The shape of one preprocessed picture."""

    @abstractmethod
    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> its pixels, float32, as `pixel_shape`; safe to call from several threads."""

    @abstractmethod
    def image_features(self, pixels: Floats) -> Floats:
        """(B, *pixel_shape), B above 0 -> (B, D) float32, not normalised."""

    @abstractmethod
    def text_features(self, captions: Sequence[str]) -> Floats:
        """B captions, B above 0 -> (B, D) float32, not normalised."""

    @abstractmethod
    def unread(self, caption: str) -> str:
        """The end of a caption that is too long to be read; "" if all of it is read."""

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call the encoder at once."""
        from cir import devices

        return devices.shared_by(workers, self.device)

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, *pixel_shape) float32 from `preprocess` -> vectors (B, D) float32, unit-norm.

        Raises:
            UsageError: not pixels of this model.
        """
        pixels = as_pixels(pixels, self.pixel_shape)
        return Encoded(unit(self.image_features(pixels)) if len(pixels) else self._none(self.card.dims), None)

    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """B references and B captions -> (B, D) float32, unit-norm; of a "product", which is no vector, the sum.

        Raises:
            UsageError: other pixels than this model's, or not one caption for each.
            SpaceMismatchError: the model has no query head for the space.
        """
        return self.project_states(self.query_states(pixels, captions), space)

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm. Raises as `encode_queries`."""
        return self.project_states(self.text_states(captions), space)

    def query_states(self, pixels: Floats, captions: Sequence[str]) -> Floats:
        """B references and B captions -> (B, 2 D) float32: the features of both. Raises UsageError."""
        pixels, captions = as_pixels(pixels, self.pixel_shape), strings(captions, "captions")
        if len(pixels) != len(captions):
            raise UsageError(f"{len(captions)} captions for {len(pixels)} pictures; give one for each")
        if not captions:
            return self._none(2 * self.card.dims)
        texts = self.text_features(captions)
        texts[[row for row, caption in enumerate(captions) if not caption.strip()]] = 0
        states: Floats = np.concatenate([self.image_features(pixels), texts], axis=1)
        return states

    def text_states(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, 2 D) float32: zeros, and the features of the caption."""
        captions = strings(captions, "captions")
        if not captions:
            return self._none(2 * self.card.dims)
        texts = self.text_features(captions)
        states: Floats = np.concatenate([np.zeros_like(texts), texts], axis=1)
        return states

    def project_states(self, states: Floats, space: str | None = None) -> Floats:
        """(B, 2 D) of `query_states` or `text_states` -> (B, D) float32, unit-norm.

        Raises:
            UsageError: no such array; SpaceMismatchError: the model has no query head for the space.
        """
        if space is not None and space not in self.card.query_heads:
            raise SpaceMismatchError(f"{self.card.name} has no query head for the space {shown(space)}")
        dims = self.card.dims
        if not isinstance(states, np.ndarray) or states.ndim != 2 or states.shape[1] != 2 * dims:
            raise UsageError(f"states are a (B, {2 * dims}) array from query_states or text_states")
        images, texts = states[:, :dims].astype(np.float32), states[:, dims:].astype(np.float32)
        vectors = unit(images + texts)  # right where one of the two is zero
        both = images.any(axis=1) & texts.any(axis=1)
        if both.any():
            vectors[both] = self._composed(images[both], texts[both])
        return vectors

    def _composed(self, images: Floats, texts: Floats) -> Floats:
        """(B, D) features of pictures and of captions, not normalised -> (B, D) float32, unit-norm."""
        card = self.card
        return compositions.compose(unit(images), unit(texts), card.composition, card.sum_weight)

    @staticmethod
    def _none(dims: int) -> Floats:
        return np.zeros((0, dims), np.float32)
