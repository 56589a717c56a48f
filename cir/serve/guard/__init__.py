"""What a request passes before it reaches a route, outermost first. Each is a plain ASGI app around another one."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from cir.serve.guard.bodies import Bodies
from cir.serve.guard.headers import SecurityHeaders
from cir.serve.guard.origins import Origins
from cir.serve.guard.rates import Rates
from cir.serve.guard.requestlog import RequestLog
from cir.serve.guard.tokens import Sessions, Tokens
from cir.serve.metrics import Metrics
from cir.serve.settings import Settings


def guarded(app: ASGIApp, settings: Settings, metrics: Metrics) -> ASGIApp:
    """An app behind all guards."""
    guards: ASGIApp = app
    if settings.token is not None:
        guards = Sessions(guards, settings.token)
    guards = Bodies(guards, settings.limits)
    if settings.token is not None:
        guards = Tokens(guards, settings.token)
    guards = SecurityHeaders(Origins(Rates(guards, settings.limits, metrics), settings))
    log = RequestLog(guards, metrics, queries=settings.log_queries)

    async def by_kind(scope: Scope, receive: Receive, send: Send) -> None:
        await (log if scope["type"] == "http" else app)(scope, receive, send)

    return by_kind
