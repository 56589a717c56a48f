"""Which scores say "nothing fits" in a gallery: the floors of the kinds of pictures that it holds.

A card has one floor for every gallery, the lowest of all kinds that the model was calibrated on, and the floors of each
kind (`GalleryKind`). Products in front of white score higher than everyday photos; over products alone the floor of
products finds far more questions that nothing answers (docs/models/small.md has both rates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from cir.errors import ServerError
from cir.indexer.reading.gallery import Gallery
from cir.model_card import ModelCard
from cir.query_vectors import QueryVectors

SAMPLE = 200  # pictures
PRESENT = 0.1  # of them: from this share on a gallery holds a kind
UNKNOWN = 0.3  # of them: with so many of no kind, nothing is known about a gallery
_known: WeakKeyDictionary[Gallery, ModelCard] = WeakKeyDictionary()


def calibrated(gallery: Gallery) -> ModelCard:
    """The card of the model that serves a gallery, with `min_scores` for what that gallery holds.

    A sample of its pictures decides, each by the nearest of the card's kinds. The floor is the lowest of the kinds that
    are present; where many pictures are of no kind, or some have vectors of an older model, it is that of the card.
    """
    if gallery not in _known:
        card = gallery.card
        try:
            floors = _floors(gallery)
        except ServerError:  # a part of the gallery does not answer at the moment
            return card
        _known[gallery] = card if floors == card.min_scores else replace(card, min_scores=floors)
    return _known[gallery]


def _floors(gallery: Gallery) -> Mapping[str, float]:
    kinds = gallery.card.gallery_kinds
    if not kinds or gallery.query_spaces != (gallery.space.id,):
        return gallery.card.min_scores
    rows = np.linspace(0, len(gallery.rows) - 1, min(SAMPLE, len(gallery.rows))).astype(int).tolist()
    ids = [gallery.rows.id_of(row) for row in rows if gallery.rows.is_live(row)]
    if not ids:
        return gallery.card.min_scores
    centres = np.stack([kind.vector for kind in kinds])
    similarities = gallery.scores(QueryVectors({gallery.space.id: centres}), ids)
    least = np.array([[kind.least_similarity] for kind in kinds])
    nearest = np.where(similarities >= least, similarities, -np.inf)
    of_some_kind = np.isfinite(nearest).any(axis=0)
    if of_some_kind.mean() < 1 - UNKNOWN:
        return gallery.card.min_scores
    counts = np.bincount(nearest.argmax(axis=0)[of_some_kind], minlength=len(kinds))
    present = [kind for kind, count in zip(kinds, counts, strict=True) if count >= PRESENT * len(ids)] or kinds
    return {
        form: min((kind.min_scores[form] for kind in present if form in kind.min_scores), default=lowest)
        for form, lowest in gallery.card.min_scores.items()
    }
