"""Pictures: which there are (`scanning`), how one is read (`files`, `zips`), decoded (`decode`) and becomes pixels
(`preprocess`)."""

from cir.images.decode import MAX_PIXELS, decode, upright
from cir.images.files import MAX_BYTES, SUFFIXES, ZIP_SUFFIX, ImageFile, file_at, locate
from cir.images.memory import affordable_workers
from cir.images.preprocess import Preprocess, as_seen
from cir.images.scanning import Scan, scan

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "ZIP_SUFFIX",
    "ImageFile",
    "Preprocess",
    "Scan",
    "affordable_workers",
    "as_seen",
    "decode",
    "file_at",
    "locate",
    "scan",
    "upright",
]
