"""The rendered wardrobe: catalogue-like garment pictures with known attributes.

Nothing is downloaded: the pictures serve as quickstart, test and documentation material on any machine, and teach a
model changes that product data has no labels for (pattern, sleeve length, neckline).

    garments -> cut -> (cloth) -> photo -> catalogue
"""

from cir.data.wardrobe.catalogue import TABLE, draw, seed_of, where, write
from cir.data.wardrobe.garments import ATTRIBUTES, CHANGE_WEIGHTS, COLOURS, KINDS, Garment, garments, possible

__all__ = [
    "ATTRIBUTES",
    "CHANGE_WEIGHTS",
    "COLOURS",
    "KINDS",
    "TABLE",
    "Garment",
    "draw",
    "garments",
    "possible",
    "seed_of",
    "where",
    "write",
]
