"""How the vectors of a picture and of a caption become one query, for encoders that know them only apart.

    sum       the weighted mean of both
    slerp     a point of the great circle between them
    product   no one vector: an image scores by the product of its two similarities (`indexer/reading/product.py`)

`weight` is the share of the picture: at 1 the caption does not count, at 0 the picture does not.
"""

from __future__ import annotations

import numpy as np

from cir.arrays import Floats, unit

PARALLEL = 1e-6  # a sine below which a great circle is not defined


def compose(images: Floats, texts: Floats, how: str, weight: float) -> Floats:
    """One unit-norm vector for each picture and its caption.

    Args:
        images, texts: (B, D) float32, unit-norm.
        how: "sum" or "slerp"; of a "product", which has no vector, it is the sum.
        weight: share of the image, in [0, 1].

    Returns:
        (B, D) float32, unit-norm; zero where picture and caption cancel out.
    """
    if how == "slerp":
        cosines = np.clip((images * texts).sum(axis=1, keepdims=True), -1, 1)
        angles = np.arccos(cosines)
        sines = np.sin(angles)
        defined = sines > PARALLEL
        shares = np.divide(np.sin(weight * angles), sines, out=np.full_like(sines, weight), where=defined)
        others = np.divide(np.sin((1 - weight) * angles), sines, out=np.full_like(sines, 1 - weight), where=defined)
        return unit(shares * images + others * texts)
    return unit(np.float32(weight) * images + np.float32(1 - weight) * texts)
