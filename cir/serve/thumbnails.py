"""Thumbnails on disk: made once, in a folder beside the index that never grows beyond its bound.

A thumbnail is named by the SHA-256 of its photo, so the folder fits every generation. What lies there is believed only
as far as it is a small regular file that begins as a JPEG: the folder may have come with somebody else's index.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from collections import OrderedDict
from pathlib import Path

from cir.errors import DataError
from cir.files import is_temporary, remove_tree, write_atomically

log = logging.getLogger(__name__)

SIDES = (160, 320, 640, 1280)
SIDE = 320
_NAME = re.compile(r"[0-9a-f]{64}-[0-9]{3,4}\.jpg")
_JPEG = b"\xff\xd8\xff"
_LARGEST = 4_000_000  # bytes of one
_LOW = 0.9  # share of the bound that is left when the oldest have gone


class Thumbnails:
    """A folder of thumbnails. May be used by several threads.

    Args:
        folder: where they are kept; None for nowhere.
        room: bytes that they may take.
    """

    def __init__(self, folder: Path | None, room: int) -> None:
        self._folder, self._room = folder, room
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] | None = None  # by name, what was not used for longest first
        self._bytes = 0

    def get(self, sha256: str, side: int) -> bytes | None:
        """A thumbnail that is there."""
        name = f"{sha256}-{side}.jpg"
        with self._lock:
            if self._folder is None or name not in self._listed():
                return None
            self._listed().move_to_end(name)
            folder = self._folder
        return _read(folder / name)

    def put(self, sha256: str, side: int, data: bytes) -> None:
        """Keep a thumbnail. Where the folder cannot be written to, none is kept any more, and a warning says so."""
        name = f"{sha256}-{side}.jpg"
        with self._lock:
            if self._folder is None:
                return
            try:
                sizes = self._listed()
                with write_atomically(self._folder / name, durable=False) as temporary:
                    temporary.write_bytes(data)
            except DataError as error:
                log.warning("no thumbnails are kept: %s", error)
                self._folder = None
                return
            self._bytes += len(data) - sizes.pop(name, 0)
            sizes[name] = len(data)
            if self._bytes > self._room:
                self._make_room(self._folder, sizes)

    def _make_room(self, folder: Path, sizes: OrderedDict[str, int]) -> None:
        while sizes and self._bytes > _LOW * self._room:
            name, size = sizes.popitem(last=False)
            remove_tree(folder / name)
            self._bytes -= size

    def _listed(self) -> OrderedDict[str, int]:
        """The thumbnails that are there, listed on first use. What a killed server left half-written goes."""
        if self._sizes is None:
            self._sizes, found = OrderedDict(), []
            assert self._folder is not None
            if self._folder.is_symlink():
                raise DataError(f"{self._folder} is a link; remove it, or give another folder")
            for entry in os.scandir(self._folder) if self._folder.is_dir() else ():
                if is_temporary(entry.name):
                    remove_tree(Path(entry.path))
                elif _NAME.fullmatch(entry.name):
                    found.append((entry.stat(follow_symlinks=False), entry.name))
            for status, name in sorted(found, key=lambda each: each[0].st_mtime):
                self._sizes[name] = status.st_size
            self._bytes = sum(self._sizes.values())
        return self._sizes


def _read(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    with open(handle, "rb") as file:
        data = file.read(_LARGEST + 1)
    return data if data.startswith(_JPEG) and len(data) <= _LARGEST else None
