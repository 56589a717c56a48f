"""Bodies of requests: read whole before any work, within bytes and seconds; and clients that go away meanwhile.

A route gets the body at once. When its client goes away, the route is cancelled, and with it a query that still waits.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cir.serve.guard.common import header, refuse
from cir.serve.problems import Refused, busy
from cir.serve.settings import BODIES_BYTES, JSON_BYTES, Limits


class Gone(Exception):
    """The client went away before an answer was sent."""


class Bodies:
    """Reads bodies within limits, and cancels what a client that goes away no longer wants."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._held = 0  # bytes that all requests may hold at this moment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises Gone."""
        try:
            body = await self._body(scope, receive)
        except Refused as refused:
            await refuse(refused, scope, receive, send)
            return
        self._held += len(body)
        try:
            await _unless_gone(self._app, scope, body, receive, send)
        finally:
            self._held -= len(body)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """A body. Raises Refused or Gone."""
        room = self._room(scope)
        self._held += room
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await _read(receive, room)
        except TimeoutError:
            seconds = f"{self._limits.body_seconds:g} seconds"
            raise Refused(408, "Slow", f"the request took longer than {seconds} to arrive") from None
        finally:
            self._held -= room

    def _room(self, scope: Scope) -> int:
        """How many bytes a body may have. Raises Refused."""
        form = (header(scope, b"content-type") or "").strip().lower().startswith("multipart/")
        most = self._limits.upload_bytes if form else min(JSON_BYTES, self._limits.upload_bytes)
        length = header(scope, b"content-length")
        encoded = header(scope, b"content-encoding")
        if encoded is not None and encoded.strip().lower() != "identity":
            raise Refused(415, "MediaType", "a compressed body; send it as it is")
        chunked = header(scope, b"transfer-encoding") is not None
        if chunked and length is not None:  # a proxy may have read another request out of it
            raise Refused(400, "Header", "both a length and chunks; send one of them")
        if length is None:
            room = most if chunked or scope["method"] not in ("GET", "HEAD", "DELETE") else 0
        elif not length.isdecimal() or len(length) > 15:
            raise Refused(400, "Header", "the content length is no number")
        else:
            room = int(length)
        if room > most:
            raise _too_large(most)
        if self._held + room > BODIES_BYTES:
            raise busy("too many uploads at once; try again later")
        return room


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> Refused:
    return Refused(413, "TooLarge", f"more than {most / 1e6:,.1f} MB; send a smaller picture, or fewer")


async def _unless_gone(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Answer a request whose body is known, unless its client goes away before. Raises Gone."""
    given, sent = False, False

    async def receive_body() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # whoever waits for the client to go is cancelled
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send_and_note(message: Message) -> None:
        nonlocal sent
        sent = sent or (message["type"] == "http.response.body" and not message.get("more_body", False))
        await send(message)

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    answering = asyncio.ensure_future(app(scope, receive_body, send_and_note))
    listening = asyncio.ensure_future(until_gone())
    try:
        await asyncio.wait((answering, listening), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() and not sent:
            raise Gone
        await answering
    finally:
        listening.cancel()
        answering.cancel()
        await asyncio.gather(answering, listening, return_exceptions=True)
