"""The encoder on ONNX Runtime: what `SprcEncoder` computes, on a CPU, without importing torch."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir.arrays import Floats, unit
from cir.errors import WeightsError
from cir.forks import no_fork
from cir.models import folder
from cir.models.base_encoder import BaseEncoder, Pieces
from cir.models.graphs import COMPOSED, FEATURES, FOLDER, GALLERY, TEXT, Graphs
from cir.models.heads import Linear, gallery_vectors
from cir.models.stored_tensors import StoredTensors
from cir.text import Tokenizer
from cir.types import Encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 4  # images that pass the backbone together: few enough for the activations to stay in the caches


class OnnxEncoder(BaseEncoder):
    """An encoder that ONNX Runtime computes on the CPU, in float32; each call takes one core.

    Args:
        directory: of a model with ONNX graphs (`cir export-onnx`).
        graphs: where they are, if not in that folder yet.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the others.
    """

    def __init__(self, directory: Path, graphs: Path | None = None) -> None:
        known = folder.read_model_file(directory)
        self._tensors = StoredTensors(directory)
        for problem in folder.check_tensors(self._tensors.files, known.card, remembered=True):
            raise WeightsError(problem)
        tokenizer = Tokenizer(folder.words_of(directory, known))
        super().__init__(known.card, known.config, known.preprocess, tokenizer, directory)
        self._graphs = Graphs(graphs or directory / FOLDER, known.card, self._tensors)

    @contextlib.contextmanager
    def shared_by(self, workers: int) -> Iterator[None]:
        """Nothing is to be divided: every call takes one core."""
        yield

    @no_fork
    def _encode_images(self, pixels: Floats) -> Encoded:
        states = self._graphs.run(GALLERY, features=self._features(pixels))
        card = self.card
        return Encoded(
            gallery_vectors(states, self._head("gallery_proj"), card.simplex) if card.vector else None,
            unit(self._head("vision_proj")(states)) if card.tokens else None,
        )

    @no_fork
    def _query_states(self, pixels: Floats, ids: Pieces, mask: Pieces) -> Floats:
        return self._graphs.run(COMPOSED, features=self._features(pixels), ids=ids, mask=mask)

    @no_fork
    def _text_states(self, ids: Pieces, mask: Pieces) -> Floats:
        return self._graphs.run(TEXT, ids=ids, mask=mask)

    @no_fork
    def _project_states(self, states: Floats, space: str | None) -> Floats:
        return unit(self._head("text_proj" if space is None else f"query_heads.{space}")(states))

    def _features(self, pixels: Floats) -> Floats:
        parts = [self._graphs.run(FEATURES, pixels=pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _head(self, name: str) -> Linear:
        return Linear(self._tensors.array(f"{name}.weight"), self._tensors.array(f"{name}.bias"))
