"""References of queries, in the forms that people have them."""

from __future__ import annotations

import os
from typing import Any

from cir.errors import DataError, UsageError
from cir.given import items, kind, one_name
from cir.images.decode import reason_of
from cir.images.files import ImageFile
from cir.images.picture import as_picture

MAX_BYTES = 2**29  # of an open file; a device or an endless stream is stopped here

_NAMES = (str, os.PathLike)
_BYTES = (bytes, bytearray, memoryview)


def as_references(value: Any) -> tuple[Any, ...]:
    """References in one form: a name (str), the bytes of an image file, an `ImageFile`, or a decoded PIL image.

    Args:
        value: one reference, or any number of them, or None. A reference is the name of a file or gallery image, as a
            string or a path; the bytes of an image file; a file that is open in binary mode, which is read at once from
            where it is; an `ImageFile` of `scan`; or a picture as for `as_picture`, which is decoded at once.

    Raises:
        UsageError: something else.
        DataError: an open file that cannot be read; ImageDecodeError: a picture that cannot be.
    """
    return tuple(_reference(each) for each in ([value] if _is_one(value) else items(value, "references")))


def _is_one(value: Any) -> bool:
    """Whether a value is a reference by itself. An array of names is several."""
    if isinstance(value, (tuple, list)):  # nearly always
        return False
    return isinstance(value, (*_NAMES, *_BYTES, ImageFile)) or hasattr(value, "read") or _is_picture(value)


def _is_picture(value: Any) -> bool:
    import numpy as np
    from PIL.Image import Image

    return isinstance(value, Image) or (isinstance(value, np.ndarray) and value.dtype.kind not in "USO")


def _reference(value: Any) -> Any:
    if isinstance(value, ImageFile):
        return value
    if isinstance(value, _NAMES):
        return one_name(value, "references")
    if isinstance(value, _BYTES):
        return bytes(value)
    if hasattr(value, "read"):
        return _read(value)
    if _is_picture(value):
        return as_picture(value)
    raise UsageError(
        f"a reference is {kind(value)}; give a path, the id of a gallery image, a PIL image, a numpy array, "
        "the bytes of an image file, or one open in binary mode"
    )


def _read(file: Any) -> bytes:
    try:
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, TypeError) as error:  # closed, not for reading, or with another `read`
        raise DataError(f"an open file cannot be read: {reason_of(error)}; open it again") from None
    if not isinstance(data, bytes):
        raise UsageError(f"an open file gives {kind(data)} instead of bytes; open it in binary mode, 'rb'")
    if not data:
        raise DataError("an open file has nothing left to read; call its seek(0) first")
    if len(data) > MAX_BYTES:
        raise DataError(f"an open file of more than {MAX_BYTES / 1e6:,.0f} MB is no picture; give an image file")
    return data
