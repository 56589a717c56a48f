"""Who a browser thinks that it is talking to, and on whose behalf: DNS rebinding and requests from other sites.

Another site's script can make a browser send requests here, and after rebinding its own name even read the answers. But
the browser then names that site, in `Host` or in `Origin` and `Sec-Fetch-Site`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from cir.given import printable
from cir.serve.guard.common import header, refuse
from cir.serve.problems import Refused
from cir.serve.settings import API, Settings

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = 32_000  # bytes
_PORTS = {"http": "80", "https": "443"}


class Origins:
    """Refuses requests for another host, and from another site."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        bound = settings.host.strip("[]").lower()
        self._hosts = {host.strip("[]").lower() for host in settings.allowed_hosts} | {bound}
        self._any_address = False
        if settings.loopback:
            self._hosts |= _LOOPBACK
        elif _is_address(bound) and ipaddress.ip_address(bound).is_unspecified:
            # Nobody can rebind an address: that takes a name.
            self._any_address = True
            self._hosts |= {*_LOOPBACK, socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            self._check(scope)
        except Refused as refused:
            await refuse(refused, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADERS:
            raise Refused(431, "Header", f"headers of more than {_HEADERS // 1000} kB; send fewer cookies")
        given = header(scope, b"host") or ""
        found = _HOST.fullmatch(given)
        host = found[1].strip("[]").lower().rstrip(".") if found else ""
        if not found or not (host in self._hosts or (self._any_address and _is_address(host))):
            raise Refused(
                421, "Host", f"this server does not go by the name {printable(given)[:100]}; see --allowed-host"
            )
        site = header(scope, b"sec-fetch-site")
        if site in ("cross-site", "same-site") and scope["path"].startswith(f"{API}/"):
            raise Refused(403, "Origin", "a request from another site; open the page of this server itself")
        origin = header(scope, b"origin")
        if origin is None or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return
        if not _same(origin, found, scope["scheme"]):
            raise Refused(403, "Origin", "a request from another site; open the page of this server itself")


def _same(origin: str, host: re.Match[str], scheme: str) -> bool:
    """Whether an origin is that of the request's own host. A proxy may speak https for us."""
    try:
        parts = urlsplit(origin)
        port = str(parts.port or _PORTS[parts.scheme])
    except (ValueError, KeyError):  # "null" too
        return False
    ports = {host[2]} if host[2] else {_PORTS.get(scheme, ""), _PORTS[parts.scheme]}
    return (parts.hostname or "") == host[1].strip("[]").lower() and port in ports


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
