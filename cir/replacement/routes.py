"""The ways from a new model's queries to stored vectors of an old one: a head of its own, or a map that is fitted.

What each brings differs from pair to pair (docs/results/replace-model.md), and none can be assumed to bring anything:
that is why each is measured before it is used. A route that a pair of models does not have says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cir.replacement.paired_sample import Floats, Rows, Study, ranked, scores

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
FEWEST_IMAGES = 50  # with fewer, two spaces of hundreds of dims can be laid on each other in any way
HEAD_RATE, HEAD_STEPS, HEAD_BATCH, HEAD_TEMPERATURE = 1e-3, 400, 128, 0.07
_GONE = "the model that made these vectors is not here"
CANDIDATES = 20  # of each anchor, on which scores are calibrated: mostly hard negatives


@dataclass(frozen=True)
class Fitted:
    """A route after fitting.

    Attributes:
        route: its name in an `SpaceMapping`.
        scores: (Q, N) of the new model's queries on the old vectors.
        matrix, bias: as in `SpaceMapping`; None where nothing is carried.
        slope, intercept: put its scores on the scale of the new model's own.
    """

    route: str
    scores: Floats
    matrix: Floats | None = None
    bias: Floats | None = None
    slope: float = 1.0
    intercept: float = 0.0


def head(study: Study) -> Fitted | str:
    """The new model's own query head for the old space, trained with it."""
    if study.head_queries is None:
        return "the new model has no query head for this space"
    return _calibrated(study, Fitted("head", scores(study.head_queries, study.old_gallery)))


def fitted(study: Study) -> Fitted | str:
    """A query head for the old space, fitted here on what the new model's own heads project; the model stays.

    It starts as the linear map to the old model's queries, and is contrasted with the stored answers from there. A
    fifth of the anchors that fits may see decides when to stop. Few anchors make a poor head: `cir train --heads-only`
    fits one on training triplets.
    """
    shown = study.new_states
    if shown is None:
        return "the new model does not show what a head would project"
    if study.old_queries is None:
        return _GONE
    import torch
    from torch.nn.functional import normalize

    rows = np.flatnonzero(study.fit & study.right.any(axis=1))
    rng = np.random.default_rng(0)
    apart = rng.random(len(rows)) < 0.2
    if apart.all() or not apart.any():
        return f"{len(rows)} anchors to fit on are too few"
    scale = float(np.abs(shown[rows]).std()) or 1.0
    inside, outside = rows[~apart], rows[apart]
    matrix, bias = _ridge(shown[inside] / scale, study.old_queries[inside], len(rows) / 10)
    weights = [torch.from_numpy(matrix).requires_grad_(), torch.from_numpy(bias).requires_grad_()]
    optimiser = torch.optim.AdamW(weights, lr=HEAD_RATE, weight_decay=0.01)

    def lost(asked: Rows, among: Rows) -> torch.Tensor:
        queries = normalize(torch.from_numpy(shown[asked] / scale) @ weights[0].T + weights[1], dim=-1)
        gallery = torch.from_numpy(study.old_gallery[among])
        found = queries @ gallery.T if gallery.ndim == 2 else torch.einsum("qd,ntd->qnt", queries, gallery).amax(-1)
        itself = torch.from_numpy(study.references[asked][:, None] == among)
        chances = torch.log_softmax(found.masked_fill(itself, -1.0) / HEAD_TEMPERATURE, dim=1)
        # An answer is as good as the others: all that is asked is that they come before the rest.
        answers = torch.from_numpy(study.right[np.ix_(asked, among)])
        return -torch.logsumexp(chances.masked_fill(~answers, float("-inf")), dim=1).clamp(min=-30).mean()

    every = np.arange(len(study.old_gallery))
    best, kept = float("inf"), [value.detach().clone() for value in weights]
    for step in range(HEAD_STEPS + 1):
        if step % 20 == 0:
            with torch.no_grad():
                held_out = float(lost(outside, every))
            if held_out < best:
                best, kept = held_out, [value.detach().clone() for value in weights]
        asked = rng.permutation(inside)[:HEAD_BATCH]
        others = rng.permutation(every)[: 4 * HEAD_BATCH]
        answers = [rng.choice(np.flatnonzero(study.right[row])) for row in asked]
        optimiser.zero_grad()
        torch.autograd.backward(lost(asked, np.union1d(others, answers)))
        optimiser.step()
    head_matrix: Floats = (kept[0].numpy() / scale).astype(np.float32)
    head_bias: Floats = kept[1].numpy()
    given = scores(_unit(shown @ head_matrix.T + head_bias), study.old_gallery)
    # On its own questions it is surer than on others: the scale of its scores comes from those kept apart.
    return _calibrated(study, Fitted("fitted", given, head_matrix, head_bias), outside)


def transform(study: Study) -> Fitted | str:
    """Stored vectors carried into the new space: ridge regression on images that both models have seen.

    One space, one query vector, and scores that merge as they are. Not for tokens, since those of two models have no
    pairs, nor for few images.
    """
    rows = study.fit_images
    if study.old_gallery.ndim == 3 or study.new_gallery.ndim == 3:
        return "images are ranked by tokens, and those of two models have no pairs"
    if len(rows) < FEWEST_IMAGES:
        return (
            f"{len(rows)} images that no measured anchor is about, {FEWEST_IMAGES} are needed; give a larger --sample"
        )
    old, new = study.old_gallery[rows], study.new_gallery[rows]
    apart = np.random.default_rng(0).random(len(rows)) < 0.2

    def error(weight: float) -> float:
        matrix, bias = _ridge(old[~apart], new[~apart], weight)
        return -float((_unit(old[apart] @ matrix.T + bias) * new[apart]).sum(axis=1).mean())

    best = min(RIDGES, key=error) if apart.any() and not apart.all() else 1.0
    matrix, bias = _ridge(old, new, best)
    carried = _unit(study.old_gallery @ matrix.T + bias)
    return Fitted("transform", scores(study.new_queries, carried), matrix, bias)


def procrustes(study: Study) -> Fitted | str:
    """Query vectors turned into the old space by the best orthogonal map of images, or of queries if images do not do.

    An orthogonal map commutes with the maximum over tokens.
    """
    if study.old_gallery.ndim == 2 and study.new_gallery.ndim == 2 and len(study.fit_images) >= FEWEST_IMAGES:
        old, new = study.old_gallery[study.fit_images], study.new_gallery[study.fit_images]
    elif study.old_queries is None:
        return _GONE
    else:
        old, new = study.old_queries[study.fit], study.new_queries[study.fit]
    left, _, right = np.linalg.svd(old.T.astype(np.float64) @ new, full_matrices=False)
    matrix = (left @ right).astype(np.float32)
    given = scores(_unit(study.new_queries @ matrix.T), study.old_gallery)
    return _calibrated(study, Fitted("procrustes", given, matrix))


def simplex(study: Study) -> Fitted | str:
    """Query vectors without the dims that no vertex anchors: nothing is fitted, neither model has seen the other."""
    if not study.anchored or study.old_gallery.ndim == 3:
        return "the two models are not anchored to one simplex"
    matrix = np.eye(study.old_gallery.shape[1], study.new_queries.shape[1], dtype=np.float32)
    matrix[study.anchored :] = 0
    given = scores(_unit(study.new_queries @ matrix.T), study.old_gallery)
    return _calibrated(study, Fitted("simplex", given, matrix))


def encoder(study: Study) -> Fitted | str:
    """The old model goes on making queries for its own vectors: nothing gained there, nothing lost."""
    if study.old_queries is None:
        return _GONE
    return _calibrated(study, Fitted("encoder", scores(study.old_queries, study.old_gallery)))


def naive(study: Study) -> Fitted | None:
    """The new model's queries on the old vectors as they are: what silent mixing does. Never a route."""
    if study.new_queries.shape[1] != study.old_gallery.shape[-1]:
        return None
    return Fitted("naive", scores(study.new_queries, study.old_gallery))


ROUTES: dict[str, Callable[[Study], Fitted | str]] = {
    "head": head,
    "fitted": fitted,
    "transform": transform,
    "procrustes": procrustes,
    "simplex": simplex,
    "encoder": encoder,
}


def _ridge(x: Floats, y: Floats, weight: float) -> tuple[Floats, Floats]:
    """Matrix (E, D) and bias (E,) of y = matrix x + bias with a penalty on the matrix."""
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    centred = x - mean_x
    gram = centred.T @ centred + weight * np.eye(x.shape[1])
    matrix = np.linalg.solve(gram, centred.T @ (y - mean_y)).T
    return matrix.astype(np.float32), (mean_y - matrix @ mean_x).astype(np.float32)


def _calibrated(study: Study, fitted: Fitted, rows: Rows | None = None) -> Fitted:
    """Scores of two spaces meet where the odds of being an answer are equal, on anchors that fits may see."""
    rows = np.flatnonzero(study.fit) if rows is None else rows
    old, new = _odds(study, fitted.scores, rows), _odds(study, study.native, rows)
    if old[0] <= 0 or new[0] <= 0:  # scores that say nothing: as they are
        return fitted
    slope, intercept = old[0] / new[0], (old[1] - new[1]) / new[0]
    return Fitted(fitted.route, fitted.scores, fitted.matrix, fitted.bias, float(slope), float(intercept))


def _odds(study: Study, given: Floats, chosen: Rows) -> tuple[float, float]:
    """Weights (a, b) of the log-odds a s + b that a candidate of score s, one of an anchor's first, answers."""
    order = ranked(given[chosen], study.references[chosen], CANDIDATES)
    values = np.take_along_axis(given[chosen], order, axis=1).ravel().astype(np.float64)
    labels = np.take_along_axis(study.right[chosen], order, axis=1).ravel()
    centre, spread = values.mean(), max(float(values.std()), 1e-6)
    x = np.stack([(values - centre) / spread, np.ones_like(values)], axis=1)
    weights = np.zeros(2)
    for _ in range(30):  # Newton; the penalty keeps separable data finite
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (chance - labels) + 1e-3 * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + 1e-3 * np.eye(2)
        weights -= np.linalg.solve(curvature, gradient)
    return float(weights[0] / spread), float(weights[1] - weights[0] * centre / spread)


def _unit(values: Floats) -> Floats:
    unit: Floats = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return unit.astype(np.float32)
