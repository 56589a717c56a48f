"""Training losses, as functions of score matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """(B, D) and (N, D), unit-norm -> (B, N) float32 inner products.

    Always in float32, even under autocast: divided by a temperature, cosines in bfloat16 are coarse steps.
    """
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T


def info_nce(scores: Tensor, temperature: Tensor | float, equal: Tensor | None = None) -> Tensor:
    """Contrastive loss from queries to targets: cross-entropy of row i against column i.

    Args:
        scores: (B, N) similarities, N >= B; column i is the target of row i, further columns are negatives.
        temperature: scalar that divides the scores.
        equal: (B, N) bool, True where column j answers row i as well as i's own target does. Such columns are no
            negatives and are left out.

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


def simplex_cross_entropy(features: Tensor, vertices: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against fixed class vectors (d-Simplex): features without normalisation, scale or bias.

    Args:
        features: (B, K - 1), not normalised.
        vertices: (K, K - 1); a vertex without a class yet counts as a class that is always wrong.
        labels: (B, M) int64 classes of each row, which count alike, filled up with -1; or (B,), one for each.

    Returns:
        Scalar mean over the rows with a known class; 0 if no class is known.
    """
    labels = labels.reshape(len(labels), -1)
    known = (labels >= 0).any(dim=1)
    if not known.any():
        return features.sum() * 0
    chances = F.log_softmax(features[known].float() @ vertices.T, dim=-1)
    labels = labels[known]
    counted = (labels >= 0).float()
    found = chances.gather(1, labels.clamp_min(0)) * counted
    return -(found.sum(dim=1) / counted.sum(dim=1)).mean()


def hoc(older: Tensor, newer: Tensor, labels: Tensor | None = None, mu: float = 10.0) -> Tensor:
    """Higher-order compatibility (Biondi et al., CVPR 2024, Eq. 4): new vectors contrasted with a predecessor's.

    No shipped model is trained with it; bench/stationary.py measures what it gains and costs.

    For row n, with s = mu <older_n, newer_m>:  -s_nn + log sum over m of exp(s_nm [y_m != y_n]). An entry of the row's
    own class stays in the sum and counts exp(0), as in the official code; the positive's own entry is one of them, so
    that its pull never saturates.

    Args:
        older: (B, D) float32, unit-norm, vectors of the stored model; they receive no gradient.
        newer: (B, D) float32, unit-norm, vectors of the same images by the model in training.
        labels: (B,) classes; without them only the positive's own entry counts exp(0).
        mu: inverse temperature.

    Returns:
        Scalar mean over B; below 0 when the two agree.

    Raises:
        ValueError: the shapes differ.
    """
    if older.shape != newer.shape or older.ndim != 2:
        raise ValueError(
            f"older {tuple(older.shape)} and newer {tuple(newer.shape)} are not two (B, D) batches of one shape"
        )
    similarities = mu * cosines(older.detach(), newer)  # rows older, columns newer
    if labels is None:
        labels = torch.arange(len(older), device=older.device)
    others = labels[:, None] != labels[None, :]
    return (torch.logsumexp(similarities * others, dim=1) - similarities.diagonal()).mean()
