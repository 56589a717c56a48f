"""How a server is set up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cir.errors import UsageError

API = "/api/v1"
JSON_BYTES = 2_000_000  # of a request without pictures
BODIES_BYTES = 256_000_000  # of all requests that are being read or answered


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and one client.

    Attributes:
        k: hits of one answer.
        depth: offset + k.
        references, negatives: of one query.
        text: letters of a text or a negative.
        batch: queries of one batch.
        upload_bytes: of one request with pictures.
        upload_pixels: of one uploaded picture.
        body_seconds: within which a request has arrived.
        rate: computing requests per second and client, on average; pictures and the like may be ten times as many.
            0 for no limit.
        in_flight: requests of one client at once.
        kept_uploads: bytes of uploads that are kept for later searches.
    """

    k: int = 1000
    depth: int = 5000
    references: int = 10
    negatives: int = 10
    text: int = 2000
    batch: int = 256
    upload_bytes: int = 32_000_000
    upload_pixels: int = 64_000_000
    body_seconds: float = 30.0
    rate: float = 50.0
    in_flight: int = 64
    kept_uploads: int = 256_000_000


@dataclass(frozen=True)
class Settings:
    """How a server is set up.

    Attributes:
        host, port: where it listens; port 0 for any that is free.
        token: what clients must show; None for none.
        allowed_hosts: further names under which clients may reach it.
        trusted_proxies: addresses of proxies whose word about a client's address is taken.
        limits: what requests may ask for.
        waiting: queries that may wait at once.
        largest_batch: queries that are encoded and searched together.
        window: seconds that a batch waits for more queries while there are several clients.
        patience: seconds after which a query that waits is given up.
        thumbnails: folder of the thumbnails; None for none kept.
        thumbnail_bytes: of that folder.
        log_queries: whether texts and names of pictures are logged.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    trusted_proxies: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    waiting: int = 512
    largest_batch: int = 32
    window: float = 0.003
    patience: float = 30.0
    thumbnails: Path | None = None
    thumbnail_bytes: int = 1_000_000_000
    log_queries: bool = False

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine for itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None, *, anyone: bool) -> None:
    """Refuse to serve other machines without a token. Raises UsageError."""
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            "a token has at least 8 printable ASCII characters without blanks; make one: openssl rand -hex 16"
        )
    if token is None and not anyone and not is_loopback(host):
        raise UsageError(
            f"--host {host}: other machines can reach the server there, so it needs a token: --token-file FILE or "
            "CIR_TOKEN; or --allow-anyone"
        )
