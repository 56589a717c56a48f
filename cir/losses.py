"""Losses of training, as functions of score matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrast(scores: Tensor, temperature: Tensor, equal: Tensor | None = None) -> Tensor:
    """Query-to-target contrast: cross-entropy of row i against column i.

    Args:
        scores: (B, N) similarities, N >= B; column i is the target of row i, further columns are negatives.
        temperature: scalar that divides the scores.
        equal: (B, N) bool, True where column j answers row i as well as i's own target does. Such columns are left
            out, because calling a right answer wrong teaches nothing.

    Returns:
        Scalar mean over B. Without `equal` and with N = B this is SPRC's loss_itc.
    """
    rows = torch.arange(len(scores), device=scores.device)
    logits = scores.float() / temperature
    if equal is not None:
        others = equal.clone()
        others[rows, rows] = False
        logits = logits.masked_fill(others, float("-inf"))
    return F.cross_entropy(logits, rows)
