"""Parts of pictures as pictures of their own: a box of a file, centred on a black square.

The file is never copied: a crop is read as a PNG that is made of the file's pixels when they are needed. In an index
the box is kept with the file's path, as `123.jpg#crop=40,0,210.5,170`.
"""

from __future__ import annotations

import io
import os
import re
from typing import NamedTuple

from cir.errors import ImageDecodeError
from cir.images.decode import decode
from cir.images.names import shown

_NUMBER = r"-?\d+(?:\.\d+)?"
_CROP = re.compile(rf"(.+)#crop=({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})", re.DOTALL)


class Box(NamedTuple):
    """A box in the pixels of a picture as it is stored, before any turn by EXIF; what leads out of it is cut off."""

    left: float
    top: float
    right: float
    bottom: float


def with_box(path: str, box: Box) -> str:
    """A path and a box as one text."""
    return f"{path}#crop={','.join(plain(side) for side in box)}"


def split_box(text: str) -> tuple[str, Box] | None:
    """The path and the box of `with_box`; None for any other text."""
    match = _CROP.fullmatch(text)
    return (match[1], Box(*map(float, match.groups()[1:]))) if match else None


def without_box(root: str) -> str:
    """The file of `with_box`; any other root, and one that exists under this very name, as it is."""
    split = split_box(root)
    return root if split is None or os.path.lexists(root) else split[0]


def square_crop(data: bytes, name: str, box: Box) -> bytes:
    """The part of a picture inside a box, centred on a black square, as PNG.

    Sides are rounded to whole pixels, halves to even; where the padding is odd, the smaller half comes first. A grey
    picture stays grey.

    Args:
        data: of the image file.
        name: for messages.
        box: which part.

    Raises:
        ImageDecodeError: not an image, or the box holds none of its pixels.
    """
    from PIL import Image

    image = decode(data, name)
    sides = max(0, box.left), max(0, box.top), min(image.width, box.right), min(image.height, box.bottom)
    left, top, right, bottom = map(round, sides)
    if left >= right or top >= bottom:
        where = ", ".join(plain(side) for side in box)
        raise ImageDecodeError(
            f"{shown(name)}: the box {where} holds none of its {image.width} x {image.height} pixels; correct the box"
        )
    part = image.crop((left, top, right, bottom))
    if part.mode not in ("L", "RGB"):
        part = part.convert("RGB")
    side = max(part.size)
    square = Image.new(part.mode, (side, side))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    file = io.BytesIO()
    square.save(file, "PNG", compress_level=1, icc_profile=image.info.get("icc_profile"))
    return file.getvalue()


def plain(number: float) -> str:
    """A number without exponent and without a fraction of zero."""
    return f"{number:.6f}".rstrip("0").rstrip(".")
