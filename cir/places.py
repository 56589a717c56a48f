"""Places in an object store, `s3://bucket/prefix`, where commands and functions expect a path."""

from __future__ import annotations

import os
import re
from pathlib import PosixPath

from cir.errors import UsageError

_SCHEMES = ("s3", "gs", "gcs", "az", "azure", "abfs", "abfss", "http", "https")
_URL = re.compile(rf"({'|'.join(_SCHEMES)}):/+(.*)", re.DOTALL)


class UrlPath(PosixPath):
    """A place in a store where commands expect a path: a path by type, which is written and read as its URL."""

    def __str__(self) -> str:
        plain = super().__str__()
        return url_of(plain) if is_url(plain) else plain  # what becomes of one that is made absolute is none

    __fspath__ = __str__


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is in an object store. `Path("s3://b/p")` is one too, although it has lost a slash."""
    return _URL.fullmatch(os.fspath(place)) is not None


def url_of(place: str | os.PathLike[str]) -> str:
    """The one spelling of a place in a store: `s3://bucket/prefix`, without a slash at its end.

    Raises:
        UsageError: not the URL of a place in S3, or without a bucket.
    """
    found = _URL.fullmatch(os.fspath(place))
    if found is None or found[1] != "s3":
        raise UsageError(f"{os.fspath(place)}: of object stores only s3://BUCKET/PREFIX can be used")
    parts = [part for part in found[2].split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise UsageError(f"{os.fspath(place)}: write the bucket and the name in it, as s3://BUCKET/PREFIX")
    return "s3://" + "/".join(parts)
