"""What the encoders have in common, whatever runs them: checked inputs, captions cut into pieces, empty batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Floats
from cir.errors import SpaceMismatchError, UsageError
from cir.given import shown, strings
from cir.images.picture import as_picture, as_pixels
from cir.types import Encoded

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.images import Preprocess
    from cir.models.config import SprcConfig
    from cir.text import Tokenizer
    from cir.types import ModelCard

Pieces = NDArray[np.int64]


class BaseEncoder(ABC):
    """An `Encoder` that also `ExposesQueryStates`. Safe to call from several threads.

    Subclasses compute; they are given batches that are not empty.

    Args:
        card, config, preprocess: as stored with the weights.
        tokenizer: of the model's vocabulary; None only for a model that is given no captions.
        directory: the model's folder, recorded in indexes as a hint; None if it was not loaded from a folder.
    """

    def __init__(
        self,
        card: ModelCard,
        config: SprcConfig,
        preprocess: Preprocess,
        tokenizer: Tokenizer | None,
        directory: Path | None = None,
    ) -> None:
        self.card = card
        self.config = config
        self.directory = directory
        self._preprocess = preprocess
        self._shape = (3, preprocess.size, preprocess.size)
        self._tokenizer = tokenizer

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

    def frame(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what the model sees of a picture, in pixels of the picture (`Preprocess`)."""
        return self._preprocess.frame(width, height)

    @abstractmethod
    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        """Divide the cores among `workers` threads that will call the encoder at once."""

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, H, W) float32 pixels -> vectors (B, D), tokens (B, T, D) or both, float32 and unit-norm.

        Raises:
            UsageError: not pixels of this model's size.
        """
        pixels = as_pixels(pixels, self._shape)
        if not len(pixels):
            vectors = _none(self.card.dims) if self.card.vector else None
            return Encoded(vectors, _none(self.card.tokens, self.card.dims) if self.card.tokens else None)
        return self._encode_images(pixels)

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

    def query_states(self, pixels: Floats, captions: Sequence[str]) -> Floats:
        """(B, 3, H, W) references and B captions -> (B, width) float32, the input of the heads; not normalised."""
        pixels, captions = as_pixels(pixels, self._shape), strings(captions, "captions")
        if len(pixels) != len(captions):
            raise UsageError(f"{len(captions)} captions for {len(pixels)} pictures; give one for each")
        return self._query_states(pixels, *self._pieces(captions)) if captions else _none(self.config.width)

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm: pass D. All else as in `encode_queries`."""
        return self.project_states(self.text_states(captions), space)

    def text_states(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, width) float32, the input of the heads; not normalised."""
        captions = strings(captions, "captions")
        return self._text_states(*self._pieces(captions)) if captions else _none(self.config.width)

    def unread(self, caption: str) -> str:
        """The end of a caption that the model does not read, because it is too long; "" if it reads all of it."""
        return self._tokenizer.unread(caption, self.config.text_length) if self._tokenizer else ""

    def project_states(self, states: Floats, space: str | None = None) -> Floats:
        """(B, width) of `query_states` or `text_states` -> (B, D) float32, unit-norm.

        Raises:
            UsageError: no such array; SpaceMismatchError: the model has no query head for the space.
        """
        if space is not None and space not in self.card.query_heads:
            raise SpaceMismatchError(f"{self.card.name} has no query head for the space {shown(space)}")
        if not isinstance(states, np.ndarray) or states.ndim != 2 or states.shape[1] != self.config.width:
            raise UsageError(f"states are a (B, {self.config.width}) array from query_states or text_states")
        return self._project_states(np.ascontiguousarray(states, np.float32), space)

    def _pieces(self, captions: Sequence[str]) -> tuple[Pieces, Pieces]:
        """B captions -> ids and mask, (B, L) int64 each."""
        if self._tokenizer is None:
            raise ValueError("this model was made without a tokenizer")
        return self._tokenizer(captions, self.config.text_length)

    @abstractmethod
    def _encode_images(self, pixels: Floats) -> Encoded: ...

    @abstractmethod
    def _query_states(self, pixels: Floats, ids: Pieces, mask: Pieces) -> Floats: ...

    @abstractmethod
    def _text_states(self, ids: Pieces, mask: Pieces) -> Floats: ...

    @abstractmethod
    def _project_states(self, states: Floats, space: str | None) -> Floats: ...


def _none(*shape: int) -> Floats:
    """What an empty batch gives."""
    return np.zeros((0, *shape), np.float32)
