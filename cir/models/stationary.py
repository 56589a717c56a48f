"""Stationary representations: class vectors that are fixed before any model is trained (d-Simplex).

After Biondi et al., "Stationary Representations" (CVPR 2024). Models that are trained, each on its own, to classify
against the same fixed vertices give vectors that can be compared. One simplex over one set of classes anchors little of
what captions ask about, so the space here is a product: one simplex for every attribute, side by side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cir.types import SimplexBlock, Simplex


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


def product(blocks: Sequence[SimplexBlock], free: int = 0) -> Simplex:
    """The contract of a product simplex.

    Args:
        blocks: in the order of their dims.
        free: weight of the dims behind them.

    Raises:
        ValueError: no blocks, one without room for two classes, a name twice, or a weight below 1.
    """
    names = {block.name for block in blocks}
    if not blocks or len(names) < len(blocks) or free < 0 or any(b.capacity < 2 or b.weight < 1 for b in blocks):
        raise ValueError("a simplex has blocks of different names, each with room for 2 classes and a weight of 1")
    return Simplex(tuple(blocks), free, digest(torch.cat([simplex(block.capacity).flatten() for block in blocks])))


def arrange(raw: Tensor, anchors: Simplex, *, settled: bool = False) -> Tensor:
    """A projection as a stationary gallery vector: every block of unit length, then all of them by their weights.

    Args:
        raw: (B, D) whose first `anchors.dims` dims are the blocks'.
        anchors: the product simplex.
        settled: let no gradient into the blocks. Their place is decided by the vertices alone: a contrast that may
            move them, too, costs them what makes two models comparable (docs/results/replace-model.md).

    Returns:
        (B, D) float32, unit-norm.
    """
    sizes = [block.capacity - 1 for block in anchors.blocks]
    weights = [block.weight for block in anchors.blocks]
    if raw.shape[1] > anchors.dims:
        sizes.append(raw.shape[1] - anchors.dims)
        weights.append(anchors.free_weight)
    parts = [F.normalize(part, dim=-1) for part in raw.float().split(sizes, dim=-1)]
    if settled:
        parts[: len(anchors.blocks)] = [part.detach() for part in parts[: len(anchors.blocks)]]
    whole = sum(weights)
    return torch.cat([math.sqrt(weight / whole) * part for part, weight in zip(parts, weights, strict=True)], dim=-1)
