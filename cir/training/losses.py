"""Losses of training, as functions of score matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """(B, D) and (N, D), unit-norm -> (B, N) float32 inner products.

    Never in less precision, whatever autocast says: divided by a temperature, cosines in bfloat16 are coarse steps.
    """
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T


def contrast(scores: Tensor, temperature: Tensor | float, equal: Tensor | None = None) -> Tensor:
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


def vertices(features: Tensor, fixed: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against class vectors that never move (d-Simplex): raw features, no scale, no bias.

    Args:
        features: (B, K - 1), not normalised.
        fixed: (K, K - 1) vertices; those of no class yet count as classes that are always wrong.
        labels: (B,) int64 classes, -1 where the class is not known.

    Returns:
        Scalar mean over the rows whose class is known; 0 where none is.
    """
    known = labels >= 0
    if not known.any():
        return features.sum() * 0
    return F.cross_entropy(features[known].float() @ fixed.T, labels[known])


def hoc(old: Tensor, new: Tensor, labels: Tensor | None = None, mu: float = 10.0) -> Tensor:
    """Higher-order compatibility (Biondi et al., CVPR 2024, Eq. 4): new vectors contrasted with a predecessor's.

    For row n, with s = mu <old_n, new_m>:  -s_nn + log sum over m of exp(s_nm [y_m != y_n]). An entry of the row's own
    class is not removed from the sum, it counts exp(0), as in the official code; the positive's own slot is such an
    entry, so that its pull never saturates.

    Args:
        old: (B, D) float32, unit-norm, of the stored model; no gradient flows into it. Not normalised again.
        new: (B, D) float32, unit-norm, of the same images by the model in training.
        labels: (B,) classes; without them only the positive's own slot counts exp(0).
        mu: inverse temperature.

    Returns:
        Scalar mean over B; it falls below 0 when the two agree.

    Raises:
        ValueError: the shapes differ.
    """
    if old.shape != new.shape or old.ndim != 2:
        raise ValueError(f"old {tuple(old.shape)} and new {tuple(new.shape)} are not two (B, D) batches of one shape")
    similarities = mu * cosines(old.detach(), new)  # rows old, columns new
    if labels is None:
        labels = torch.arange(len(old), device=old.device)
    others = labels[:, None] != labels[None, :]
    return (torch.logsumexp(similarities * others, dim=1) - similarities.diagonal()).mean()
