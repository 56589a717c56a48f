"""Views of a training picture: crops of many shapes, since a frozen backbone sees each picture only once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SIDE = 0.6  # of a crop, relative to the picture's
SHAPES = ((1.0, 0.5), (0.75, 0.2), (0.67, 0.15), (1.5, 0.15))  # height / width -> how often


def random_view(image: Image, rng: random.Random) -> Image:
    """A crop of a picture, in the shape of a square, a landscape or a portrait, whatever shape it had."""
    from PIL.Image import Resampling

    width, height = (round(side * rng.uniform(LEAST_SIDE, 1)) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    shape = rng.choices([shape for shape, _ in SHAPES], [share for _, share in SHAPES])[0]
    longer = max(image.size)
    size = (longer, round(longer * shape)) if shape <= 1 else (round(longer / shape), longer)
    return image.resize(size, Resampling.BILINEAR, box=(left, top, left + width, top + height))
