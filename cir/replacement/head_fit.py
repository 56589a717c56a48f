"""Fitting a query head for an older space on the query states of a new model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cir.arrays import Floats, Rows
from cir.replacement.paired_sample import PairedSample
from cir.replacement.ridge import fit_ridge

LEARNING_RATE, STEPS, BATCH, TEMPERATURE = 1e-3, 400, 128, 0.07
CHECK_EVERY = 20


class FittedHead(NamedTuple):
    """A linear head: (D, width) matrix and (D,) bias, float32; and the rows of the queries held out from its fit."""

    matrix: Floats
    bias: Floats
    held_out: Rows


def fit_head(sample: PairedSample) -> FittedHead | None:
    """Fit a head on the queries that fits may see, or None with too few of them.

    It starts as the linear map to the old model's queries, and is trained contrastively on the stored targets from
    there. A fifth of the queries decides when to stop.

    Args:
        sample: with `new_states` and `old_queries`.
    """
    import torch
    from torch.nn.functional import normalize

    states, targets = sample.new_states, sample.old_queries
    assert states is not None  # checked by the caller
    assert targets is not None
    rows = np.flatnonzero(sample.fit_mask & sample.relevant.any(axis=1))
    rng = np.random.default_rng(0)
    apart = rng.random(len(rows)) < 0.2
    if apart.all() or not apart.any():
        return None
    scale = float(np.abs(states[rows]).std()) or 1.0
    inside, held_out = rows[~apart], rows[apart]
    matrix, bias = fit_ridge(states[inside] / scale, targets[inside], len(rows) / 10)
    weights = [torch.from_numpy(matrix).requires_grad_(), torch.from_numpy(bias).requires_grad_()]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.01)

    def loss(queries: Rows, images: Rows) -> torch.Tensor:
        vectors = normalize(torch.from_numpy(states[queries] / scale) @ weights[0].T + weights[1], dim=-1)
        gallery = torch.from_numpy(sample.old_gallery[images])
        scores = vectors @ gallery.T if gallery.ndim == 2 else torch.einsum("qd,ntd->qnt", vectors, gallery).amax(-1)
        itself = torch.from_numpy(sample.references[queries][:, None] == images)
        log_chances = torch.log_softmax(scores.masked_fill(itself, -1.0) / TEMPERATURE, dim=1)
        # Targets are equally good: it is enough that they come before the rest.
        relevant = torch.from_numpy(sample.relevant[np.ix_(queries, images)])
        return -torch.logsumexp(log_chances.masked_fill(~relevant, float("-inf")), dim=1).clamp(min=-30).mean()

    everything = np.arange(len(sample.old_gallery))
    best, kept = float("inf"), [value.detach().clone() for value in weights]
    for step in range(STEPS + 1):
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                held_out_loss = float(loss(held_out, everything))
            if held_out_loss < best:
                best, kept = held_out_loss, [value.detach().clone() for value in weights]
        queries = rng.permutation(inside)[:BATCH]
        negatives = rng.permutation(everything)[: 4 * BATCH]
        positives = [rng.choice(np.flatnonzero(sample.relevant[row])) for row in queries]
        optimiser.zero_grad()
        torch.autograd.backward(loss(queries, np.union1d(negatives, positives)))
        optimiser.step()
    return FittedHead((kept[0].numpy() / scale).astype(np.float32), kept[1].numpy(), held_out)
