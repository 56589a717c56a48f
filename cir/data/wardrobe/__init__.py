"""The rendered wardrobe: catalogue-like garment pictures with known attributes.

Nothing is downloaded: the pictures serve as quickstart, test and documentation material on any machine, and teach a
model changes that product data has no labels for (pattern, sleeve length, neckline).

    garments -> cut -> (cloth) -> photo
"""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import TYPE_CHECKING

from cir.data.wardrobe.garments import ATTRIBUTES, CHANGE_WEIGHTS, COLOURS, KINDS, Garment, garments, possible

if TYPE_CHECKING:
    from PIL import Image

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
    "write",
]

TABLE = "wardrobe.csv"


def draw(garment: Garment, *, seed: int, size: int = 224) -> Image.Image:
    """Draw a garment as a shop would show it, on a light background.

    Args:
        garment: What to draw.
        seed: Position, cut, folds and tone vary with it; the same seed gives the same picture.
        size: Width and height in pixels.
    """
    from cir.data.wardrobe.cloth import Cloth
    from cir.data.wardrobe.cut import cut
    from cir.data.wardrobe.photo import Photo

    rng = random.Random(f"{seed} {sorted(garment.attributes.items())}")
    parts = cut(garment, rng)
    return Photo(parts, Cloth(garment, rng), rng, size).image()


def write(folder: Path, count: int, *, seed: int) -> list[tuple[str, Garment]]:
    """Write a catalogue: pictures under ``images/`` and their attributes in ``wardrobe.csv``.

    Args:
        folder: Where to write; made if it is not there.
        count: How many garments.
        seed: The same seed gives the same catalogue.

    Returns:
        The id (the picture's path inside the folder) and the garment of each picture.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = folder / TABLE
    catalogue = [(f"images/{i:05d}.jpg", garment) for i, garment in enumerate(garments(count, seed=seed), 1)]
    for i, (name, garment) in enumerate(catalogue):
        draw(garment, seed=seed * 1_000_003 + i).save(folder / name, quality=92)
    # The table comes last and at once: a folder with a table is whole.
    with table.with_suffix(".tmp").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", *ATTRIBUTES])
        rows.writerows([name, *garment.attributes.values()] for name, garment in catalogue)
    table.with_suffix(".tmp").replace(table)
    return catalogue
