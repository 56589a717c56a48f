"""Pictures that were uploaded: checked by decoding them, and kept in memory for later searches, the latest ones."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict

from PIL import Image

from cir.errors import MissingImageError
from cir.images import as_seen, decode
from cir.serve.jobs import Uploaded
from cir.serve.settings import Limits

PREVIEW = 640  # of the longer side
_QUALITY = 85


class Uploads:
    """The latest uploads, by SHA-256, up to some bytes. Only the event loop's thread may use it."""

    def __init__(self, limits: Limits) -> None:
        self._room = limits.kept_uploads
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, data: bytes) -> str:
        """Keep a file; returns its SHA-256. What was not used for longest goes."""
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self._kept:
            self._kept[sha256] = data
            self._bytes += len(data)
        self._kept.move_to_end(sha256)
        while self._bytes > self._room and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return sha256

    def get(self, sha256: str) -> bytes:
        """A file that is kept. Raises MissingImageError."""
        if sha256 not in self._kept:
            raise MissingImageError("this upload is no longer kept; send the picture again")
        self._kept.move_to_end(sha256)
        return self._kept[sha256]


def uploaded(data: bytes, min_side: int | None, limits: Limits) -> Uploaded:
    """A reference of an upload. Raises ImageDecodeError for what is no picture, or too large a one."""
    sha256 = hashlib.sha256(data).hexdigest()
    return Uploaded(sha256, data, decode(data, _name(data), min_side, limits.upload_pixels))


def small_jpeg(data: bytes, side: int, name: str, most_pixels: int | None = None) -> bytes:
    """A JPEG of a picture as people see it, its longer side at most `side`. Raises ImageDecodeError."""
    limit = {} if most_pixels is None else {"most_pixels": most_pixels}
    picture = as_seen(decode(data, name, side, **limit))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def preview(data: bytes, limits: Limits) -> bytes:
    """A JPEG of an upload. Raises ImageDecodeError."""
    return small_jpeg(data, PREVIEW, _name(data), limits.upload_pixels)


def _name(data: bytes) -> str:
    """What messages call it: as the library calls a reference by its bytes."""
    return f"a reference of {len(data):,} bytes"
