"""Places in an object store, `s3://bucket/prefix`, where commands and functions expect a path; and what the variables
say about the server, checked before a library sees them."""

from __future__ import annotations

import os
import re
from pathlib import PosixPath
from urllib.parse import urlsplit

from cir.errors import UsageError

TIMEOUT = "CIR_STORE_TIMEOUT"
_SERVER = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
_HERE = ("localhost", "127.0.0.1", "::1")
_SCHEMES = ("s3", "gs", "gcs", "az", "azure", "abfs", "abfss", "http", "https")
_URL = re.compile(rf"({'|'.join(_SCHEMES)}):/+(.*)", re.DOTALL | re.IGNORECASE)


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
    if found is None or found[1].lower() != "s3":
        raise UsageError(f"{os.fspath(place)}: of object stores only s3://BUCKET/PREFIX can be used")
    parts = [part for part in found[2].split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise UsageError(f"{os.fspath(place)}: write the bucket and the name in it, as s3://BUCKET/PREFIX")
    return "s3://" + "/".join(parts)


def endpoint() -> str:
    """Address of the server; "" for Amazon's own.

    Raises:
        UsageError: it is no address, or plain http would go to another machine; or a region that is none.
    """
    for name in _REGION:
        if name in os.environ and not re.fullmatch(r"[\w-]+", os.environ[name]):
            raise UsageError(f"{name} is {os.environ[name]!r}; write a region, such as eu-central-1, or unset it")
    name = next((name for name in _SERVER if name in os.environ), "")
    server = os.environ.get(name, "")
    if name and not re.fullmatch(r"https?://[\w.\[\]:-]+(/[\w./-]*)?", server, re.ASCII):
        raise UsageError(f"{name} is {server!r}; write an address, such as https://HOST:PORT, or unset it")
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    if server.startswith("http://") and not allowed and urlsplit(server).hostname not in _HERE:
        raise UsageError(
            f"{name} is {server}, to which everything would be sent unencrypted; use https, or set AWS_ALLOW_HTTP=true"
        )
    return server


def timeout() -> float:
    """Seconds that a request may take. Raises UsageError if the variable is none."""
    text = os.environ.get(TIMEOUT, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise UsageError(f"{TIMEOUT} is {text!r}; give seconds, 0.1 to 3600")
    return seconds
