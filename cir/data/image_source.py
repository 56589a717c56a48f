"""Where the pictures of a data set are: in `images/`, or in zips of it at other sizes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from cir.errors import DataError
from cir.images import ZIP_SUFFIX
from cir.images.files import has_suffix


def image_source(data_root: Path, images: str | None = None) -> Path:
    """The folder or zip that holds the pictures of a data set.

    Args:
        data_root: the folder.
        images: name of the folder or zip; by default `images/`, else the zip with the largest pictures.

    Raises:
        DataError: no such folder or zip.
    """
    if images is not None:
        chosen = data_root / images
        if not chosen.exists():
            raise DataError(f"no such folder or zip: {chosen}; --images names one in --data-root")
        return chosen
    if (data_root / "images").is_dir():
        return data_root / "images"
    zips = sorted(path for path in data_root.glob("*") if has_suffix(path.name, {ZIP_SUFFIX}))
    if not zips:
        raise DataError(f"{data_root}: neither images/ nor a zip of pictures; put them there")
    return max(zips, key=bytes_per_image)


def bytes_per_image(path: Path) -> float:
    """Mean size of a zip's files: larger for larger pictures, and known without opening any. 0 if it is no zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [member.file_size for member in archive.infolist() if not member.is_dir()]
    except (OSError, zipfile.BadZipFile):
        return 0.0
    return sum(sizes) / len(sizes) if sizes else 0.0
