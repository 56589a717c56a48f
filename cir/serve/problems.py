"""Errors as `application/problem+json` (RFC 9457); `detail` is the line that the command line would print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from cir import errors
from cir.images.names import shown

MEDIA = "application/problem+json"
# The first class that an error is an instance of decides.
_STATUS: tuple[tuple[type[errors.CirError], int], ...] = (
    (errors.MissingImageError, 404),
    (errors.ImageDecodeError, 400),
    (errors.DataError, 422),  # of another shape than the OpenAPI document says
    (errors.UsageError, 400),
    (errors.IndexLockedError, 409),
    (errors.SpaceMismatchError, 409),
    (errors.StaleEvidenceError, 409),
    (errors.CirError, 503),  # an index or a model that is damaged or gone
)


class Refused(Exception):
    """A request that is refused by the server itself, not by the search.

    Attributes:
        status: of the response.
        kind: what is wrong, as one word; the last part of the problem's type.
        detail: one line for a person.
        headers: further headers of the response.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers = dict(headers or {})


def busy(detail: str, seconds: float = 1.0, *, status: int = 429) -> Refused:
    """A refusal for now: the client may try again after some seconds."""
    return Refused(status, "Busy", detail, {"Retry-After": str(max(1, round(seconds)))})


def refusal_of(error: Exception) -> Refused:
    """What is answered to a request that met an error; anything but a CirError is a bug, of which nothing is told."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, errors.CirError):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        return Refused(status, type(error).__name__, str(error))
    if isinstance(error, MemoryError):
        return busy("not enough memory for this request; try a smaller one, or later", 5, status=503)
    return Refused(500, "Bug", "this is a bug in cir; the server's log has its traceback")


def problem(error: Exception, request_id: str = "", clean: Callable[[str], str] = lambda text: text) -> dict[str, Any]:
    """The members of a problem document.

    Args:
        error: what was met.
        request_id: of the request, by which the log names it.
        clean: takes out of the message what clients may not know.
    """
    refused = refusal_of(error)
    return {
        "type": f"urn:cir:{refused.kind}",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": one_line(clean(refused.detail)),
        "request": request_id,
    }


def problem_response(
    error: Exception, request_id: str = "", clean: Callable[[str], str] = lambda text: text
) -> Response:
    """A response that says what is wrong; arguments as for `problem`."""
    refused = refusal_of(error)
    body = json.dumps(problem(refused, request_id, clean)).encode()
    return Response(body, refused.status, {**refused.headers, "Cache-Control": "no-store"}, MEDIA)


def one_line(message: str) -> str:
    """A message on one line, as the command line prints it."""
    return shown(" ".join(message.split()))
