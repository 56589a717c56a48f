"""Pictures: where they lie, how they are read, and how they become pixels.

Decoding never trusts a file: what is broken, truncated or too large raises `ImageDecodeError` with its reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import threading
import zipfile
import zlib
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

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
MAX_PIXELS = 100_000_000  # 300 MB once decoded; a PNG of 100 kB can claim 900 million
ZIP_SUFFIX = ".zip"


# What reading raises: a file that may not be read, a broken zip, a member that is damaged or encrypted.
_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder or zip, not yet read.

    Attributes:
        id: POSIX path relative to the root, down into zips: `folder/name.jpg`, `photos.zip/name.jpg`.
        root: absolute path below which the id is found: the folder or zip given, or its parent when several are given
            and ids start with the name of each; or the image file itself, where ids are no paths. A hint for finding
            the photo again.
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
        except _UNREADABLE as error:
            raise ImageDecodeError(f"{self.id}: cannot be read: {_reason(error)}") from None


def locate(root: str, image_id: str) -> ImageFile:
    """The file of a gallery image, from the hint an index keeps: `root` and `image_id` as `scan` made them.

    Raises:
        MissingImageError: neither a file nor a zip member of that name is there any more.
        ImageDecodeError: a zip on the way is broken, or a folder may not be entered.
    """
    parts = PurePosixPath(image_id).parts
    path = Path(root)
    try:
        for depth in range(len(parts) + 1):
            if path.is_file():
                if depth == 0 and path.suffix.lower() in SUFFIXES:  # the root is the photo
                    return ImageFile(image_id, root, root)
                member = "/".join(parts[depth:])
                if not member:
                    return ImageFile(image_id, root, str(path))
                if path.suffix.lower() == ZIP_SUFFIX and member in _open_zip(str(path)).NameToInfo:
                    return ImageFile(image_id, root, str(path), member)
                break
            path = path / parts[depth] if depth < len(parts) else path
    except _UNREADABLE as error:
        raise ImageDecodeError(f"the photo of {image_id} cannot be read: {path}: {_reason(error)}") from None
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
        whole = len(roots) == 1 and (root.is_dir() or root.suffix.lower() == ZIP_SUFFIX)
        for image in _scan_root(root.absolute(), whole or loose):
            other = found.setdefault(image.id, image)
            if (other.path, other.member) != (image.path, image.member):
                raise UsageError(
                    f"two images would have the id {image.id}: in {other.path} and {image.path}; rename one"
                )
    return [found[key] for key in sorted(found)]


def _scan_root(root: Path, whole: bool) -> Iterator[ImageFile]:
    """Images of one PATH; their ids start with its name unless it is the whole gallery."""
    base, prefix = (root, "") if whole else (root.parent, root.name + "/")
    if root.is_dir():
        yield from _scan_folder(root, str(base), prefix)
    elif root.suffix.lower() == ZIP_SUFFIX:
        try:
            yield from _scan_zip(root, str(base), prefix)
        except _UNREADABLE as error:
            raise DataError(f"{root}: not a readable zip: {_reason(error)}; repair or remove it") from None
    elif root.suffix.lower() in SUFFIXES:
        yield ImageFile(root.name, str(root.parent), str(root))
    else:
        raise DataError(f"neither an image, a folder nor a zip: {root}; images end in {', '.join(sorted(SUFFIXES))}")


def _scan_folder(folder: Path, base: str, prefix: str) -> Iterator[ImageFile]:
    """Everything below a folder. What cannot be listed or opened is yielded too: reading it says why."""
    closed: list[str] = []
    entered = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=lambda e: closed.append(str(e.filename))):
        real = os.path.realpath(place)
        if real in entered:  # a link that leads back up
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            image_id = prefix + path.relative_to(folder).as_posix()
            if name.startswith("."):
                continue
            if path.suffix.lower() in SUFFIXES:
                yield ImageFile(image_id, base, str(path))
            elif path.suffix.lower() == ZIP_SUFFIX:
                try:
                    yield from _scan_zip(path, base, image_id + "/")
                except _UNREADABLE:
                    yield ImageFile(image_id, base, str(path), "")
    for path in map(Path, closed):
        yield ImageFile(prefix + path.relative_to(folder).as_posix(), base, str(path))


def _scan_zip(path: Path, base: str, prefix: str) -> Iterator[ImageFile]:
    for name in _open_zip(str(path)).namelist():
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES:
            yield ImageFile(prefix + name, base, str(path), name)


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

    The defaults are SPRC's (TargetPad 1.25 with zeros, bicubic, centre crop 224, CLIP statistics).

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
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """One picture of any size and mode -> (3, size, size) float32, normalised by mean and std."""
        import numpy as np

        if self.flatten:
            image = _flatten(image)
            # Padding a long strip to a square before it is shrunk could take gigabytes.
            image = image.reduce(max(1, max(image.size) // (8 * self.size)))
        square = _crop(_shrink(_pad(image, self.target_ratio, self.fill), self.size), self.size)
        values: NDArray[np.float32] = np.asarray(square.convert("RGB"), dtype=np.float32) / np.float32(255)
        mean: NDArray[np.float32] = np.array(self.mean, dtype=np.float32)
        std: NDArray[np.float32] = np.array(self.std, dtype=np.float32)
        values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def preprocess(image: Image) -> NDArray[np.float32]:
    """The official SPRC transform: (3, 224, 224) float32."""
    return Preprocess()(image)


def upright(image: Image) -> Image:
    """The picture turned as its EXIF says; as it is where the EXIF is broken."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an image decoder: broken EXIF raises nearly anything
        return image


def _eight_bits(image: Image) -> Image:
    """Pictures of 16 or 32 bits a pixel scaled down; Pillow's own conversion would clip them to white."""
    import numpy as np
    from PIL import Image as Images

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float32)
    top = float(values.max(initial=0))
    full = 65535 if top > 255 else 255 if top > 1 or image.mode != "F" else 1
    return Images.fromarray((np.clip(values / full, 0, 1) * 255).round().astype(np.uint8))


def _flatten(image: Image) -> Image:
    """Turn a photo upright by its EXIF and lay transparency on white, as a shop page would show it."""
    from PIL import Image as Images

    image = _eight_bits(upright(image))
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
    if side * side > MAX_PIXELS:
        raise ImageDecodeError(f"a picture of {width} x {height} is too long and thin; cut it")
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
