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
    transparent = image.has_transparency_data
    whole = image.convert("RGBA") if transparent else image
    mode = whole.mode if whole.mode in ("L", "CMYK", "LAB") else "L" if whole.mode == "1" else "RGB"
    transform = _transform(profile, mode)
    if transform is None and transparent:  # a grey picture with transparency has a profile of greys
        mode = "L"
        transform = _transform(profile, mode)
    if transform is None:
        return image
    from PIL import ImageCms

    converted = ImageCms.applyTransform(whole if whole.mode == mode else whole.convert(mode), transform)
    assert converted is not None
    if transparent:
        converted.putalpha(whole.getchannel("A"))
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
    assert changed is not None
    before, after = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (sample, changed))
    return bool(np.abs(after - before).max() <= UNSEEN)
