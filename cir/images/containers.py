"""What decoding needs of a file. Metadata is left out before a decoder sees it, so that it can stop or slow none.

Kept are pixels, colour profiles and what says which way is up.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
MAX_PARTS = 200_000  # chunks or segments; a picture of 256 MB in chunks of 8 kB has 32,000
MAX_TEXTS = 8
MAX_METADATA = 1 << 20  # of a text that may say which way is up
MAX_PROFILE = 16 << 20

_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)  # one that has a body, or ends the picture
_BY_PALETTE = b"\3"  # colour type
_ORIENTATIONS = {b"Raw profile type exif", b"XML:com.adobe.xmp"}


def plain_png(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without its metadata, and its colour profile.

    Checksums count for the pixels alone: anything else that is damaged is left out.

    Raises:
        ValueError: too many chunks.
    """
    pixels: list[memoryview | bytes] = []
    metadata: list[memoryview] = []
    profile, coloured = None, False
    for number, (kind, body, whole) in enumerate(_chunks(data)):
        if number > MAX_PARTS:
            raise ValueError("too many chunks")
        if kind in _PIXELS:
            pixels.append(whole)
            coloured = coloured or kind == b"PLTE" or (kind == b"IHDR" and body[9:10] != _BY_PALETTE)
            if kind == b"IDAT" and not coloured:
                raise ValueError("no palette")
            if kind == b"IEND":
                break
            continue
        intact = whole[-4:] == struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        if kind == b"iCCP" and intact and profile is None:
            profile = _inflated(bytes(body).partition(b"\0")[2][1:], MAX_PROFILE)
        elif intact and len(body) <= MAX_METADATA and (kind == b"eXIf" or _tells_orientation(kind, bytes(body))):
            metadata.append(whole)
    else:
        pixels.append(_chunk(b"IEND", b""))  # browsers do not miss it
    # Metadata goes after the header: what follows the pixels may be missing.
    return b"".join((PNG, *pixels[:1], *metadata[:MAX_TEXTS], *pixels[1:])), profile


def plain_jpeg(data: bytes) -> tuple[bytes, int]:
    """A JPEG without its metadata, but for EXIF, XMP and colour profile; and how often it goes over the whole picture.

    A progressive one does so about 10 times, and may say so 100,000 times.

    Raises:
        ValueError: too many segments.
    """
    view = memoryview(data)  # parts are not copied until the end
    kept, place, left = [view[:2]], 2, MAX_METADATA
    for _ in range(MAX_PARTS):
        if len(data) < place + 4 or data[place] != 0xFF:
            break
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # without a body
            kept.append(view[place : place + 2])
            place += 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        body = data[place + 4 : place + 16]
        if marker == 0xE1 and body.startswith((b"Exif\0", b"http://ns.ado")):
            left -= end - place
            needed = left > 0
        elif marker == 0xE2:
            needed = body.startswith(b"ICC_PROFILE\0")
        else:
            needed = marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE)
        if needed:
            kept.append(view[place:end])
        place = end
    else:
        raise ValueError("too many segments")
    return b"".join((*kept, view[place:])), _passes(data, place)


def _passes(data: bytes, place: int) -> int:
    """The number of scans from the first on; what follows the end of the picture, such as a video, does not count."""
    passes = 0
    while marker := _MARKER.search(data, place):
        kind, place = marker[0][1], marker.end()
        if kind == 0xD9:
            break
        passes += kind == 0xDA
        place += int.from_bytes(data[place : place + 2])
    return passes


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """(kind, body, the whole chunk) of each chunk; the last may be cut off."""
    view, place = memoryview(data), len(PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        yield kind, view[place + 8 : end - 4], view[place:end]
        place = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _tells_orientation(kind: bytes, body: bytes) -> bool:
    """Whether a text chunk may say which way is up, and unpacks to a small text."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in _ORIENTATIONS or kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return False
    if kind == b"zTXt":
        return _inflated(rest[1:], MAX_METADATA - 1) is not None
    if kind == b"iTXt" and rest[:1] == b"\1":
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        return _inflated(text, MAX_METADATA - 1) is not None
    return True


def _inflated(data: bytes, limit: int) -> bytes | None:
    """Unpacked bytes; None if they are damaged or more than the limit."""
    unpack = zlib.decompressobj()
    try:
        unpacked = unpack.decompress(data, limit)
    except zlib.error:
        return None
    return None if unpack.unconsumed_tail or not unpack.eof else unpacked
