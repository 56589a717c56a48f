"""The last layers of a model in numpy: from Q-Former states to unit-norm vectors. `Sprc` has the same in torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cir.arrays import Floats, unit
from cir.types import Simplex


class Linear(NamedTuple):
    """A linear layer: (D, width) weight and (D,) bias, float32."""

    weight: Floats
    bias: Floats

    def __call__(self, states: Floats) -> Floats:
        """(..., width) -> (..., D), not normalised."""
        projected: Floats = states @ self.weight.T + self.bias
        return projected


def gallery_vectors(states: Floats, head: Linear, simplex: Simplex | None) -> Floats:
    """(B, T, width) of pass C -> (B, D) float32, unit-norm; by blocks as in `stationary.assemble_blocks`."""
    raw = head(states.mean(axis=1))
    if simplex is None:
        return unit(raw)
    sizes = [block.capacity - 1 for block in simplex.blocks]
    weights = [block.weight for block in simplex.blocks]
    if raw.shape[1] > simplex.dims:
        weights.append(simplex.free_weight)
    parts = np.split(raw, np.cumsum(sizes), axis=1)
    scaled = [math.sqrt(weight / sum(weights)) * unit(part) for part, weight in zip(parts, weights, strict=False)]
    return np.concatenate(scaled, axis=1, dtype=np.float32)
