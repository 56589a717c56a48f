"""Every error this package raises on purpose.

    CirError
    ├── UsageError                a request that makes no sense: an empty query, k = 0, two models at once
    ├── DataError                 input that cannot be used
    │   ├── ImageDecodeError      an image file that is broken, too large or not an image
    │   └── MissingImageError     an image that is named but missing (also a FileNotFoundError)
    ├── IndexFormatError          a folder that is not an index
    │   ├── IndexVersionError     an index written by another version
    │   └── CorruptIndexError     an index whose files contradict their digests
    ├── IndexLockedError          another process is writing to the index
    ├── SpaceMismatchError        vectors of two models would have been compared
    ├── StaleEvidenceError        an index that has changed since it was measured
    ├── WeightsError              a model folder or checkpoint that does not fit
    ├── StoreError                an object store that cannot be reached, refuses or is too slow (`cir.objects`)
    │   └── StoreConflictError    an object that somebody else has written meanwhile
    ├── ServerError               a server of `cir serve` that cannot be reached, is busy or refuses (`cir.client`)
    └── MissingDependencyError    an optional library is not installed (also an ImportError)

Each message is one line and says what, where, and what to do. The command line prints it to stderr and exits with 2;
any other exception that reaches the command line is a bug: exit 70, and its traceback in a file (`cir.cli.process`).
"""

from __future__ import annotations


class CirError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one line for a person."""


class UsageError(CirError, ValueError):
    """A request that makes no sense."""


class DataError(CirError, ValueError):
    """Input that cannot be used."""


class ImageDecodeError(DataError):
    """An image file that is broken, too large, or not an image."""


class MissingImageError(DataError, FileNotFoundError):
    """An image that is named but missing."""

    # FileNotFoundError formats its arguments as errno and strerror; this error has a single message.
    __str__ = Exception.__str__


class IndexFormatError(CirError, ValueError):
    """A folder that is not an index."""


class IndexVersionError(IndexFormatError):
    """An index written by another version of this package."""


class CorruptIndexError(IndexFormatError):
    """An index whose files contradict their digests."""


class IndexLockedError(CirError):
    """Another process is writing to the index."""


class SpaceMismatchError(CirError, ValueError):
    """Vectors of two models would have been compared."""


class StaleEvidenceError(CirError):
    """An index that has changed since it was measured."""


class WeightsError(CirError, ValueError):
    """A model folder or checkpoint that does not fit."""


class StoreError(CirError):
    """An object store that cannot be reached, refuses, or is too slow."""


class StoreConflictError(StoreError):
    """An object that somebody else has written meanwhile."""


class ServerError(CirError):
    """A server that cannot be reached, is busy, or refuses its client."""


class MissingDependencyError(CirError, ImportError):
    """An optional library is not installed."""
