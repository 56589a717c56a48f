"""Image files: what a scan finds, how one is read, and how it is found again by its id."""

from __future__ import annotations

import errno
import lzma
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cir.errors import ImageDecodeError, MissingDependencyError, MissingImageError
from cir.files import read_regular
from cir.images import archives
from cir.images.archives import ZIP_SUFFIX as ZIP_SUFFIX
from cir.images.crops import Box, split_box, square_crop
from cir.images.decode import reason_of
from cir.images.names import canonical_id, shown
from cir.images.remote import read_object, spelled
from cir.places import is_url, url_of

HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})  # need pillow-heif
SUFFIXES = HEIC_SUFFIXES | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib", ".ico"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
}
MAX_BYTES = 256_000_000  # of one picture's file

# What reading raises: a file that may not be read, a broken archive, a damaged member, a name that is not UTF-8.
UNREADABLE = (
    *(OSError, EOFError, MemoryError, OverflowError, RuntimeError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
)


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder or archive (zip, tar, parquet file), not yet read.

    Of a picture in an object store, `root` and `path` are URLs.

    Attributes:
        id: POSIX path relative to the root, down into archives, in canonical form (`canonical_id`): `folder/name.jpg`,
            `photos.zip/name.jpg`.
        root: real path that the id is relative to: the folder or archive given, or its parent if several are given
            and ids start with the name of each; or the image file itself, if ids are not paths. A hint for locating
            the photo later.
        path: the file that holds the bytes.
        member: canonical name inside `path` when that is an archive.
        box: the part of the picture that is meant; None for all of it. The root then is the file, with the box
            (`crops.with_box`).
    """

    id: str
    root: str
    path: str
    member: str | None = None
    box: Box | None = None

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """The bytes of the file, of a part of it as PNG; only a regular file of at most `limit` bytes is read.

        Raises:
            MissingImageError: it is gone.
            ImageDecodeError: it cannot be read, is too large, or has no such part.
            MissingDependencyError: it is in a parquet file, and pyarrow is not installed.
            StoreError: the object store that it is in cannot be reached, or refuses: that says nothing of the picture.
        """
        data = self._read(limit)
        return data if self.box is None else square_crop(data, self.id, self.box)

    def _read(self, limit: int) -> bytes:
        try:
            if self.member is None:
                return read_object(self.path, limit) if is_url(self.path) else read_regular(self.path, limit)
            return archives.read_member(self.path, self.member, limit)
        except (FileNotFoundError, KeyError) as error:
            place = getattr(error, "filename", None) or self.path  # a parquet file may name another file
            raise MissingImageError(f"{shown(self.id)}: no longer at {shown(str(place))}") from None
        except UNREADABLE as error:
            raise ImageDecodeError(f"{shown(self.id)}: cannot be read: {_reason(error)}") from None


def locate(root: str, image_id: str) -> ImageFile:
    """The file of a gallery image, from the hint in an index: `root` and `image_id` as `scan` returned them.

    An id never leads out of its root: one that is not in canonical form names nothing. Files whose name is stored in
    another Unicode form than that of ids are found.

    Raises:
        MissingImageError: there is no file or member of that name any more.
        ImageDecodeError: an archive on the way is broken, or a folder may not be entered.

    Whether there is one in an object store is not asked; reading it tells, and `is_there`.
    """
    if is_canonical(image_id) and is_url(root):
        return _locate_object(root, image_id)
    if is_canonical(image_id):
        crop = None if os.path.lexists(root) else split_box(root)
        if crop and _is_picture(crop[0]):
            return ImageFile(image_id, root, crop[0], box=crop[1])
        if _is_picture(root):
            return ImageFile(image_id, root, root)
        waiting = [(root, image_id.split("/"))]
        while waiting:
            path, parts = waiting.pop()
            try:
                mode = _mode(path)
                if mode is None:
                    continue
                if stat.S_ISDIR(mode):
                    children = _children(path, parts[0]) if parts else ()
                    waiting += [(child, parts[1:]) for child in reversed(list(children))]
                elif not parts:
                    return ImageFile(image_id, root, path)
                elif archives.is_member(path, "/".join(parts)):
                    return ImageFile(image_id, root, path, "/".join(parts))
            except (*UNREADABLE, MissingDependencyError) as error:
                where = f"the photo of {shown(image_id)} cannot be read: {shown(path)}"
                raise ImageDecodeError(f"{where}: {_reason(error)}") from None
    raise MissingImageError(
        f"the photo of {shown(image_id)} is no longer under {shown(root)}; put it back, or query with a file of it"
    )


def _locate_object(root: str, image_id: str) -> ImageFile:
    """`locate` in an object store, which is not asked: a search names ten hits, and must not wait for ten answers."""
    parts = image_id.split("/")
    for number in range(len(parts)):
        path = "/".join([root, *parts[:number]])
        if archives.suffix_of(path):
            return ImageFile(image_id, root, path, "/".join(parts[number:]))
    return ImageFile(image_id, root, root if has_suffix(root, SUFFIXES) else f"{root}/{image_id}")


def is_there(image: ImageFile) -> bool:
    """Whether an image that `locate` has named is there: only a store has not been asked yet. Raises as `read`."""
    if not is_url(image.path):
        return True
    try:
        if image.member is not None:
            return archives.is_member(image.path, image.member)
        return spelled(image.path) is not None
    except FileNotFoundError:
        return False
    except UNREADABLE as error:
        raise ImageDecodeError(f"{shown(image.id)}: cannot be read: {_reason(error)}") from None


def file_at(path: str | Path) -> ImageFile:
    """The image file at a path, which may lead into an archive: `folder/photos.zip/a.jpg`. Its id is the path as given.

    Raises:
        MissingImageError: there is no such file or member.
        ImageDecodeError: the archive is broken, or a folder may not be entered.
        StoreError: the object store that it is in cannot be reached, or refuses.
    """
    name = os.fspath(path)
    if is_url(name):
        url = url_of(name)
        inside = re.search(r"\.(zip|tar|parquet)/", url, re.IGNORECASE)
        cut = inside.end() - 1 if inside else url.rindex("/")
        found = replace(locate(url[:cut], canonical_id(url[cut + 1 :])), id=name)
        if is_there(found):
            return found
        raise MissingImageError(f"{shown(name)}: no such image file; check the path")
    head = os.path.expanduser(name)
    parts: list[str] = []
    try:
        while head:
            mode = _mode(head)
            if mode is not None and not stat.S_ISDIR(mode):
                folder, last = os.path.split(head)
                root = os.path.realpath(folder)
                file = os.path.join(root, last)
                if not parts:
                    return ImageFile(name, root, file)
                member = canonical_id("/".join(reversed(parts)))
                if archives.is_member(head, member):
                    return ImageFile(name, file, file, member)
                break
            shorter, part = os.path.split(head)
            if mode is not None or shorter == head:
                break
            parts += [part] if part else []
            head = shorter
    except ValueError:  # a NUL character, or ".." inside a zip
        pass
    except (*UNREADABLE, MissingDependencyError) as error:
        raise ImageDecodeError(f"{shown(name)}: cannot be read: {_reason(error)}") from None
    raise MissingImageError(f"{shown(name)}: no such image file; check the path")


def is_canonical(image_id: str) -> bool:
    """Whether an id is in the one form that scans give."""
    try:
        return canonical_id(image_id) == image_id
    except ValueError:
        return False


def has_suffix(name: str, suffixes: frozenset[str] | set[str]) -> bool:
    """Whether a name ends in one of some suffixes, in any letter case."""
    return PurePosixPath(name).suffix.lower() in suffixes


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not enough memory" if isinstance(error, MemoryError) else reason_of(error)


def _is_picture(path: str) -> bool:
    """Whether a root is an image file itself; where that cannot be known, what is looked for below it says why."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and has_suffix(path, SUFFIXES)
    except (OSError, ValueError):
        return False


def _mode(path: str) -> int | None:
    """What kind of file there is; None if there is none. Raises OSError where that cannot be known."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise


def _children(folder: str, name: str) -> Iterator[str]:
    """Where a name may be in a folder: under itself, then under its other Unicode forms."""
    yield os.path.join(folder, name)
    if not name.isascii():
        for other in sorted(os.listdir(folder)):
            if other != name and unicodedata.normalize("NFC", other) == name:
                yield os.path.join(folder, other)
