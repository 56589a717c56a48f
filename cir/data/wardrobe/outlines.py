"""Outlines of parts: smooth lines, arcs and bands, in metres. All are (n, 2) float64, x to the right, y downwards."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[Any]


def polyline(*points: tuple[float, float]) -> Points:
    """The points themselves."""
    return np.array(points, dtype=np.float64)


def curve(*points: tuple[float, float], steps: int = 8) -> Points:
    """A smooth line through the points (Catmull-Rom)."""
    knots = polyline(points[0], *points, points[-1])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        bend = 2 * a - 5 * b + 4 * c - d
        pieces.append(0.5 * (2 * b + (c - a) * t + bend * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, knots[-1:]])


def mirror(points: Points) -> Points:
    """The same on the other side of the midline."""
    mirrored: Points = points * np.array([-1.0, 1.0])
    return mirrored


def whole(half: Points) -> Points:
    """Close a right half, running from the midline at the top to the midline at the bottom."""
    return np.concatenate([half, mirror(half)[::-1]])


def arc(width: float, depth: float, top: float = 0.0) -> Points:
    """The lower half of an ellipse, from the right end to the left end."""
    t = np.linspace(0, math.pi, 25)
    return np.stack([width * np.cos(t), top + depth * np.sin(t)], axis=1)


def disc(x: float, y: float, radius: float) -> Points:
    """A circle of 16 points."""
    t = np.linspace(0, 2 * math.pi, 16, endpoint=False)
    return np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], axis=1)


def ribbon(path: Points, width: float) -> Points:
    """A band of the given width to the right-hand side of a path (seen walking along it)."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    return np.concatenate([path, (path + width * np.stack([along[:, 1], -along[:, 0]], axis=1))[::-1]])


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """A rectangle by two opposite corners."""
    return polyline((x0, y0), (x1, y0), (x1, y1), (x0, y1))
