"""A file for HDF5 to write into that never refuses.

HDF5 does not survive a disk that fills up under it: it crashes the process, or leaves objects that crash it later. So
it writes through this object, which notes the first error and swallows what comes after; the caller raises it once HDF5
has closed the file.
"""

from __future__ import annotations

import os
from pathlib import Path


class SteadyFile:
    """What h5py's `fileobj` driver needs of a file, over a path opened for writing.

    Attributes:
        error: the first error; None if everything was written.
    """

    def __init__(self, path: Path, need: int) -> None:
        """Open a new file, with room for `need` bytes reserved; HDF5 finds it empty. Raises OSError."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._handle, 0, need)
            except OSError:
                os.close(self._handle)
                raise
        self._place = 0
        self._size = 0
        self.error: OSError | None = None

    def close(self) -> None:
        """Give the file its size and close it; raises the first error."""
        try:
            if self.error is None:
                os.ftruncate(self._handle, self._size)
        finally:
            os.close(self._handle)
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, from the start, from here, or from the end."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place}.get(whence)
        self._place = offset + (self._size if start is None else start)
        return self._place

    def tell(self) -> int:
        """The present place."""
        return self._place

    def read(self, size: int) -> bytes:
        """Bytes from the present place on."""
        data = os.pread(self._handle, max(0, min(size, self._size - self._place)), self._place)
        self._place += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer from the present place on."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: memoryview) -> int:
        """Write at the present place, unless a write has failed before."""
        view, place = memoryview(data), self._place
        self._place += len(view)
        self._size = max(self._size, self._place)
        try:
            while view and self.error is None:  # a nearly full disk takes a part first
                written = os.pwrite(self._handle, view, place)
                view, place = view[written:], place + written
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the size that the file will have."""
        self._size = self._place if size is None else size
        return self._size

    def flush(self) -> None:
        """Nothing is buffered."""
