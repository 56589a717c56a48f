"""A wardrobe on disk: pictures of random garments, and a table of their attributes."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING

from cir.data.wardrobe.garments import ATTRIBUTES, Garment, garments
from cir.files import disk_errors, write_text

if TYPE_CHECKING:
    from PIL import Image

    from cir.arrays import Floats
    from cir.data.wardrobe.cut import Part
    from cir.data.wardrobe.photo import Photo

TABLE = "wardrobe.csv"


def draw(garment: Garment, *, seed: int, size: int = 224) -> Image.Image:
    """Draw a garment as a shop would show it, on a light background.

    Args:
        garment: what to draw.
        seed: position, cut, folds and tone vary with it; the same seed gives the same picture.
        size: width and height in pixels.
    """
    return _photographed(garment, seed, size)[0].image()


def where(garment: Garment, attribute: str = "", *, seed: int, size: int = 224) -> Floats:
    """(size, size) float32 in [0, 1]: how much of each pixel of `draw`'s picture shows an attribute.

    Args:
        garment, seed, size: as for `draw`.
        attribute: "sleeves" or "neckline"; "" for the whole garment.
    """
    photo, parts = _photographed(garment, seed, size)
    shares: Floats = photo.share(parts, attribute)
    return shares


def _photographed(garment: Garment, seed: int, size: int) -> tuple[Photo, list[Part]]:
    from cir.data.wardrobe.cloth import Cloth
    from cir.data.wardrobe.cut import cut
    from cir.data.wardrobe.photo import Photo

    rng = random.Random(f"{seed} {sorted(garment.attributes.items())}")
    parts = cut(garment, rng)
    return Photo(parts, Cloth(garment, rng), rng, size), parts


def seed_of(seed: int, number: int) -> int:
    """The seed of the picture at a place, from 0, of the catalogue of a seed."""
    return seed * 1_000_003 + number


def write(folder: Path, count: int, *, seed: int) -> list[tuple[str, Garment]]:
    """Write a catalogue: pictures under `images/` and their attributes in `wardrobe.csv`.

    The table is written last, in one step: a folder with a table is complete.

    Args:
        folder: where to write; created if missing.
        count: number of garments.
        seed: the same seed gives the same catalogue.

    Returns:
        The id (the picture's path inside the folder) and the garment of each picture.

    Raises:
        DataError: the disk is full or the folder cannot be written to.
    """
    catalogue = [(f"images/{i:05d}.jpg", garment) for i, garment in enumerate(garments(count, seed=seed), 1)]
    with disk_errors(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for i, (name, garment) in enumerate(catalogue):
            draw(garment, seed=seed_of(seed, i)).save(folder / name, quality=92)
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["id", *ATTRIBUTES])
    rows.writerows([name, *garment.attributes.values()] for name, garment in catalogue)
    write_text(folder / TABLE, table.getvalue())
    return catalogue
