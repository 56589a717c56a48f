"""Stationary representations: class vectors that are fixed before any model is trained (d-Simplex).

After Biondi et al., "Stationary Representations" (CVPR 2024). Models that are trained, each on its own, to classify
against the same fixed vertices give vectors that can be compared. One simplex over one set of classes anchors little of
what captions ask about, so the space here is a product: one simplex for every attribute, side by side.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def simplex(classes: int) -> Tensor:
    """The vertices of a regular simplex around the origin, one a class.

    The construction is part of the contract between models: another number of classes moves every vertex, so room for
    later classes is made at the start.

    Args:
        classes: K, at least 2.

    Returns:
        (K, K - 1) float32, unit-norm rows; any two have the inner product -1 / (K - 1). Nothing is random, and every
        value comes from a closed form in double precision, so that the bytes are the same on every machine.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"a simplex has at least 2 vertices, not {classes}")
    dims = classes - 1
    # The unit vectors and one point on the diagonal, all sqrt(2) apart; moved to their centre and made unit.
    last = (1 - math.sqrt(1 + dims)) / dims
    centre = (1 + last) / classes
    norm = math.sqrt((1 - centre) ** 2 + (dims - 1) * centre**2)
    vertices = torch.full((classes, dims), -centre / norm, dtype=torch.float64)
    vertices[range(dims), range(dims)] = (1 - centre) / norm
    vertices[dims] = (last - centre) / (math.sqrt(dims) * abs(last - centre))
    return vertices.float()


def digest(vertices: Tensor) -> str:
    """SHA-256 over shape and little-endian float32 bytes of a vertex matrix: what two models must agree on."""
    values = vertices.detach().cpu().contiguous().numpy().astype("<f4")
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()
