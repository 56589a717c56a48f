"""Galleries of earlier generations."""

from __future__ import annotations

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.opening import open_earlier
from cir.indexer.storage.fetching import catch_up


def is_live(gallery: Gallery) -> bool:
    """Whether a gallery is of the generation that is live now; reads a line. Raises IndexFormatError."""
    catch_up(gallery.folder)
    if gallery.spread is not None:
        gallery.spread.tend()
    return gallery._opened.is_live


def at_generation(gallery: Gallery, generation: int) -> Gallery:
    """A gallery of an earlier generation that is kept. Raises UsageError if there is none, or as `Gallery.open`."""
    how = gallery._how
    opened = open_earlier(gallery._opened, generation, strict=how.strict, spread=how.spread)
    return Gallery(opened, how, gallery)
