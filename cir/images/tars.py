"""Tars of pictures, such as WebDataset's shards: which members they have, under canonical names, and the bytes of one.

Only plain tars: of a compressed one, a member cannot be read without all that is before it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cir.errors import ImageDecodeError
from cir.images.names import canonical_id
from cir.images.remote import open_archive

_HEADERS = 1 << 20  # bytes of one request to a store while the headers are read, which lie between the members
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_MEMBERS = 50_000_000  # what a tar of 25 GB of nothing but headers has


@dataclass(frozen=True)
class Directory:
    """The files of a tar.

    Attributes:
        members: canonical name -> (first byte, number of bytes).
        refused: (name, reason) of files without a usable name of their own.
    """

    members: Mapping[str, tuple[int, int]]
    refused: tuple[tuple[str, str], ...]


def directory(path: str) -> Directory:
    """The files of a tar, read again when it has changed.

    Raises:
        OSError, tarfile.TarError, EOFError, UnicodeError: it is gone, not a regular file, compressed, or broken.
    """
    file, stamp = open_archive(path, _HEADERS)
    with file:
        return _remembered(path, stamp)


def read_member(path: str, name: str, limit: int) -> bytes:
    """The bytes of a member.

    Raises:
        KeyError: no such member.
        ImageDecodeError: it holds more than `limit` bytes; the message is the reason.
        OSError, tarfile.TarError, EOFError: the tar is broken, or ends in the member.
    """
    start, size = directory(path).members[name]
    if size > limit:
        raise ImageDecodeError(f"larger than {limit / 1e6:,.0f} MB; make it smaller")
    file, _ = open_archive(path, size)
    with file:
        file.seek(start)
        data = file.read(size)
        if len(data) < size:
            raise EOFError("the tar ends in the middle of it")
        return data


@lru_cache(maxsize=8)
def _remembered(path: str, stamp: tuple[object, ...]) -> Directory:
    members: dict[str, tuple[int, int]] = {}
    refused = []
    with open_archive(path, _HEADERS)[0] as file:
        if file.read(6).startswith(_COMPRESSED):
            raise tarfile.ReadError("it is compressed; unpack it, and make a plain tar")
    with open_archive(path, _HEADERS)[0] as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for count, info in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all of them otherwise
            if count >= MAX_MEMBERS:
                raise tarfile.ReadError(f"more than {MAX_MEMBERS:,} members")
            if info.isdir():
                continue
            try:
                name = canonical_id(info.name)
            except ValueError as error:
                refused.append((info.name, f"its name in the tar is {error}"))
                continue
            if not info.isreg() or info.issparse():
                refused.append((info.name, "a link, device or sparse file in the tar, which is not followed"))
                continue
            if name in members:
                refused.append((info.name, "another file in the tar has the same name"))
                continue
            members[name] = (info.offset_data, info.size)
        # tarfile takes what is no header for the end.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {archive.offset:,}")
    return Directory(members, tuple(refused))
