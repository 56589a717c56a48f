"""A real S3 server on this machine for tests (`moto`, in a process of its own), and a line to it that can be spoilt."""

from __future__ import annotations

import importlib.util
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

BUCKET = "gallery"


@dataclass(frozen=True)
class StoreServer:
    """A running server.

    Attributes:
        port: on 127.0.0.1.
    """

    port: int

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """The variables with which clients reach it, or a proxy in front of it on another port."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str = BUCKET) -> str:
        """Make an empty bucket; returns its URL."""
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return f"s3://{name}"


def is_installed() -> bool:
    """Whether there is a server to start."""
    return all(importlib.util.find_spec(name) for name in ("moto", "flask", "obstore"))


@contextmanager
def store_server() -> Iterator[StoreServer]:
    """Start a server with an empty memory, and end it."""
    port = _free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not start; try: python -m moto.server")
            time.sleep(0.02)
        yield StoreServer(port)
    finally:
        process.kill()
        process.wait()


class SpoiltLine:
    """A TCP proxy before a server that can delay, throttle, or cut what passes. A context manager.

    Args:
        target: port of the server on this machine.

    Attributes:
        port: where clients connect.
        delay: seconds that each piece waits, in both directions.
        bytes_per_second: to the server; None for no limit.
        cut_after: bytes to the server after which every connection is cut and none is accepted; None for never.
        deaf: whether answers are held back, while requests pass.
        sent: bytes that have gone to the server.
    """

    def __init__(self, target: int) -> None:
        self.target, self.sent = target, 0
        self.delay = 0.0
        self.bytes_per_second: float | None = None
        self.cut_after: int | None = None
        self.deaf = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> SpoiltLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._listener.close()
        self._cut()

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes any more."""
        return self._closed or (self.cut_after is not None and self.sent >= self.cut_after)

    def mend(self) -> None:
        """Let everything pass from now on."""
        self.cut_after, self.delay, self.bytes_per_second, self.deaf = None, 0.0, None, False

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                client.close()
                continue
            with suppress(OSError):
                server = socket.create_connection(("127.0.0.1", self.target))
                self._open |= {client, server}
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self.is_cut:
                for key, _ in selector.select(0.1):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if not self._piece(source, key.data, to_server=source is client):
                        raise ValueError("closed")
        for end in (client, server):
            self._open.discard(end)
            end.close()

    def _piece(self, source: socket.socket, target: socket.socket, *, to_server: bool) -> bool:
        if self.deaf and not to_server:
            time.sleep(0.01)
            return not self.is_cut
        data = source.recv(1 << 14)
        time.sleep(self.delay)
        if to_server:
            if self.bytes_per_second:
                time.sleep(len(data) / self.bytes_per_second)
            with self._lock:
                left = len(data) if self.cut_after is None else max(0, self.cut_after - self.sent)
                data = data[:left]
                self.sent += len(data)
            if data:
                target.sendall(data)
            if self.is_cut:
                self._cut()
                return False
        elif data:
            target.sendall(data)
        return bool(data)

    def _cut(self) -> None:
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
