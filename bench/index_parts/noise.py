"""Multiplying real vectors without making search easy.

A copy is a photo mixed with three of its ten nearest, so that copies fill the space between photos instead of crowding
around each, plus noise of the shape in which neighbours differ (the covariance of their differences). How long the
noise is, is decided by density: the distance of a photo's tenth neighbour falls with the number of photos as a power
law, which is fitted on parts of the real photos and extrapolated to N. The noise has the length at which the tenth
neighbour of a copy among N copies is as far away. What real queries find among photos and among copies is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cir.arrays import Floats, Rows, unit

NEIGHBOURS, MIXED, NEAREST, TESTED, SAMPLE = 10, 3, 128, 60, 1000
SCALES = np.geomspace(0.02, 1.0, 60).astype(np.float32)
RANKS = (1, 10, 100)


@dataclass(frozen=True)
class Copies:
    """How photos are multiplied.

    Attributes:
        photos: (R, D) float32, unit-norm.
        near: (R, NEIGHBOURS) the nearest other photos of each.
        factor: (D, D) float32; standard normal rows times it are noise.
        facts: how the noise was chosen, as JSON values.
    """

    photos: Floats
    near: Rows
    factor: Floats
    facts: dict[str, Any]

    def rows(self, start: int, count: int, seed: int) -> Floats:
        """(count, D) float32, unit-norm: rows of the gallery from `start` on; the same for the same seed.

        Row n is made of photo n modulo R, so that neighbours do not lie together in the file.
        """
        rng = np.random.default_rng([seed, start])
        bases = _mixed(self.photos, self.near, np.arange(start, start + count) % len(self.photos), rng)
        return unit(bases + rng.standard_normal(bases.shape, np.float32) @ self.factor)


def fit(photos: Floats, rows: int, seed: int) -> Copies:
    """How to make `rows` copies of (R, D) photos, unit-norm; `seed` decides everything random."""
    rng = np.random.default_rng(seed)
    near = _nearest(photos)
    sample = rng.choice(len(photos), min(len(photos), SAMPLE), replace=False)
    differences = (photos[near[sample]] - photos[sample][:, None]).reshape(-1, photos.shape[1])
    covariance = differences.T @ differences / len(differences)
    values, axes = np.linalg.eigh(covariance / np.trace(covariance))
    factor = (axes * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
    expected, law = _extrapolated(photos, sample, rows, rng)
    reached = _reached(photos, near, sample[:TESTED], factor, rows, rng)
    best = int(np.argmin(np.abs(np.log(reached / expected))))
    facts = {
        "scale": round(float(SCALES[best]), 4),
        "difference_of_neighbouring_photos": round(float(np.median(np.linalg.norm(differences, axis=1))), 4),
        "expected_distance": round(expected, 5),
        "distance_at_scale": round(float(reached[best]), 5),
        "law": law,
        "dims_of_noise": round(float(values.sum() ** 2 / (values**2).sum()), 1),
    }
    return Copies(photos, near, factor * SCALES[best], facts)


def _nearest(photos: Floats) -> Rows:
    found = []
    for start in range(0, len(photos), 1024):
        scores = photos[start : start + 1024] @ photos.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -2
        found.append(np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS])
    return np.concatenate(found)


def _mixed(photos: Floats, near: Rows, chosen: Rows, rng: np.random.Generator) -> Floats:
    """Each chosen photo, mixed with some of its nearest: its own weight is uniform, theirs share the rest at random."""
    others = near[chosen[:, None], rng.integers(NEIGHBOURS, size=(len(chosen), MIXED))]
    own = rng.random((len(chosen), 1), np.float32)
    shares = rng.dirichlet(np.ones(MIXED), len(chosen)).astype(np.float32) * (1 - own)
    mixed = own * photos[chosen]
    for place in range(MIXED):
        mixed += shares[:, place : place + 1] * photos[others[:, place]]
    return unit(mixed)


def _extrapolated(photos: Floats, sample: Rows, rows: int, rng: np.random.Generator) -> tuple[float, dict[str, Any]]:
    """Median of 1 - cosine of the tenth neighbour that a photo would have among `rows` real photos."""
    scores = photos[sample] @ photos.T
    scores[np.arange(len(sample)), sample] = -2
    counts = [len(photos) // part for part in (16, 8, 4, 2, 1)]
    medians = []
    for count in counts:
        part = scores[:, rng.permutation(len(photos))[:count]]
        medians.append(float(np.median(1 - np.partition(part, count - 10, axis=1)[:, count - 10])))
    slope, offset = np.polyfit(np.log(counts), np.log(medians), 1)
    law = {"photos": counts, "median_distance": [round(value, 5) for value in medians], "exponent": round(slope, 4)}
    return float(np.exp(offset + slope * np.log(rows))), law


def _reached(photos: Floats, near: Rows, tested: Rows, factor: Floats, rows: int, rng: np.random.Generator) -> Floats:
    """(scales,) the same median for copies among `rows` copies; only those of the nearest photos can be that near."""
    copies = max(1, round(rows / len(photos)))
    tenths = np.empty((len(tested), len(SCALES)), np.float32)
    for number, photo in enumerate(tested):
        base = _mixed(photos, near, tested[number : number + 1], rng)[0]
        own = (rng.standard_normal((1, photos.shape[1]), np.float32) @ factor)[0]
        nearest = np.argsort(-(photos @ photos[photo]))[:NEAREST]
        bases = _mixed(photos, near, np.repeat(nearest, copies), rng)
        noise = rng.standard_normal(bases.shape, np.float32) @ factor
        crossed, length = np.einsum("nd,nd->n", bases, noise), np.einsum("nd,nd->n", noise, noise)
        constant, linear, square = bases @ base, noise @ base + bases @ own, noise @ own
        for place, scale in enumerate(SCALES):
            norms = np.sqrt(1 + 2 * scale * crossed + scale**2 * length)
            norm = np.linalg.norm(base + scale * own)
            cosines = (constant + scale * linear + scale**2 * square) / (norms * norm)
            tenths[number, place] = 1 - np.partition(cosines, len(cosines) - 10)[len(cosines) - 10]
    return np.median(tenths, axis=0)


def distribution(best: Floats) -> dict[str, list[float]]:
    """Rank -> 5, 25, 50, 75 and 95 % quantiles of the cosine of that neighbour.

    Args:
        best: (Q, m) cosines, best first.
    """
    return {
        str(rank): [round(float(value), 4) for value in np.quantile(best[:, rank - 1], (0.05, 0.25, 0.5, 0.75, 0.95))]
        for rank in RANKS
        if rank <= best.shape[1]
    }
