"""From the bytes of an image file to a decoded picture.

Decoding never trusts a file: what is broken, truncated or too large raises `ImageDecodeError` with its reason.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from cir.errors import ImageDecodeError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000  # 300 MB once decoded; a PNG of 100 kB can claim 900 million


def decode(data: bytes, name: str) -> Image:
    """Decode the bytes of an image file completely, in the image's own mode.

    Raises:
        ImageDecodeError: not an image, truncated, or of more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageDecodeError(
                f"{name}: {width} x {height} pixels is too large; scale it below {MAX_PIXELS // 10**6} megapixels"
            )
        image.load()
        return image
    except UnidentifiedImageError:
        raise ImageDecodeError(f"{name}: not an image that can be read; convert it to JPEG or PNG") from None
    except Image.DecompressionBombError:
        raise ImageDecodeError(f"{name}: too large; scale it below {MAX_PIXELS // 10**6} megapixels") from None
    except ImageDecodeError:
        raise
    except Exception as error:
        # Decoders of broken files raise nearly anything (OSError, SyntaxError, struct.error, zlib.error, ...).
        raise ImageDecodeError(f"{name}: broken or truncated image: {reason_of(error)}") from None


def upright(image: Image) -> Image:
    """The picture turned as its EXIF says; as it is where the EXIF is broken."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an image decoder: broken EXIF raises nearly anything
        return image


def reason_of(error: BaseException) -> str:
    """The message of an error on one line; its type where it has none."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
