"""Where images are: folders, zips and single files, listed without opening them."""

from __future__ import annotations

import lzma
import os
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from cir import given
from cir.errors import DataError, ImageDecodeError, MissingImageError, UsageError
from cir.images.decode import reason_of

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
ZIP_SUFFIX = ".zip"

# What reading raises: a file that may not be read, a broken zip, a member that is damaged, encrypted or compressed in
# an unknown way (NotImplementedError is a RuntimeError), a name that is not UTF-8.
UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, UnicodeError)


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder or zip, not yet read.

    Attributes:
        id: POSIX path relative to the root, down into zips: `folder/name.jpg`, `photos.zip/name.jpg`.
        root: absolute path that the id is relative to: the folder or zip given, or its parent if several are given
            and ids start with the name of each; or the image file itself, if ids are not paths. A hint for locating
            the photo later.
        path: the file that holds the bytes.
        member: the name inside `path` when that is a zip.
    """

    id: str
    root: str
    path: str
    member: str | None = None

    def read(self) -> bytes:
        """The bytes of the file. Raises MissingImageError if it is gone, ImageDecodeError if it cannot be read."""
        try:
            _refuse_pipes(Path(self.path))
            if self.member is None:
                return Path(self.path).read_bytes()
            return _open_zip(self.path).read(self.member)
        except (FileNotFoundError, KeyError):
            raise MissingImageError(f"{self.id}: no longer at {self.path}") from None
        except UNREADABLE as error:
            raise ImageDecodeError(f"{self.id}: cannot be read: {reason_of(error)}") from None


def locate(root: str, image_id: str) -> ImageFile:
    """The file of a gallery image, from the hint in an index: `root` and `image_id` as `scan` returned them.

    Raises:
        MissingImageError: there is no file or zip member of that name any more.
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
    except UNREADABLE as error:
        raise ImageDecodeError(f"the photo of {image_id} cannot be read: {path}: {reason_of(error)}") from None
    raise MissingImageError(f"the photo of {image_id} is no longer under {root}; give its file instead of its id")


def scan(paths: str | Path | Iterable[str | Path]) -> list[ImageFile]:
    """All image files under folders (recursive), inside zips, or given one by one; sorted by id.

    Files are chosen by suffix and not opened. Hidden files and folders are left out.

    Raises:
        UsageError: no path given, or two paths whose images would get the same ids.
        DataError: a path that does not exist, or a zip that is broken.
    """
    roots = given.paths(paths, "paths")
    if not roots:
        raise UsageError("no images given; name a folder, a zip or image files")
    for root in roots:
        if not root.exists():
            raise DataError(f"no such file or folder: {root}; check the path")
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
        except UNREADABLE as error:
            raise DataError(f"{root}: not a readable zip: {reason_of(error)}; repair or remove it") from None
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
                except UNREADABLE:
                    yield ImageFile(image_id, base, str(path), "")
    for path in map(Path, closed):
        yield ImageFile(prefix + path.relative_to(folder).as_posix(), base, str(path))


def _scan_zip(path: Path, base: str, prefix: str) -> Iterator[ImageFile]:
    for name in _open_zip(str(path)).namelist():
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES:
            yield ImageFile(prefix + name, base, str(path), name)


def _refuse_pipes(path: Path) -> None:
    """Raises OSError for pipes, sockets and devices: to read one could wait for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("not a regular file")


_zips = threading.local()


def _open_zip(path: str) -> zipfile.ZipFile:
    """An open archive, one per thread: a shared ZipFile serialises its readers. Reopened when the file has changed."""
    _refuse_pipes(Path(path))
    stamp = Path(path).stat()
    key = (path, stamp.st_mtime_ns, stamp.st_size, os.getpid())  # a forked process would move its parent's place
    if not hasattr(_zips, "open"):
        _zips.open = lru_cache(maxsize=8)(lambda key: zipfile.ZipFile(key[0]))
    archive: zipfile.ZipFile = _zips.open(key)
    return archive
