"""The token that clients show where others can reach the server: in a header, or as a cookie that stands for it."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cir.files import parse_json
from cir.serve.guard.common import header, refuse
from cir.serve.problems import Refused
from cir.serve.settings import API

COOKIE = "cir_session"
SESSION = f"{API}/session"
# And the files of the page, which hold nothing of the index.
_OPEN = frozenset({"/", SESSION, f"{API}/health", f"{API}/ready"})


class Tokens:
    """Refuses requests without the token, or the cookie that stands for it."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token, self._cookie = token.encode(), _cookie_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"]
        try:
            if path not in _OPEN and not path.startswith("/page/") and not self._has_token(scope):
                raise _refused()
        except Refused as refused:
            await refuse(refused, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        scheme, _, given = (header(scope, b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            return _equal(given.strip().encode("latin-1", "replace"), self._token)
        try:
            cookies = SimpleCookie(header(scope, b"cookie") or "")
        except CookieError:
            return False
        cookie = cookies.get(COOKIE)
        return cookie is not None and _equal(cookie.value.encode("latin-1", "replace"), self._cookie)


class Sessions:
    """`POST /api/v1/session` {"token": "..."} gives a cookie for the token: pictures of a page send no header."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token, self._cookie = token.encode(), _cookie_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; its body is there at once."""
        if scope["path"] != SESSION or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            values = parse_json((await receive()).get("body", b""))
            token = values["token"].encode("latin-1", "replace")
        except (ValueError, KeyError, TypeError, AttributeError):
            await refuse(Refused(400, "Form", 'send {"token": "..."}'), scope, receive, send)
            return
        if not _equal(token, self._token):
            await refuse(_refused(), scope, receive, send)
            return
        secure = "; Secure" if scope["scheme"] == "https" else ""
        value = f"{COOKIE}={self._cookie.decode()}; HttpOnly; SameSite=Strict; Path=/{secure}"
        await Response(None, 204, {"Set-Cookie": value})(scope, receive, send)


def _cookie_of(token: str) -> bytes:
    """What stands for a token in a cookie; it tells nothing of it."""
    return hmac.digest(token.encode(), b"cir session", "sha256").hex().encode()


def _refused() -> Refused:
    return Refused(
        401,
        "Token",
        "the server needs its token; send it as Authorization: Bearer TOKEN",
        {"WWW-Authenticate": "Bearer"},
    )


def _equal(given: bytes, wanted: bytes) -> bool:
    """Whether two secrets are equal, in a time that tells nothing, of their lengths either."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())
