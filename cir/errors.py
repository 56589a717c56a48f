"""Every error this package raises on purpose.

    CirError
    ├── UsageError                what was asked for makes no sense: an empty query, k = 0, two models at once
    ├── DataError                 something the user gave us cannot be used
    │   ├── ImageDecodeError      an image file that is broken, too large or not an image
    │   └── MissingImageError     an image that is named but not there (also a FileNotFoundError)
    ├── IndexFormatError          a directory that is not an index of ours
    │   ├── IndexVersionError     an index written by a newer version
    │   └── CorruptIndexError     an index whose files contradict their digests
    ├── IndexLockedError          another process is writing to the index
    ├── SpaceMismatchError        vectors of two models would have been compared
    ├── StaleEvidenceError        what was measured is no longer what there is
    ├── WeightsError              a model directory or checkpoint that does not fit
    └── MissingDependencyError    an optional library is not installed (also an ImportError)

Each message is one line and says what, where, and what to do. The command line prints it to stderr and exits with 2;
any other exception that reaches the command line is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class CirError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one line for a person."""


class UsageError(CirError, ValueError):
    """What was asked for makes no sense."""


class DataError(CirError, ValueError):
    """Something the user gave us cannot be used."""


class ImageDecodeError(DataError):
    """An image file that is broken, too large, or not an image."""


class MissingImageError(DataError, FileNotFoundError):
    """An image that is named but is not there."""

    # FileNotFoundError formats its arguments as errno and strerror; ours is one message.
    __str__ = Exception.__str__


class IndexFormatError(CirError, ValueError):
    """A directory that is not an index of ours."""


class IndexVersionError(IndexFormatError):
    """An index written by a newer version of this package."""


class CorruptIndexError(IndexFormatError):
    """An index whose files contradict their digests."""


class IndexLockedError(CirError):
    """Another process is writing to the index."""


class SpaceMismatchError(CirError, ValueError):
    """Vectors of two models would have been compared."""


class StaleEvidenceError(CirError):
    """What was measured of an index is no longer what there is."""


class WeightsError(CirError, ValueError):
    """A model directory or checkpoint that does not fit."""


class MissingDependencyError(CirError, ImportError):
    """An optional library is not installed."""
