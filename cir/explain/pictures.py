"""The pictures that maps are drawn over, as a model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cir.images import as_seen, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.indexer.reading.stored_image import StoredImage
    from cir.search.prepare import Reference
    from cir.types import TakesPictures

LONGEST = 768  # pixels; models take less, and a batch of them must fit in memory


def picture_of(reference: Reference, model: TakesPictures) -> Image:
    """The picture of a reference, in RGB. Raises MissingImageError or ImageDecodeError."""
    return _seen_by(model, reference.picture(model.min_side))


def photo_of(image: StoredImage, model: TakesPictures) -> Image:
    """The photo of an image of the gallery that was indexed, in RGB.

    Raises:
        MissingImageError: it is gone, has changed, or may not be read.
        ImageDecodeError: it cannot be read.
    """
    return _seen_by(model, decode(image.read(), image.id, model.min_side))


def _seen_by(model: TakesPictures, picture: Image) -> Image:
    """Upright, with transparency on white, unless the model sees it otherwise; not longer than `LONGEST`."""
    from PIL import Image as Images

    seen = as_seen(picture)
    pixels = model.preprocess(picture)
    if not np.array_equal(model.preprocess(seen), pixels):
        raw = Images.fromarray(np.asarray(picture.convert("RGB")))  # without what says how it is to be turned
        if np.array_equal(model.preprocess(raw), pixels):
            seen = raw
    if max(seen.size) > LONGEST:
        seen.thumbnail((LONGEST, LONGEST))
    return seen
