"""What the routes have in common."""

from __future__ import annotations

from typing import cast
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cir.serve.problems import one_line
from cir.serve.requests import Asked
from cir.serve.service import Service
from cir.serve.settings import API

BY_ID = ("images", "thumbnails", "metadata")


def service_of(request: Request) -> Service:
    """The parts of the server that a request came to."""
    return cast(Service, request.app.state.service)


def image_id_of(request: Request) -> str:
    """The id of the image that a request is about (`IdsInPaths`)."""
    return cast(str, request.scope["image_id"])


def note_query(request: Request, asked: Asked) -> None:
    """Keep what is asked for the log, which tells it only where that is wanted."""
    references = [each if isinstance(each, str) else "a picture" for each in asked.references]
    request.scope["notes"]["query"] = one_line(repr((references, asked.query.text, asked.query.negatives)))


class IdsInPaths:
    """Takes the id out of the path of a request about an image, before the path is matched with routes.

    An id may hold slashes, line ends, and bytes that are not UTF-8: only the path as it was sent has all of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            path = scope.get("raw_path", b"").partition(b"?")[0]
            for name in BY_ID:
                prefix = f"{API}/{name}/"
                if path.startswith(prefix.encode()) and len(path) > len(prefix):
                    image_id = unquote_to_bytes(path[len(prefix) :]).decode("utf-8", "surrogateescape")
                    scope = {**scope, "path": f"{prefix}-", "raw_path": f"{prefix}-".encode(), "image_id": image_id}
        await self._app(scope, receive, send)
