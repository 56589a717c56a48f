"""Colour profiles that cameras and telephones embed, made from their definitions."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

D50, D65 = (0.3457, 0.3585), (0.3127, 0.3290)
# Name -> chromaticities of red, green, blue and white, and the exponent of the curve.
SPACES = {
    "ProPhoto RGB": ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), D50, 1.8),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65, 2.2),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65, 2.2),  # its curve is sRGB's, close to this
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65, 2.2),
}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def rgb_profile(name: str) -> bytes:
    """An ICC profile of one of `SPACES`: version 2, three primaries and a curve."""
    red, green, blue, white, gamma = SPACES[name]
    primaries = np.stack([_xyz(red), _xyz(green), _xyz(blue)], axis=1)
    primaries = primaries * np.linalg.solve(primaries, _xyz(white))
    cones = (_BRADFORD @ _xyz(D50)) / (_BRADFORD @ _xyz(white))
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ primaries
    text = name.encode()
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 78 + 3 - len(text) % 4),
        b"cprt": b"text" + bytes(4) + b"none" + bytes(4),
        b"wtpt": _xyz_tag(_xyz(D50)),
        **{key: _xyz_tag(adapted[:, i]) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    place = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", place + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _xyz_tag(_xyz(D50))[8:]
    return head.ljust(128, b"\0") + table + body


def _xyz(chromaticity: tuple[float, float]) -> NDArray[np.float64]:
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def _xyz_tag(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
