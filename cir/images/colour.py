"""Colours as they are meant: pictures with a colour profile become sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

from cir.images.containers import MAX_PROFILE

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

UNSEEN = 2  # of 255; sRGB profiles of different makers differ by as much


def to_srgb(image: Image) -> Image:
    """The picture in sRGB, if it has a profile that changes its colours; else as it is, bit for bit.

    A profile that is broken or made for other channels is ignored.

    Args:
        image: of 8 bits per channel.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    colours = image.convert("RGB") if image.mode == "RGBA" else image
    # A grey picture with transparency is RGBA by now, and its profile is still one of greys.
    transform = _transform(profile, colours.mode) or (_transform(profile, "L") if image.mode == "RGBA" else None)
    if transform is None:
        return image
    from PIL import ImageCms

    if transform.input_mode != colours.mode:
        colours = colours.convert(transform.input_mode)
    converted = ImageCms.applyTransform(colours, transform)
    if converted is None:
        return image
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def lab_to_rgb(image: Image) -> Image:
    """A picture in CIELAB as sRGB."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """The conversion to sRGB of pictures with a profile; None if there is none or it changes nothing that is seen."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
        return None if _changes_nothing(transform, mode) else transform
    except Exception:  # an image decoder: a broken profile raises nearly anything
        return None


def _changes_nothing(transform: ImageCmsTransform, mode: str) -> bool:
    import numpy as np
    from PIL import Image, ImageCms

    if mode not in ("RGB", "L"):
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    sample = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[:, None])
    changed = ImageCms.applyTransform(sample, transform)
    before, after = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (sample, changed))
    return bool(np.abs(after - before).max() <= UNSEEN)
