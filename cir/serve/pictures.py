"""The photos of a gallery, for those who may see them: by id alone, and only what was indexed where it was indexed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from cir.errors import ImageDecodeError, MissingImageError, UsageError
from cir.given import printable
from cir.images.decode import format_of
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.storage.questions import read_photo
from cir.known import is_known, known_roots
from cir.serve.uploads import small_jpeg

# What browsers show. Everything else is served as a JPEG.
_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
}
LARGEST = 4096  # the longer side of a photo that is made a JPEG


@dataclass(frozen=True)
class Photo:
    """A photo as it is served.

    Attributes:
        data: its bytes.
        media_type: fixed by its first bytes, whatever its name.
    """

    data: bytes
    media_type: str


def image_of(gallery: Gallery, image_id: str) -> StoredImage:
    """One image. Raises MissingImageError where the gallery has none of that id."""
    try:
        return gallery.image(image_id)
    except UsageError as error:
        raise MissingImageError(str(error)) from None


def photo_of(image: StoredImage) -> Photo:
    """The photo of an image, as a browser can show it.

    Raises:
        MissingImageError: it is gone, has changed since it was indexed, or lies outside of the folder that was indexed.
        ImageDecodeError: it cannot be read.
    """
    data = indexed_bytes(image)
    media_type = _TYPES.get(format_of(data[:64], image.id))
    if media_type is not None:
        return Photo(data, media_type)
    return Photo(small_jpeg(data, LARGEST, printable(image.id)), "image/jpeg")


def thumbnail_of(image: StoredImage, side: int) -> bytes:
    """A small JPEG of an image. Raises as `photo_of`."""
    return small_jpeg(indexed_bytes(image), side, printable(image.id))


def indexed_bytes(image: StoredImage) -> bytes:
    """The file that was indexed, from its place there, else as it is kept with judged queries.

    The index may be somebody else's work, so three things must agree: this user has indexed the folder
    (`Gallery.trust_roots`), no link leads out of it to what was not indexed, and the bytes have the digest of the row.

    Raises:
        MissingImageError, ImageDecodeError: as `photo_of`.
    """
    try:
        file = image.file
        if not _inside(file.path, image.root):
            raise MissingImageError(
                f"{printable(image.id)}: its photo is a link that leads out of the folder that was indexed; index "
                "where it leads too"
            )
        data = file.read()
        if hashlib.sha256(data).digest() == image.digest:
            return data
        problem = MissingImageError(
            f"{printable(image.id)}: the photo has changed since it was indexed; run build-index"
        )
    except (MissingImageError, ImageDecodeError) as error:
        problem = error if isinstance(error, MissingImageError) else MissingImageError(str(error))
    kept = read_photo(image.folder, image.digest)
    if kept is None:
        raise problem
    return kept


def _inside(path: str, root: str) -> bool:
    real, base = os.path.realpath(path), os.path.realpath(root)
    return real == base or real.startswith(base.rstrip(os.sep) + os.sep) or is_known(real, known_roots())
