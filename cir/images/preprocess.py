"""How a picture becomes pixels: part of what a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cir.errors import ImageDecodeError
from cir.images.colour import lab_to_rgb, to_srgb
from cir.images.decode import MAX_PIXELS, decoding, upright
from cir.typed_json import digest

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.arrays import Floats


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes pixels. Two models with other settings see other pixels, so the digest is in the card.

    The defaults are SPRC's (TargetPad 1.25 with zeros, bicubic, centre crop 224, CLIP statistics).

    Attributes:
        size: H = W of the result.
        target_ratio: pictures longer than this are padded to it.
        fill: value of the padding, 0 to 255.
        flatten: first turn the picture upright by its EXIF and lay transparency on white; SPRC does neither.
        srgb: with `flatten`, also convert pictures with another colour profile to sRGB.
        mean, std: per channel, of values in [0, 1].
    """

    size: int = 224
    target_ratio: float = 1.25
    fill: int = 0
    flatten: bool = False
    srgb: bool = False
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that give no pixels, or absurdly many."""
        if not (1 <= self.size <= 4096 and 1 <= self.target_ratio <= 1000 and 0 <= self.fill <= 255):
            raise ValueError("size is 1 to 4096, target_ratio 1 to 1000, fill 0 to 255")
        if min(self.std) <= 0 or not all(-10 <= value <= 10 for value in (*self.mean, *self.std)):
            raise ValueError("mean is -10 to 10, std above 0 to 10")

    @property
    def sha256(self) -> str:
        """Digest of the settings."""
        return digest(self)

    @property
    def min_side(self) -> int | None:
        """How large a picture is needed, for `decode`: twice the result. None for SPRC's way, which sees all pixels."""
        return 2 * self.size if self.flatten else None

    def __call__(self, image: Image) -> Floats:
        """One picture of any size and mode -> (3, size, size) float32, normalised by mean and std.

        Raises:
            ImageDecodeError: the picture cannot be used: too long and thin, without values, or not decodable.
        """
        import numpy as np

        with decoding(f"a picture of {image.width} x {image.height}"):
            if self.flatten:
                # Padding a long strip to a square before it is shrunk could take gigabytes.
                image = as_seen(image, srgb=self.srgb).reduce(max(1, max(image.size) // (8 * self.size)))
            square = _crop(_shrink(_pad(image, self.target_ratio, self.fill), self.size), self.size)
            # By planes: numpy takes four times as long along an axis of three.
            values: Floats = np.asarray(square.convert("RGB")).transpose(2, 0, 1).astype(np.float32, order="C")
        values /= np.float32(255)
        values -= np.array(self.mean, np.float32)[:, None, None]
        values /= np.array(self.std, np.float32)[:, None, None]
        return values

    def frame(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the square that the pixels show, in pixels of a picture of that size, upright.

        It reaches beyond a picture that is padded, and leaves out the ends of one that is cropped.
        """
        across, down = _margins(width, height, self.target_ratio)
        half = min(width + 2 * across, height + 2 * down) / 2
        return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def as_seen(image: Image, *, srgb: bool = True) -> Image:
    """A picture as people see it and as models with `flatten` do: RGB, upright, transparency laid on white.

    Args:
        image: of any mode.
        srgb: convert pictures with another colour profile to sRGB.

    Raises:
        ImageDecodeError: a picture of floats none of which is a number.
    """
    from PIL import Image as Images

    image = _eight_bits(upright(image))
    image = to_srgb(image) if srgb else image
    if image.mode == "LAB":
        image = lab_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image) -> Image:
    """Pictures of 16 or 32 bits a pixel scaled down; Pillow's own conversion would clip them to white."""
    import numpy as np
    from PIL import Image as Images

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.array(image, dtype=np.float32)
    known = np.isfinite(values)
    if not known.any():
        raise ImageDecodeError("no pixel has a value")
    top = float(values.max(where=known, initial=0))
    full = top if top > 65535 else 65535 if top > 255 else 255 if top > 1 or image.mode != "F" else 1
    # In place: a large picture of floats is not copied for every step.
    np.nan_to_num(values, copy=False, nan=0, posinf=full, neginf=0)
    values /= full
    np.clip(values, 0, 1, out=values)
    values *= 255
    grey = Images.fromarray(values.round(out=values).astype(np.uint8))
    grey.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    return grey


def _pad(image: Image, target_ratio: float, fill: int) -> Image:
    from PIL import ImageOps

    width, height = image.size
    if max(width, height) / min(width, height) < target_ratio:
        return image
    side = max(width, height) / target_ratio
    if side * side > MAX_PIXELS:
        raise ImageDecodeError("too long and thin; cut it")
    across, down = _margins(width, height, target_ratio)
    bands = len(image.getbands())
    return ImageOps.expand(image, (across, down, across, down), fill=fill if bands == 1 else (fill,) * bands)


def _margins(width: int, height: int, target_ratio: float) -> tuple[int, int]:
    """How many pixels are added on the left and on the right, and how many at the top and at the bottom."""
    if max(width, height) / min(width, height) < target_ratio:
        return 0, 0
    side = max(width, height) / target_ratio
    return max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)


def _shrink(image: Image, size: int) -> Image:
    from PIL import Image

    width, height = image.size
    if width <= height:
        new = (size, int(size * height / width))
    else:
        new = (int(size * width / height), size)
    return image if new == image.size else image.resize(new, Image.Resampling.BICUBIC)


def _crop(image: Image, size: int) -> Image:
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
