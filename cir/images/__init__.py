"""Pictures: where they are (`files`), how they are decoded (`decode`), how they become pixels (`preprocess`)."""

from cir.images.decode import MAX_PIXELS, decode, upright
from cir.images.files import SUFFIXES, ZIP_SUFFIX, ImageFile, locate, scan
from cir.images.preprocess import Preprocess

__all__ = ["MAX_PIXELS", "SUFFIXES", "ZIP_SUFFIX", "ImageFile", "Preprocess", "decode", "locate", "scan", "upright"]
