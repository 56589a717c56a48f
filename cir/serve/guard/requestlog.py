"""One line for each request, without what people search for; and the last place where an error can be met."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cir.serve.guard.bodies import Gone
from cir.serve.guard.common import client_of
from cir.serve.metrics import Metrics
from cir.serve.problems import one_line, problem_response, refusal_of

log = logging.getLogger(__name__)

_GONE = 499  # as other servers note a client that went away


class RequestLog:
    """Logs and counts requests, and answers those that meet an error.

    Args:
        app: what answers.
        metrics: where they are counted.
        queries: log paths as they are, and what is searched for, in place of the route.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, queries: bool) -> None:
        self._app, self._metrics, self._queries = app, metrics, queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started, status, size = time.perf_counter(), 0, 0
        scope["request_id"] = secrets.token_hex(4)
        scope["notes"] = {}  # filled by routes: what the line says besides

        async def send_and_note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Gone:
            status = _GONE
        except Exception as error:
            if refusal_of(error).status == 500:
                log.exception("request %s", scope["request_id"])
            if not status:
                await problem_response(error, scope["request_id"])(scope, receive, send_and_note)
        finally:
            self._note(scope, status or _GONE, size, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        notes = scope["notes"]
        route = notes.pop("route", "other")
        method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        said = " ".join(f"{name}={value}" for name, value in notes.items() if self._queries or name != "query")
        path = one_line(scope["path"])[:500] if self._queries else route
        log.info(
            "%s %s %s %d %d ms %d bytes %s%s",
            scope["request_id"],
            client_of(scope),
            f"{method} {path}",
            status,
            round(seconds * 1000),
            size,
            said and " ",
            said,
        )
