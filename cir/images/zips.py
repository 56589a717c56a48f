"""Zips of pictures: which members they have, under canonical names, and the bytes of one of them.

Python's `zipfile` reads the directory. Members are unpacked here, because what a member claims of itself decides
nothing: the number of bytes is limited while they come out, whatever the method.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Protocol

from cir.errors import ImageDecodeError
from cir.images.names import canonical_id
from cir.images.remote import open_archive

CHUNK = 1 << 16
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of name and extra field
_ENCRYPTED = 1
_DIRECTORY = 1 << 18  # bytes; the directory of 2,000 pictures
_AROUND = 1 << 10  # bytes of a member's header with its name


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in a zip.

    Attributes:
        offset: of its local header.
        packed: bytes it takes in the zip.
        method: of compression.
        crc: of the unpacked bytes.
        encrypted: whether it needs a password.
    """

    offset: int
    packed: int
    method: int
    crc: int
    encrypted: bool


@dataclass(frozen=True)
class Directory:
    """The files of a zip.

    Attributes:
        members: canonical name -> where it lies.
        refused: (name, reason) of files without a usable name of their own.
    """

    members: Mapping[str, Member]
    refused: tuple[tuple[str, str], ...]


def directory(path: str) -> Directory:
    """The files of a zip, read again when it has changed.

    Raises:
        OSError, zipfile.BadZipFile, RuntimeError, UnicodeError: it is gone, not a regular file, or broken.
    """
    file, stamp = open_archive(path, _DIRECTORY)
    with file:
        return _remembered(path, stamp)


def read_member(path: str, name: str, limit: int) -> bytes:
    """The unpacked bytes of a member.

    Args:
        path: the zip.
        name: canonical name.
        limit: largest number of bytes, packed or unpacked.

    Raises:
        KeyError: no such member.
        ImageDecodeError: it is too large, encrypted, damaged, or packed in an unknown way; the message is the reason.
        OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError: the zip or the member is broken.
    """
    member = directory(path).members[name]
    # Of a zip in a store, all of the member is one request: its data follow its header and its name.
    file, _ = open_archive(path, min(member.packed, limit) + _AROUND)
    with file:
        if member.encrypted:
            raise ImageDecodeError("encrypted; unpack it")
        file.seek(member.offset)
        signature, *lengths = _LOCAL_HEADER.unpack(_exactly(file, _LOCAL_HEADER.size))
        if signature != b"PK\3\4":
            raise zipfile.BadZipFile("the zip is damaged here")
        file.seek(sum(lengths), io.SEEK_CUR)
        return _unpack(file, member, limit)


@lru_cache(maxsize=8)
def _remembered(path: str, stamp: tuple[object, ...]) -> Directory:
    members: dict[str, Member] = {}
    refused = []
    with open_archive(path, _DIRECTORY)[0] as file, zipfile.ZipFile(file) as archive:
        overlapping = _overlapping(archive.infolist())
        for info in archive.infolist():
            if info.is_dir():
                continue
            try:
                name = canonical_id(info.filename)
            except ValueError as error:
                refused.append((info.filename, f"its name in the zip is {error}"))
                continue
            if info.header_offset in overlapping:
                refused.append((info.filename, "it shares its bytes with another file in the zip"))
                continue
            if name in members:
                refused.append((info.filename, "another file in the zip has the same name"))
                continue
            encrypted = bool(info.flag_bits & _ENCRYPTED)
            members[name] = Member(info.header_offset, info.compress_size, info.compress_type, info.CRC, encrypted)
    return Directory(members, tuple(refused))


def _overlapping(infos: list[zipfile.ZipInfo]) -> set[int]:
    """Offsets of members that reach into the next one: so 10 MB are made to unpack to terabytes, file by file."""
    spans = sorted((info.header_offset, info.header_offset + _LOCAL_HEADER.size + info.compress_size) for info in infos)
    following = [start for start, _ in spans[1:]]
    return {start for (start, end), after in zip(spans, following, strict=False) if end > after}


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Stored:
    """No compression."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return data


def _unpack(file: BinaryIO, member: Member, limit: int) -> bytes:
    """The member's bytes; the file stands at its data."""
    decompressor, left = _decompressor(file, member.method, member.packed)
    crc = 0
    unpacked = io.BytesIO()
    while left > 0:
        chunk = _exactly(file, min(left, CHUNK))
        left -= len(chunk)
        # Only a full output leaves input behind, and that is one byte too many.
        data = decompressor.decompress(chunk, limit + 1 - unpacked.tell())
        crc = zlib.crc32(data, crc)
        unpacked.write(data)
        if unpacked.tell() > limit:
            raise ImageDecodeError(f"larger than {limit / 1e6:,.0f} MB; make it smaller")
        if getattr(decompressor, "eof", False):
            break
    if crc != member.crc:
        raise ImageDecodeError("damaged in the zip: its checksum differs")
    return unpacked.getvalue()


def _decompressor(file: BinaryIO, method: int, packed: int) -> tuple[_Decompressor, int]:
    """What unpacks a method, and how many bytes are still to be read."""
    if method == zipfile.ZIP_STORED:
        return _Stored(), packed
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS), packed
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor(), packed
    if method == zipfile.ZIP_LZMA:
        # Zip puts version and length before the five bytes of properties; an .lzma file has a length after them.
        head = _exactly(file, 9)
        unpack = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=1 << 28)
        unpack.decompress(head[4:] + b"\xff" * 8)
        return unpack, packed - len(head)
    raise ImageDecodeError(f"packed by method {method}, which is not supported; pack it again with deflate")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError("the zip ends in the middle of it")
    return data
