"""Photographing: parts become pixels, filled with cloth, shaded like soft fabric, laid on the parts below."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cir.data.wardrobe.cloth import Cloth, luminance
from cir.data.wardrobe.cut import Part
from cir.data.wardrobe.outlines import Points

Array = NDArray[Any]

_FINE = 4  # outlines are drawn this much larger and reduced, for smooth edges


def _soften(sheet: Array, radius: float) -> Array:
    """A blurred copy of a sheet of values between 0 and 1."""
    image = Image.fromarray((sheet * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / 255


class Photo:
    """A picture being taken: the pixels, the camera's view of the table, and the cloth."""

    def __init__(self, parts: list[Part], cloth: Cloth, rng: random.Random, size: int) -> None:
        self.cloth, self.rng, self.size = cloth, rng, size
        self.dice = np.random.default_rng(rng.randrange(2**32))
        everything = np.concatenate([part.outline for part in parts])
        low, high = everything.min(axis=0), everything.max(axis=0)
        self.zoom = size * rng.uniform(0.8, 0.88) / max(0.7, float((high - low).max()))
        tilt = rng.gauss(0, 0.018)
        self.turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        self.middle = (low + high) / 2
        self.centre = size * np.array([0.5 + rng.uniform(-0.02, 0.02), 0.495 + rng.uniform(-0.015, 0.015)])
        self.pixels = self._table()
        silhouette = sum(self._mask(part.outline, 0, 0, size, size) for part in parts if part.raised > 0.6)
        self._shadow(np.clip(np.asarray(silhouette, dtype=np.float32), 0, 1), self.pixels, 0.018, 0.2)
        for part in parts:
            self._lay(part)

    def image(self) -> Image.Image:
        noise = self.dice.standard_normal(self.pixels.shape[:2], dtype=np.float32)[..., None]
        return Image.fromarray(np.clip(self.pixels + noise * 1.1 + 0.5, 0, 255).astype(np.uint8))

    def share(self, parts: list[Part], of: str = "") -> Array:
        """(size, size) float32 in [0, 1]: how much of each pixel shows the parts of an attribute; of "", any part."""
        seen = np.zeros((self.size, self.size), np.float32)
        for part in parts:
            mask = self._mask(part.outline, 0, 0, self.size, self.size)
            if part.within is not None:
                mask = mask * self._mask(part.within, 0, 0, self.size, self.size)
            seen = seen * (1 - mask) + mask * (not of or part.of == of)
        return seen

    def _table(self) -> Array:
        """The background: white to light grey, a little darker towards a corner."""
        bright = 252 - 4 * self.rng.random()
        if luminance(self.cloth.base) > 225:  # white clothes need some grey behind them
            bright = self.rng.uniform(216, 230)
        elif self.rng.random() < 0.5:
            bright = self.rng.uniform(228, 246)
        warm = self.rng.uniform(-2, 4)
        x, y = np.meshgrid(*[np.linspace(-1, 1, self.size, dtype=np.float32)] * 2)
        fall = 1.0 - 0.022 * (x**2 + y**2) - 0.012 * (x + y)
        tone = np.array([bright + warm, bright + warm * 0.4, bright - warm], dtype=np.float32)
        return np.minimum(fall[..., None] * tone, 255.0).astype(np.float32)

    def _place(self, points: Points) -> Points:
        placed: Points = (points - self.middle) @ self.turn * self.zoom + self.centre
        return placed

    def _mask(self, outline: Points, x0: int, y0: int, x1: int, y1: int) -> Array:
        sheet = Image.new("L", ((x1 - x0) * _FINE, (y1 - y0) * _FINE))
        placed = (self._place(outline) - (x0, y0)) * _FINE
        ImageDraw.Draw(sheet).polygon(placed.ravel().tolist(), fill=255)
        return np.asarray(sheet.reduce(_FINE), dtype=np.float32) / 255

    def _shadow(self, mask: Array, pixels: Array, reach: float, strength: float) -> None:
        """Darken what lies below a part; the light comes from the upper left."""
        radius = reach * self.size
        step = max(1, round(radius * 0.7))
        cast = np.roll(_soften(mask, radius), (step, step // 2), axis=(0, 1))
        pixels *= 1 - strength * np.clip(cast, 0, 1)[..., None]

    def _lay(self, part: Part) -> None:
        placed = self._place(part.outline)
        margin = max(3, round(0.03 * self.size))
        x0, y0 = np.maximum(np.floor(placed.min(axis=0)).astype(int) - margin, 0)
        x1, y1 = np.minimum(np.ceil(placed.max(axis=0)).astype(int) + margin, self.size)
        window = self.pixels[y0:y1, x0:x1]
        mask = self._mask(part.outline, x0, y0, x1, y1)
        if part.within is not None:
            mask = mask * self._mask(part.within, x0, y0, x1, y1)
        if part.raised:
            self._shadow(mask, window, 0.007, 0.3 * part.raised)
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        flat = np.stack([x - self.centre[0], y - self.centre[1]], axis=-1) @ self.turn.T.astype(np.float32)
        c, s = math.cos(part.grain), math.sin(part.grain)
        u, v = (flat[..., 0] * c - flat[..., 1] * s), (flat[..., 0] * s + flat[..., 1] * c)
        light, height = self._light(part, mask, placed, (x0, y0))
        percent = self.size / 100
        colours = self._dye(part, (u + height * 0.4) / percent, (v + height * 0.45) / percent)
        if part.ribbed:
            light = light + part.ribbed * np.cos(u * 2 * math.pi / (1.6 * percent))
        for seam in part.seams:
            self._stitch(seam, light, (x0, y0))
        colours = colours * (1 + light)[..., None] + np.clip(light, 0, 1)[..., None] * 26
        window += mask[..., None] * (colours - window)

    def _dye(self, part: Part, u: Array, v: Array) -> Array:
        if part.cloth == "fabric":
            return self.cloth.colour(u, v, 100 / self.size)
        base = np.array(self.cloth.base)
        tones = {
            "plain": base,
            "inside": base * 0.72,
            "dark": base * 0.5,
            "light": np.array([244.0, 242.0, 236.0]),
            "metal": np.array([176.0, 174.0, 170.0]),
        }
        return np.broadcast_to(tones[part.cloth].astype(np.float32), (*u.shape, 3))

    def _light(self, part: Part, mask: Array, placed: Points, origin: tuple[int, int]) -> tuple[Array, Array]:
        """How much lighter or darker each point is, and the height of the cloth's folds there."""
        size = self.size
        round_edge = _soften(mask, 0.008 * size)
        bulge = 0.014 * size * _soften(mask, 0.014 * size)
        folds = self._folds(part, mask.shape, placed, origin)
        slope_y, slope_x = np.gradient(bulge + folds)
        light = 0.34 * slope_x + 0.26 * slope_y
        light = np.clip(light, -0.28, 0.2) - 0.16 * np.clip(1 - round_edge, 0, 1) ** 1.5
        if part.cloth == "inside":
            light = light - 0.25 * round_edge
        return light.astype(np.float32), folds

    def _folds(self, part: Part, shape: tuple[int, ...], placed: Points, origin: tuple[int, int]) -> Array:
        """A relief of soft waves and some creases along the grain."""
        if not part.creases:
            return np.zeros(shape, dtype=np.float32)
        waves = Image.fromarray(self.dice.standard_normal((4, 6), dtype=np.float32))
        relief = np.asarray(waves.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)) * 0.012 * self.size
        sheet = Image.new("L", (shape[1], shape[0]))
        pen = ImageDraw.Draw(sheet)
        low, high = placed.min(axis=0) - origin, placed.max(axis=0) - origin
        for _ in range(part.creases):
            x, y = self.rng.uniform(low[0], high[0]), self.rng.uniform(low[1], high[1])
            angle = part.grain + self.rng.gauss(0, 0.35)
            long = self.size * self.rng.uniform(0.06, 0.2)
            dx, dy = math.sin(angle) * long, math.cos(angle) * long
            wide = self.size * self.rng.uniform(0.004, 0.012)
            diamond = [(x - dx, y - dy), (x + wide, y), (x + dx, y + dy), (x - wide, y)]
            pen.polygon(diamond, fill=self.rng.randrange(90, 255))
        creases = _soften(np.asarray(sheet, dtype=np.float32) / 255, 0.0075 * self.size)
        return (relief + creases * 0.011 * self.size).astype(np.float32)

    def _stitch(self, seam: Points, light: Array, origin: tuple[int, int]) -> None:
        """A seam: a fine dark line with a lighter one below it."""
        sheet = Image.new("L", (light.shape[1] * 2, light.shape[0] * 2))
        placed = (self._place(seam) - origin) * 2
        width = max(1, round(self.size * 2 / 224))
        ImageDraw.Draw(sheet).line(placed.ravel().tolist(), fill=255, width=width, joint="curve")
        line = np.asarray(sheet.reduce(2), dtype=np.float32) / 255
        light += 0.09 * np.roll(line, 1, axis=0) - 0.2 * line
