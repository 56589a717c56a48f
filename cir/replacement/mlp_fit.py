"""Fitting a residual network between two spaces, as Drift-Adapter has it (2025): a linear map and a hidden layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cir.arrays import Floats
from cir.replacement.ridge import agreement, fit_best_ridge, held_out_fifth

HIDDEN = 256
LEARNING_RATE, WEIGHT_DECAY, STEPS, BATCH = 1e-3, 0.01, 600, 256
CHECK_EVERY, PATIENCE = 25, 5  # steps, and checks without progress after which it stops


class Residual(NamedTuple):
    """y = matrix x + bias + outer relu(inner x + inner_bias): (E, D), (E,), (H, D), (H,) and (E, H) float32."""

    matrix: Floats
    bias: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats


def fit_mlp(x: Floats, y: Floats) -> Residual:
    """A residual network from (N, D) to (N, E), both unit-norm.

    The linear part is ridge regression and stays; the hidden layer starts at zero and learns what is left. A fifth of
    the pairs decides when to stop, so that without anything to learn it is the ridge regression. The scale of each dim
    that Drift-Adapter learns is in the weights: `outer` and `matrix` end in the dims of y.
    """
    import torch
    from torch.nn.functional import normalize

    apart = held_out_fifth(len(x))
    linear = fit_best_ridge(x[~apart], y[~apart])
    generator = torch.Generator().manual_seed(0)
    bound = float(np.sqrt(x.shape[1]))  # entries of a unit-norm x are about 1 / bound
    inner = torch.randn((HIDDEN, x.shape[1]), generator=generator).requires_grad_()
    inner_bias = torch.zeros(HIDDEN, requires_grad=True)
    outer = torch.zeros((y.shape[1], HIDDEN), requires_grad=True)
    weights = [inner, inner_bias, outer]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    given, wanted = torch.from_numpy(x), torch.from_numpy(y)
    base = torch.from_numpy(x @ linear.matrix.T + linear.bias)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(given[rows] @ inner.T + inner_bias)
        return 1 - (normalize(base[rows] + hidden @ outer.T / bound, dim=-1) * wanted[rows]).sum(dim=1).mean()

    inside, outside = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~apart, apart))
    best, kept, since = 1 - agreement(linear, x[apart], y[apart]), [value.detach().clone() for value in weights], 0
    for step in range(1, STEPS + 1):
        rows = inside[torch.randperm(len(inside), generator=generator)[:BATCH]]
        optimiser.zero_grad()
        torch.autograd.backward(loss(rows))
        optimiser.step()
        if step % CHECK_EVERY:
            continue
        with torch.no_grad():
            held_out = float(loss(outside))
        since += 1
        if held_out < best:
            best, kept, since = held_out, [value.detach().clone() for value in weights], 0
        if since == PATIENCE:
            break
    first, offset, last = (value.numpy() for value in kept)
    return Residual(*linear, first, offset, (last / bound).astype(np.float32))
