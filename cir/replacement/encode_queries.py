"""Judged queries encoded by a new model: in its own space, by its head for an older space, and its query states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats
from cir.images import decode
from cir.indexer.writing.pipeline import Photo
from cir.threads import map_batches
from cir.types import Encoder, ExposesQueryStates

BATCH = 16


@dataclass(frozen=True)
class EncodedQueries:
    """Q queries encoded by one model.

    Attributes:
        native: (Q, E) float32, unit-norm, in its own space.
        head: (Q, D) float32, unit-norm, by its trained head for an older space, or None if it has none.
        states: (Q, width) float32, the input of its query heads, or None if it does not expose them.
    """

    native: Floats
    head: Floats | None
    states: Floats | None


def encode_queries(
    encoder: Encoder, references: Sequence[Photo | None], captions: Sequence[str], space: str
) -> EncodedQueries:
    """Encode queries about gallery images; one pass through the backbone serves every head.

    Args:
        encoder: the new model.
        references: Q images, None for a query by text alone.
        captions: Q captions.
        space: id of the older space.
    """
    texts = [row for row, photo in enumerate(references) if photo is None]
    composed = [(row, photo) for row, photo in enumerate(references) if photo is not None]
    head = space if space in encoder.card.query_heads else None

    def encode_texts(part: slice) -> EncodedQueries:
        given = [captions[row] for row in texts[part]]
        if isinstance(encoder, ExposesQueryStates):
            return _project(encoder, encoder.text_states(given), head)
        older = encoder.encode_texts(given, head) if head else None
        return EncodedQueries(encoder.encode_texts(given), older, None)

    def encode_composed(part: slice) -> EncodedQueries:
        decoded = (decode(photo.read(), photo.id, encoder.min_side) for _, photo in composed[part])
        pixels = np.stack([encoder.preprocess(picture) for picture in decoded])
        given = [captions[row] for row, _ in composed[part]]
        if isinstance(encoder, ExposesQueryStates):
            return _project(encoder, encoder.query_states(pixels, given), head)
        older = encoder.encode_queries(pixels, given, head) if head else None
        return EncodedQueries(encoder.encode_queries(pixels, given), older, None)

    parts = map_batches(encode_texts, len(texts), BATCH, encoder.shared_by)
    parts += map_batches(encode_composed, len(composed), BATCH, encoder.shared_by)
    order = np.argsort([*texts, *(row for row, _ in composed)])
    return EncodedQueries(
        np.concatenate([part.native for part in parts])[order],
        _joined([part.head for part in parts], order),
        _joined([part.states for part in parts], order),
    )


def _project(encoder: ExposesQueryStates, states: Floats, head: str | None) -> EncodedQueries:
    older = encoder.project_states(states, head) if head else None
    return EncodedQueries(encoder.project_states(states), older, states)


def _joined(parts: Sequence[Floats | None], order: np.ndarray) -> Floats | None:
    given = [part for part in parts if part is not None]
    return np.concatenate(given)[order] if given else None
