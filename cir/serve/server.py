"""Running the app: the socket, uvicorn, signals, and connections that never get to the point."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cir.errors import UsageError
from cir.given import printable
from cir.serve.app import make_app
from cir.serve.service import Service
from cir.serve.settings import Settings

HEADER_SECONDS = 10.0  # within which a request's head has arrived
_HEADER_BYTES = 32_768
_CONNECTIONS = 1000
_GRACE = 30  # seconds for requests that run when the server is stopped
_BACKLOG = 256


def bind(settings: Settings) -> socket.socket:
    """A socket that listens nowhere yet. Raises UsageError where that address or port cannot be had."""
    host = settings.host.strip("[]")
    where = f"{printable(settings.host)}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {printable(settings.host)}: no such host: {error}; give an address") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen at {where}: {reason}; give another --port") from None
    return bound


def url_of(settings: Settings, bound: socket.socket) -> str:
    """Where people find the page. The token is in the part that browsers send nowhere."""
    port = bound.getsockname()[1]
    host = settings.host.strip("[]")
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"#token={settings.token}" if settings.token else "")


def config_of(service: Service) -> uvicorn.Config:
    """How uvicorn runs a service."""
    settings = service.settings
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # of ours there is a line for each request
    return uvicorn.Config(
        make_app(service),
        http=Protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        backlog=_BACKLOG,
    )


def serve(service: Service, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; requests that run are answered first.

    Args:
        service: what answers; its models are loaded.
        bound: where.
        ready: called once it listens.
    """
    asyncio.run(run(uvicorn.Server(config_of(service)), bound, ready))


async def run(server: uvicorn.Server, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Run a server until it is stopped: by a signal, or by its `should_exit`."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit  # the second time it does not wait
        server.should_exit = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    serving = loop.create_task(server._serve([bound]))  # `serve` would take the signals, and send them again
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    await serving


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, but a connection whose request does not arrive is closed: uvicorn itself waits for ever."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request. The first ones of the next request start its time."""
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head_is_there()

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _head_is_there(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            self.transport.close()
