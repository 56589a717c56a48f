"""Pictures: where they lie, how they are read, and how they become pixels.

Decoding never trusts a file: what is broken, truncated or too large raises `ImageDecodeError` with a reason in one line.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cir.errors import DataError, ImageDecodeError, MissingImageError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 100_000_000  # 300 MB once decoded; a PNG of 100 kB can claim 900 million
ZIP_SUFFIX = ".zip"


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder or zip, not yet read.

    Attributes:
        id: POSIX path relative to the root; prefixed by the root's name when several roots are given; `zip/member` for
            a zip found inside a folder.
        root: absolute path of the folder or zip that was given; a hint for finding the photo again.
        path: the file that holds the bytes.
        member: the name inside `path` when that is a zip.
    """

    id: str
    root: str
    path: str
    member: str | None = None

    def read(self) -> bytes:
        """The file's bytes. Raises MissingImageError when it is gone, ImageDecodeError when it cannot be read."""
        try:
            if self.member is None:
                return Path(self.path).read_bytes()
            return _open_zip(self.path).read(self.member)
        except (FileNotFoundError, KeyError):
            raise MissingImageError(f"{self.id}: no longer at {self.path}") from None
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise ImageDecodeError(f"{self.id}: cannot be read: {_reason(error)}") from None


def locate(root: str, image_id: str) -> ImageFile:
    """The file of a gallery image, from the hint an index keeps: `root` and `image_id` as `scan` made them.

    Raises:
        MissingImageError: neither a file nor a zip member of that name is there any more.
    """
    base = Path(root)
    # With several roots the id starts with the root's own name.
    names = [image_id]
    if image_id.startswith(base.name + "/"):
        names.append(image_id[len(base.name) + 1 :])
    for name in names:
        if base.is_file():
            if base.suffix.lower() == ZIP_SUFFIX and name in _open_zip(str(base)).NameToInfo:
                return ImageFile(image_id, root, str(base), name)
            if base.name == name:
                return ImageFile(image_id, root, str(base))
        elif (base / name).is_file():
            return ImageFile(image_id, root, str(base / name))
        else:
            parts = PurePosixPath(name).parts
            for cut in range(1, len(parts)):
                archive = base.joinpath(*parts[:cut])
                if archive.suffix.lower() == ZIP_SUFFIX and archive.is_file():
                    member = "/".join(parts[cut:])
                    if member in _open_zip(str(archive)).NameToInfo:
                        return ImageFile(image_id, root, str(archive), member)
    raise MissingImageError(f"the photo of {image_id} is no longer under {root}; give its file instead of its id")


def scan(paths: Sequence[str | Path]) -> list[ImageFile]:
    """All image files under folders (recursive), inside zips, or given one by one; sorted by id.

    Files are chosen by suffix and not opened. Hidden files and folders are left out.

    Raises:
        UsageError: no path given, or two paths whose images would get the same ids.
        DataError: a path that does not exist, or a zip that is broken.
    """
    if not paths:
        raise UsageError("no images given; name a folder, a zip or image files")
    roots = [Path(path).expanduser() for path in paths]
    for given, root in zip(paths, roots, strict=True):
        if not root.exists():
            raise DataError(f"no such file or folder: {given}; check the path")
    loose = all(root.is_file() and root.suffix.lower() in SUFFIXES for root in roots)
    found: dict[str, ImageFile] = {}
    for root in roots:
        prefix = "" if len(roots) == 1 or loose else root.resolve().name + "/"
        for image in _scan_root(root.resolve(), prefix):
            other = found.setdefault(image.id, image)
            if (other.path, other.member) != (image.path, image.member):
                raise UsageError(f"two images would have the id {image.id}: in {other.root} and {image.root}; rename one")
    return [found[key] for key in sorted(found)]


def _scan_root(root: Path, prefix: str) -> Iterator[ImageFile]:
    if root.is_dir():
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            if any(part.startswith(".") for part in relative.parts) or not path.is_file():
                continue
            name = prefix + relative.as_posix()
            if path.suffix.lower() in SUFFIXES:
                yield ImageFile(name, str(root), str(path))
            elif path.suffix.lower() == ZIP_SUFFIX:
                yield from _scan_zip(path, name + "/", root)
    elif root.suffix.lower() == ZIP_SUFFIX:
        yield from _scan_zip(root, prefix, root)
    elif root.suffix.lower() in SUFFIXES:
        yield ImageFile(root.name, str(root.parent), str(root))
    else:
        raise DataError(f"neither an image, a folder nor a zip: {root}; images end in {', '.join(sorted(SUFFIXES))}")


def _scan_zip(path: Path, prefix: str, root: Path) -> Iterator[ImageFile]:
    try:
        names = _open_zip(str(path)).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable zip: {_reason(error)}; repair or remove it") from None
    for name in names:
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES:
            yield ImageFile(prefix + name, str(root), str(path), name)


_zips = threading.local()


def _open_zip(path: str) -> zipfile.ZipFile:
    """An open archive, one per thread: a shared ZipFile serialises its readers. Reopened when the file has changed."""
    stamp = Path(path).stat()
    key = (path, stamp.st_mtime_ns, stamp.st_size)
    if not hasattr(_zips, "open"):
        _zips.open = lru_cache(maxsize=8)(lambda key: zipfile.ZipFile(key[0]))
    archive: zipfile.ZipFile = _zips.open(key)
    return archive


def decode(data: bytes, name: str) -> Image:
    """Decode the bytes of an image file completely, in the image's own mode.

    Raises:
        ImageDecodeError: not an image, truncated, or of more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs below our own limit, and of odd EXIF
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
        raise ImageDecodeError(f"{name}: broken or truncated image: {_reason(error)}") from None


def open_image(path: str | Path) -> Image:
    """Decode an image file. Raises MissingImageError or ImageDecodeError."""
    path = Path(path)
    return decode(ImageFile(path.name, str(path.parent), str(path)).read(), str(path))


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes pixels. Two models with other settings see other pixels, so the digest is in the card.

    The defaults are SPRC's (TargetPad 1.25 with zeros, bicubic, centre crop 224, CLIP statistics; specs: SPRC section 5).

    Attributes:
        size: H = W of the result.
        target_ratio: pictures longer than this are padded to it.
        fill: value of the padding, 0 to 255.
        flatten: first turn the picture upright by its EXIF and lay transparency on white; SPRC does neither.
        mean, std: per channel, of values in [0, 1].
    """

    size: int = 224
    target_ratio: float = 1.25
    fill: int = 0
    flatten: bool = False
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def sha256(self) -> str:
        """Digest of the settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocess:
        """Settings from JSON, where tuples have become lists."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """One picture of any size and mode -> (3, size, size) float32, normalised by mean and std."""
        import numpy as np

        if self.flatten:
            image = _flatten(image)
        square = _crop(_shrink(_pad(image, self.target_ratio, self.fill), self.size), self.size)
        values = np.asarray(square.convert("RGB"), dtype=np.float32) / np.float32(255)
        values = (values - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def preprocess(image: Image) -> NDArray[np.float32]:
    """The official SPRC transform: (3, 224, 224) float32."""
    return Preprocess()(image)


def _flatten(image: Image) -> Image:
    """Turn a photo upright by its EXIF and lay transparency on white, as a shop page would show it."""
    from PIL import Image as Images
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _pad(image: Image, target_ratio: float, fill: int) -> Image:
    from PIL import ImageOps

    width, height = image.size
    if max(width, height) / min(width, height) < target_ratio:
        return image
    side = max(width, height) / target_ratio
    across, down = max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)
    bands = len(image.getbands())
    return ImageOps.expand(image, (across, down, across, down), fill=fill if bands == 1 else (fill,) * bands)


def _shrink(image: Image, size: int) -> Image:
    from PIL import Image

    width, height = image.size
    if width <= height:
        new = (size, int(size * height / width))
    else:
        new = (int(size * width / height), size)
    return image if new == image.size else image.resize(new, Image.Resampling.BICUBIC)


def _crop(image: Image, size: int) -> Image:
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
