"""Pictures as people hold them in Python: PIL images and arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cir.errors import ImageDecodeError, UsageError
from cir.given import instance, kind
from cir.images.decode import MAX_PIXELS, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.arrays import Floats

_FORMS = "give (H, W), (H, W, 3) or (H, W, 4)"
_MEGAPIXELS = MAX_PIXELS // 10**6
_OVERSHOOT = 1e-3  # resizing carries floats this far past [0, 1]


def as_picture(value: Any) -> Image:
    """A picture, decoded completely: a PIL image, as it is, or an array.

    Args:
        value: a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), the last with opacity; of integers
            from 0 to 255, booleans, or floats from 0 to 1.

    Raises:
        UsageError: something else, or a picture without pixels.
        ImageDecodeError: an image that was closed or is broken, or has more than `MAX_PIXELS` pixels.
    """
    import numpy as np
    from PIL.Image import Image

    if isinstance(value, np.ndarray):
        value = _from_array(value)
    if not isinstance(value, Image):
        raise UsageError(f"a picture is {kind(value)}; give a PIL image or a numpy array")
    width, height = value.size
    if not width or not height:
        raise UsageError("a picture without pixels; give one that has some")
    if width * height > MAX_PIXELS:
        raise ImageDecodeError(f"a picture of {width} x {height} pixels; scale it below {_MEGAPIXELS} megapixels")
    try:
        value.load()
        value.getpixel((0, 0))  # what was loaded before it was closed is found here
    except Exception as error:  # an image decoder: broken images raise nearly anything
        raise ImageDecodeError(f"a picture cannot be read: {reason_of(error)}; open it again") from None
    return value.convert("LA") if value.mode == "La" else value  # Pillow converts La to nothing else


def as_pixels(value: Any, shape: tuple[int, ...]) -> Floats:
    """(B, *shape) preprocessed pixels as contiguous float32.

    Args:
        value: what was given.
        shape: of one picture, (3, H, W) for most models.

    Raises:
        UsageError: an array of another shape or with values that are not finite, or no array.
    """
    import numpy as np

    array = instance(value, np.ndarray, "pixels", "stack what `preprocess` returned with numpy.stack")
    if array.shape[1:] != shape or array.dtype.kind not in "fiu":
        wanted = ", ".join(map(str, ("B", *shape)))
        raise UsageError(f"pixels have shape {array.shape}, type {array.dtype}; give ({wanted}) float32")
    pixels: Floats = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(pixels).all():
        raise UsageError("pixels hold values that are not finite; give what `preprocess` returned")
    return pixels


def _from_array(value: Any) -> Image:
    import numpy as np
    from PIL import Image

    array = np.asarray(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise UsageError(f"a picture is an array of shape {array.shape}; {_FORMS}")
    if 0 in array.shape:
        raise UsageError(f"a picture without pixels, an array of shape {array.shape}; {_FORMS}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageDecodeError(f"a picture of shape {array.shape}; scale it below {_MEGAPIXELS} megapixels")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        least, most = float(array.min()), float(array.max())
        if not -_OVERSHOOT <= least <= most <= 1 + _OVERSHOOT:  # also false of NaN
            raise UsageError(f"a picture of floats from {least:g} to {most:g}; give floats from 0 to 1, or uint8")
        array = (np.clip(array.astype(np.float32), 0, 1) * 255).round()
    elif array.dtype.kind not in "iu":
        raise UsageError(f"a picture is an array of {array.dtype}; give uint8, or floats from 0 to 1")
    elif array.min() < 0 or array.max() > 255:
        raise UsageError(f"a picture of {array.dtype} from {array.min()} to {array.max()}; give values from 0 to 255")
    return Image.fromarray(np.ascontiguousarray(array, np.uint8))
