"""A server of `cir serve` in this process: its app alone, or with a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import httpx
import uvicorn

from cir.search.searcher import Searcher
from cir.serve.app import make_app
from cir.serve.server import bind, config_of, run
from cir.serve.service import Service
from cir.serve.settings import Settings

T = TypeVar("T")

WAIT = 60.0  # seconds after which a test is stuck


class Served:
    """The app of a server. Requests come from `client`, without a socket, and are answered in a thread of their own.

    Attributes:
        service: the server's parts.
        headers: sent with every request.
    """

    def __init__(self, searcher: Searcher, settings: Settings | None = None, *, client: str = "127.0.0.1") -> None:
        self.service = Service(searcher, settings or Settings())
        self.service.engine.warm_up()
        self.headers: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)
        self._thread.start()
        transport = httpx.ASGITransport(make_app(self.service), raise_app_exceptions=True, client=(client, 50_000))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        self.run(self.service.start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work in the thread of the server."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The response to a request; `path` is below /api/v1 unless it is a whole one."""
        return self.begin(method, path, **options).result(WAIT)

    def begin(self, method: str, path: str, **options: Any) -> Future[httpx.Response]:
        """A request that is waited for later. Cancelling it is its client going away."""
        whole = path if path == "/" or path.startswith(("/api/", "/page/")) else f"/api/v1{path}"
        options["headers"] = {**self.headers, **options.get("headers", {})}
        return asyncio.run_coroutine_threadsafe(self._client.request(method, whole, **options), self._loop)

    def search(self, **values: Any) -> dict[str, Any]:
        """The answer to a search."""
        response = self.request("POST", "/search", json=values)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def close(self) -> None:
        """Stop."""
        if not self._loop.is_closed():
            self.run(self._client.aclose())
            self.run(self.service.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WAIT)
            self._loop.close()


class Running:
    """A server that listens on a port of its own choice.

    Attributes:
        service: the server's parts.
        url: where it is; without a slash at its end.
        port: its port.
    """

    def __init__(self, searcher: Searcher, settings: Settings | None = None) -> None:
        settings = settings or Settings(port=0)
        self.service = Service(searcher, settings)
        self.service.engine.warm_up()
        self._bound = bind(settings)
        self.port: int = self._bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(config_of(self.service))
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="running", daemon=True)
        self._thread.start()
        assert self._listens.wait(WAIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, as on a signal: requests that run are answered."""
        self._server.should_exit = True
        self._thread.join(WAIT)
        self._bound.close()

    def _run(self) -> None:
        asyncio.run(run(self._server, self._bound, self._listens.set))
