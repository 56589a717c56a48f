"""How much one client may ask for: requests per second, and requests at once."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from cir.serve.guard.common import client_of, refuse
from cir.serve.metrics import Metrics
from cir.serve.problems import busy
from cir.serve.settings import Limits

_READING = 0.1  # what a request that computes nothing costs, of one that does
_BURST = 4.0  # seconds' worth that may come at once
_CLIENTS = 10_000


class Buckets:
    """A bucket of tokens for each client, which fills by `rate` per second; the latest clients are kept."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._size, self._clock = rate, max(1.0, rate * _BURST), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens at a time

    def take(self, client: str, cost: float) -> float:
        """Take tokens; returns 0, or the seconds after which there will be enough, and takes none."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._rate)
        short = cost - tokens
        self._buckets[client] = (tokens if short > 0 else tokens - cost), now
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return short / self._rate if short > 0 else 0.0


class Rates:
    """Refuses what is more than one client may ask for, with 429 and Retry-After."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._buckets = Buckets(limits.rate) if limits.rate > 0 else None
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        client = client_of(scope)
        cost = _READING if scope["method"] in ("GET", "HEAD") else 1.0
        wait = self._buckets.take(client, cost) if self._buckets else 0.0
        if wait:
            self._metrics.refused.labels("rate").inc()
            await refuse(busy("too many requests; send fewer per second", wait), scope, receive, send)
            return
        if self._in_flight[client] >= self._limits.in_flight:
            self._metrics.refused.labels("in flight").inc()
            await refuse(busy("too many requests at once; wait for some answers"), scope, receive, send)
            return
        self._in_flight[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight[client] -= 1
            if not self._in_flight[client]:
                del self._in_flight[client]
