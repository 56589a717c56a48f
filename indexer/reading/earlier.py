"""Galleries of earlier generations."""

from __future__ import annotations

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.opening import open_earlier


def at_generation(gallery: Gallery, generation: int) -> Gallery:
    """A gallery of an earlier generation that is kept. Raises UsageError if there is none, or as `Gallery.open`."""
    return Gallery(open_earlier(gallery._opened, generation, strict=gallery._how.strict), gallery._how, gallery)
