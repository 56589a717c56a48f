"""Pictures and zips in an object store, by the URLs that take the place of paths there: `s3://bucket/photos/a.jpg`."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO

from cir.files import open_regular
from cir.objects import ObjectInfo, Store, open_store
from cir.places import is_url, url_of


def read_object(url: str, limit: int) -> bytes:
    """The bytes of an object.

    Raises:
        FileNotFoundError: there is none.
        DataError: it has more than `limit` bytes.
        StoreError: the store cannot be reached, or refuses.
    """
    store, key = _opened(url)
    found = store.get(key, limit)
    if found is None and not key.isascii() and (other := spelled(url)):
        found = store.get(_opened(other)[1], limit)
    if found is None:
        raise FileNotFoundError(url)
    return found[0]


def open_object(url: str, buffer: int) -> tuple[BinaryIO, tuple[str, int]]:
    """An object as a file that is read by ranges of `buffer` bytes, and what changes with its content.

    Raises as `read_object`.
    """
    store, key = _opened(url)
    info = store.info(key)
    if info is None:
        raise FileNotFoundError(url)
    return store.reader(info, buffer), (info.version, info.bytes)


def open_archive(path: str, buffer: int) -> tuple[BinaryIO, tuple[object, ...]]:
    """A file of pictures, and what changes with its content; one in a store is read by ranges of `buffer` bytes.

    Raises:
        OSError: it is gone, or not a regular file.
        StoreError: the store cannot be reached, or refuses.
    """
    if is_url(path):
        return open_object(path, buffer)
    file = open_regular(path)
    state = os.fstat(file.fileno())
    return file, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


def is_object(url: str) -> bool:
    """Whether there is an object of exactly this URL. Raises StoreError."""
    store, key = _opened(url)
    return bool(key) and store.info(key) is not None


def objects_below(url: str) -> Iterator[ObjectInfo]:
    """All objects below a place, with keys from there on. Raises StoreError."""
    return open_store(url).listed()


def exists(root: str) -> bool:
    """Whether there is anything at a root: a file or folder, an object, or objects below it. Raises StoreError."""
    if not is_url(root):
        return os.path.exists(root)
    return is_object(root) or next(iter(objects_below(root)), None) is not None


def spelled(url: str) -> str | None:
    """The URL of an object, whose key may be in another Unicode form than the composed one of ids; None for nothing.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    if is_object(url):
        return url
    parts = url.split("/")
    plain = next((place for place, part in enumerate(parts) if not part.isascii()), len(parts))
    head, tail = "/".join(parts[:plain]), "/".join(parts[plain:])
    for info in objects_below(head) if tail else ():
        if unicodedata.normalize("NFC", info.key) == tail:
            return f"{head}/{info.key}"
    return None


def _opened(url: str) -> tuple[Store, str]:
    """The bucket, and the key in it."""
    bucket, _, key = url_of(url).removeprefix("s3://").partition("/")
    return open_store(f"s3://{bucket}"), key
