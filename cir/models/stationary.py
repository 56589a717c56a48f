"""Stationary representations: class vectors that are fixed before any model is trained (d-Simplex).

After Biondi et al., "Stationary Representations" (CVPR 2024). Models trained independently to classify against the same
fixed vertices give comparable vectors. A single simplex over one set of classes covers little of what captions ask for,
so the space is a product: one simplex per attribute, side by side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cir.types import Simplex, SimplexBlock


def simplex(classes: int) -> Tensor:
    """The vertices of a regular simplex around the origin, one vertex per class.

    The construction is part of the contract between models: another number of classes moves every vertex, so capacity
    for later classes is reserved at the start.

    Args:
        classes: K, at least 2.

    Returns:
        (K, K - 1) float32, unit-norm rows; any two have the inner product -1 / (K - 1). Every value comes from a closed
        form in double precision, so that the bytes are the same on every machine.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"a simplex has at least 2 vertices, not {classes}")
    dims = classes - 1
    # The unit vectors and one point on the diagonal, all sqrt(2) apart; moved to their centre and normalised.
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


def product(blocks: Sequence[SimplexBlock], free_weight: int = 0) -> Simplex:
    """The contract of a product simplex.

    Args:
        blocks: in the order of their dims.
        free_weight: weight of the dims behind them.

    Raises:
        ValueError: no blocks, a capacity below two classes, a repeated name, or a weight below 1.
    """
    names = {block.name for block in blocks}
    valid = all(block.capacity >= 2 and block.weight >= 1 for block in blocks)
    if not blocks or len(names) < len(blocks) or free_weight < 0 or not valid:
        raise ValueError("a simplex has blocks of different names, each with a capacity of 2 and a weight of 1 or more")
    vertices = torch.cat([simplex(block.capacity).flatten() for block in blocks])
    return Simplex(tuple(blocks), free_weight, digest(vertices))


def assemble_blocks(raw: Tensor, simplex: Simplex, *, detach_simplex: bool = False) -> Tensor:
    """A projection as a stationary gallery vector: each block normalised, then scaled by its weight.

    Args:
        raw: (B, D); the first `simplex.dims` dims are the blocks, the rest is free.
        simplex: the product simplex.
        detach_simplex: let no gradient into the blocks, so that only the cross-entropy against the vertices moves them.
            A contrastive loss that moves them too makes models less comparable (docs/results/replace-model.md).

    Returns:
        (B, D) float32, unit-norm.
    """
    sizes = [block.capacity - 1 for block in simplex.blocks]
    weights = [block.weight for block in simplex.blocks]
    if raw.shape[1] > simplex.dims:
        sizes.append(raw.shape[1] - simplex.dims)
        weights.append(simplex.free_weight)
    parts = [F.normalize(part, dim=-1) for part in raw.float().split(sizes, dim=-1)]
    if detach_simplex:
        parts[: len(simplex.blocks)] = [part.detach() for part in parts[: len(simplex.blocks)]]
    total = sum(weights)
    return torch.cat([math.sqrt(weight / total) * part for part, weight in zip(parts, weights, strict=True)], dim=-1)
