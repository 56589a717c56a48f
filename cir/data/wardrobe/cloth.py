"""Cloth: a pattern is a cover, how much accent lies on each point, over the coordinates of the cloth."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.data.wardrobe.garments import COLOURS, Garment

Array = NDArray[Any]
Colour = tuple[float, float, float]


def luminance(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _accent(base: Colour, rng: random.Random) -> Colour:
    """A second colour that goes with the first and stands out from it."""
    deep = (base[0] * 0.42, base[1] * 0.42, base[2] * 0.46)
    if luminance(base) > 170:
        return rng.choice([deep, (34, 44, 86), (70, 66, 72)])
    if luminance(base) > 105:
        return rng.choice([(248, 246, 240), (30, 40, 78)])
    return rng.choice([(246, 244, 238), (240, 230, 206), (226, 228, 234)])


def _edge(distance: Array, soft: float) -> Array:
    """1 where the distance is positive, 0 where negative, with a soft edge."""
    return np.clip(distance / soft + 0.5, 0.0, 1.0)


def _wave(t: Array, period: float) -> Array:
    """The distance to the nearest multiple of the period."""
    return np.abs((t / period + 0.5) % 1.0 - 0.5) * period


class Cloth:
    """The fabric of one garment; lengths in hundredths of the picture's width, so patterns stay readable."""

    def __init__(self, garment: Garment, rng: random.Random) -> None:
        light = rng.uniform(0.95, 1.05)
        base = [min(250.0, c * light * rng.uniform(0.988, 1.012)) for c in COLOURS[garment.colour]]
        self.base: Colour = (base[0], base[1], base[2])
        self.accent = _accent(self.base, rng)
        self.second: Colour = rng.choice([(238, 190, 84), (226, 120, 120), (236, 148, 96)])
        self.pattern = garment.pattern
        self.scale = rng.uniform(0.92, 1.15)
        self.shift = rng.uniform(0, 20), rng.uniform(0, 20)
        self.dice = np.random.default_rng(rng.randrange(2**32)).random((5, 64, 64), dtype=np.float32)

    def colour(self, u: Array, v: Array, soft: float) -> Array:
        """The cloth's colour at cloth coordinates (u across, v down)."""
        shape = (*u.shape, 3)
        colours = np.broadcast_to(np.array(self.base, dtype=np.float32), shape).copy()
        u, v = (u + self.shift[0]) / self.scale, (v + self.shift[1]) / self.scale
        for cover, colour in self._layers(u, v, soft):
            colours += cover[..., None] * (np.array(colour, dtype=np.float32) - colours)
        return colours

    def _layers(self, u: Array, v: Array, soft: float) -> Iterator[tuple[Array, Colour]]:
        if self.pattern == "striped":
            yield _edge(1.05 - _wave(v, 5.6), soft), self.accent
        elif self.pattern == "checked":
            for t in (u, v):
                yield 0.58 * _edge(0.92 - _wave(t, 7.4), soft), self.accent
                yield 0.3 * _edge(0.2 - _wave(t + 3.7, 7.4), soft), self.accent
        elif self.pattern == "dotted":
            row = np.floor(v / 3.6)
            u = u + row % 2 * 2.6
            yield _edge(1.12 - np.hypot(_wave(u, 5.2), _wave(v - 1.8, 3.6)), soft), self.accent
        elif self.pattern == "floral":
            yield from self._flowers(u, v, 9.0, 2.9, soft, 0)
            yield from self._flowers(u + 4.5, v + 4.5, 9.0, 1.7, soft, 1)

    def _flowers(
        self, u: Array, v: Array, gap: float, radius: float, soft: float, kind: int
    ) -> Iterator[tuple[Array, Colour]]:
        """Scattered blossoms of five petals, each with two leaves."""
        column, row = np.floor(u / gap).astype(int) % 64, np.floor(v / gap).astype(int) % 64
        chance = [sheet[row, column] for sheet in self.dice]
        x = (u / gap % 1.0 - 0.5) * gap + (chance[0] - 0.5) * gap * 0.28
        y = (v / gap % 1.0 - 0.5) * gap + (chance[1] - 0.5) * gap * 0.28
        distance, angle = np.hypot(x, y), np.arctan2(y, x) + chance[2] * 6.28
        size = radius * (0.85 + 0.3 * chance[3])
        leaf = np.abs(np.sin(angle)) * distance - 0.62 * np.sqrt(np.clip(1 - (distance / size / 1.45) ** 2, 0, 1))
        green: Colour = (92, 132, 84) if luminance(self.base) > 60 else (128, 160, 112)
        yield _edge(-leaf, soft) * _edge(size * 1.4 - distance, soft), green
        petals = size * (0.5 + 0.5 * np.sqrt(np.abs(np.cos(2.5 * angle))))
        yield _edge(petals - distance, soft), self.second if kind else self.accent
        yield _edge(size * 0.26 - distance, soft), self.accent if kind else self.second
