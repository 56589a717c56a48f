"""The token that clients show where others can reach the server: in a header, or as a cookie that stands for it."""

from __future__ import annotations

import hashlib
import hmac
import json
from http.cookies import CookieError, SimpleCookie

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cir.serve.guard.common import header, refuse
from cir.serve.problems import Refused
from cir.serve.settings import API

COOKIE = "cir_session"
SESSION = f"{API}/session"
_OPEN = frozenset({"/", f"{API}/health", f"{API}/ready"})  # and the files of the page, which hold nothing of the index
_LONGEST = 10_000  # bytes of a request for a cookie


class Tokens:
    """Refuses requests without the token; `POST /api/v1/session` gives a cookie for it, as pictures send no header."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()
        self._cookie = hmac.digest(self._token, b"cir session", "sha256").hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"]
        try:
            if path == SESSION and scope["method"] == "POST":
                response = await self._session(scope, receive)
                await response(scope, receive, send)
                return
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
        return cookie is not None and _equal(cookie.value.encode("latin-1", "replace"), self._cookie.encode())

    async def _session(self, scope: Scope, receive: Receive) -> Response:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(400, "Form", "the request ended early")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _LONGEST:
                raise Refused(413, "TooLarge", "a token is shorter")
        try:
            values = json.loads(bytes(body))
            token = values["token"].encode("latin-1", "replace")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Refused(400, "Form", 'send {"token": "..."}') from None
        if not _equal(token, self._token):
            raise _refused()
        secure = "; Secure" if scope["scheme"] == "https" else ""
        value = f"{COOKIE}={self._cookie}; HttpOnly; SameSite=Strict; Path=/{secure}"
        return Response(None, 204, {"Set-Cookie": value})


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
