"""From the bytes of an image file to a decoded picture.

Decoding never trusts a file: what is broken, truncated or too large raises `ImageDecodeError` with its reason. Only the
formats named here are decoded, each told by its first bytes, whatever the file's name.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from cir.errors import ImageDecodeError
from cir.images import containers
from cir.images.memory import LARGE, room_for
from cir.images.names import shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 100_000_000  # 400 MB once decoded; a PNG of 100 kB can claim 900 million
MAX_JPEG_PIXELS = 500_000_000  # of a JPEG that is decoded reduced
MAX_JPEG_WORK = 5_000_000_000  # pixels times passes over them
ORIENTATION = 0x0112

# Format -> module and class of its decoder.
_DECODERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "icon": ("PIL.IcoImagePlugin", "IcoImageFile"),
    "PNM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "TGA": ("PIL.TgaImagePlugin", "TgaImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (containers.PNG, "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\0\0\1\0", "icon"),
    *((b"P%d" % kind + space, "PNM") for kind in range(1, 7) for space in (b" ", b"\n", b"\t", b"\r")),
)
_ODDITIES = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # a filter of warnings
_COPIES = {"JPEG": 1, "WebP": 4, "AVIF": 3, "HEIC": 3}  # of the picture, at 4 bytes per pixel, held at once; else 2


def decode(data: bytes, name: str, min_side: int | None = None, most_pixels: int = MAX_JPEG_PIXELS) -> Image:
    """Decode the bytes of an image file completely, in the image's own mode; of an animation, its first picture.

    Args:
        data: the bytes.
        name: for messages.
        min_side: how large the picture is needed: where that saves time or memory it is decoded smaller than it is,
            but neither width nor height below this, nor the length of a strip below four times this. None never
            reduces it.
        most_pixels: of the picture as it is stored, for those who trust the file less than `MAX_PIXELS` does.

    Raises:
        ImageDecodeError: not an image, truncated, or too large: more than `MAX_PIXELS` pixels, reduced or not.
    """
    with decoding(name):
        data = bytes(data)
        kind = format_of(data[:64], name)
        image, passes = _open(data, kind)
        width, height = image.size
        if min_side and kind == "JPEG":
            image.draft(None, (min_side, min_side))
        if passes * width * height > MAX_JPEG_WORK:
            raise ImageDecodeError("too many passes over the picture; save it again")
        # A progressive JPEG is held whole, as coefficients, however small it comes out.
        held = 2 * getattr(image, "layers", 3) * width * height if image.info.get("progressive") else 0
        pixels = image.width * image.height
        if pixels > MAX_PIXELS or width * height > min(most_pixels, MAX_JPEG_PIXELS):
            least = min(most_pixels, MAX_PIXELS) // 10**6
            raise ImageDecodeError(f"{width} x {height} pixels is too large; scale it below {least} megapixels")
        need = held + 4 * pixels * _COPIES.get(kind, 2)
        with room_for(need):
            image.load()
            return _reduced(image, min_side) if min_side and need >= LARGE else image


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Entered around decoders: whatever they raise becomes an ImageDecodeError about `name`, in one line."""
    from PIL.Image import DecompressionBombError

    if _ODDITIES not in warnings.filters:  # what is odd and is decoded all the same is no news
        warnings.filterwarnings("ignore", module=_ODDITIES[3].pattern)
    name = shown(name)
    try:
        yield
    except ImageDecodeError as error:
        raise ImageDecodeError(f"{name}: {error}") from None
    except DecompressionBombError:  # a size that is found only while decoding
        raise ImageDecodeError(f"{name}: too large; scale it below {MAX_PIXELS // 10**6} megapixels") from None
    except MemoryError:
        raise ImageDecodeError(f"{name}: not enough memory to decode it; scale it down") from None
    except Exception as error:
        # Decoders of broken files raise nearly anything (OSError, SyntaxError, struct.error, zlib.error, ...).
        raise ImageDecodeError(f"{name}: broken or truncated image: {reason_of(error)}") from None


def upright(image: Image) -> Image:
    """The picture turned as its EXIF says; as it is where the EXIF is broken or says nothing."""
    return _turned(image, _orientation(image))


def reason_of(error: BaseException) -> str:
    """The message of an error on one line; its type where it has none."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def format_of(head: bytes, name: str) -> str:
    """The format that a file's first bytes tell. Raises ImageDecodeError for any that is not decoded."""
    for start, kind in _SIGNATURES:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        brands = head[8 : max(12, int.from_bytes(head[:4]))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
            return "HEIC"
    if name.lower().endswith(".tga"):  # has no signature
        return "TGA"
    if not head:
        raise ImageDecodeError("an empty file")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ImageDecodeError("a web page under the name of an image; download the image again")
    raise ImageDecodeError("not an image that can be read; convert it to JPEG or PNG")


def _open(data: bytes, kind: str) -> tuple[ImageFile, int]:
    """A picture whose size is known and whose pixels are not yet decoded, and how many passes that takes."""
    module, name = _DECODERS[kind]
    profile, passes = None, 1
    if kind == "JPEG":
        data, passes = containers.plain_jpeg(data)
    elif kind == "PNG":
        data, profile = containers.plain_png(data)
    try:
        decoder = getattr(import_module(module), name)
    except ImportError:
        raise ImageDecodeError("HEIC; to read it, pip install 'cir-engine[heic]'") from None
    image: ImageFile = decoder(io.BytesIO(data), "")
    if profile is not None:
        image.info["icc_profile"] = profile
    return image, passes


def _reduced(image: Image, min_side: int) -> Image:
    """A large picture made smaller, upright, in a mode whose values may be averaged."""
    factor = max(min(image.size) // min_side, max(image.size) // (4 * min_side))
    if factor < 2:
        return image
    orientation, plain = _orientation(image), image
    if image.has_transparency_data:
        plain = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    elif image.mode in ("1", "P", "PA"):
        plain = image.convert("L" if image.mode == "1" else "RGB")
    elif image.mode.startswith("I;"):
        plain = image.convert("I")
    return _turned(plain.reduce(factor), orientation)


def _orientation(image: Image) -> int | None:
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # an image decoder: broken EXIF raises nearly anything
        return None
    return value if isinstance(value, int) else None


def _turned(image: Image, orientation: int | None) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if orientation not in turns:
        return image
    turned = image.transpose(turns[orientation])
    # Without what said that it is to be turned.
    turned.info = {key: image.info[key] for key in ("icc_profile", "transparency") if key in image.info}
    return turned
