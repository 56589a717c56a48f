"""Pictures as bytes, and zips of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def shades(width: int = 90, height: int = 60) -> Image.Image:
    """Smooth colours, the same at every size."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file that holds a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def small_png(shade: int = 0) -> bytes:
    """A PNG of 4 x 4 pixels of one grey."""
    return saved(Image.new("L", (4, 4), shade))


def zipped(path: Path, *names: str, method: int = zipfile.ZIP_STORED) -> Path:
    """A zip whose members are different pictures, under names exactly as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name), small_png(number), method)
    return path
