"""A server on a socket, and what clients may send it that no client should."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cir
from cir.testing.commands import Run

if TYPE_CHECKING:
    from cir.testing.served import Running

CIR = (sys.executable, "-c", "from cir.cli import main; main()")


@pytest.fixture
def running(searcher: cir.Searcher) -> Iterator[Running]:
    from cir.serve.settings import Settings
    from cir.testing.served import Running

    with Running(searcher, Settings(port=0)) as server:
        yield server


def exchange(port: int, data: bytes) -> bytes:
    """What a server sends back until it closes the connection, or is done."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(data)
        received = b""
        try:
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionResetError:
            pass
        return received


HEAD = b"Host: 127.0.0.1\r\nConnection: close\r\n"
KEPT = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /api/v1/health HTTP/1.1\r\n" + HEAD + b"\r\n", 200),
        (b"GET /api/v1/health HTTP/1.1\r\n\r\n", 400),
        (b"GET /api/v1/health HTTP/1.0\r\n\r\n", 421),
        (b"GET /api/v1/health HTTP/1.1\r\n" + HEAD + HEAD + b"\r\n", 400),
        (b"GET http://evil.example/api/v1/info HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"GET /api/v1/images/\xff\xfe HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
        (b"GET /api/v1/images/%ff%00 HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"GET /api/v1/images/../../../etc/passwd HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"GET /api/v1/../../etc/passwd HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"CONNECT evil.example:80 HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"TRACE /api/v1/info HTTP/1.1\r\n" + HEAD + b"\r\n", 405),
        (b"GET /api/v1/info HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n", 421),
        (b"POST /api/v1/search HTTP/1.1\r\n" + HEAD + JSON + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n{}", 400),
        (
            b"POST /api/v1/search HTTP/1.1\r\n"
            + HEAD
            + JSON
            + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            400,
        ),
        (b"POST /api/v1/search HTTP/1.1\r\n" + HEAD + JSON + b"Content-Length: 999999999\r\n\r\n{}", 413),
        (b"GET /api/v1/info HTTP/1.1\r\n" + KEPT + b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", 200),
    ],
)
def test_odd_requests(running: Running, request_bytes: bytes, status: int) -> None:
    answer = exchange(running.port, request_bytes)
    assert answer.split(b" ")[1] == str(status).encode(), answer[:300]
    assert exchange(running.port, b"GET /api/v1/health HTTP/1.1\r\n" + HEAD + b"\r\n").startswith(b"HTTP/1.1 200")


def test_a_body_that_ends_early_is_no_error_of_ours(running: Running) -> None:
    for body in (b"", b"{", b'{"text": "red"}'):
        with socket.create_connection(("127.0.0.1", running.port), 30) as connection:
            connection.sendall(
                b"POST /api/v1/search HTTP/1.1\r\n" + HEAD + JSON + b"Content-Length: 500\r\n\r\n" + body
            )
    metrics = running.service.metrics.text().decode()
    assert 'status="500"' not in metrics


def test_a_connection_without_a_request_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir.serve.server.HEADER_SECONDS", 0.01)
    for start in (b"", b"GET /api/v1/info HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
        with socket.create_connection(("127.0.0.1", running.port), 30) as connection:
            connection.sendall(start)
            assert connection.recv(100) == b""


def test_a_connection_is_kept_for_several_requests(running: Running) -> None:
    one = b"GET /api/v1/health HTTP/1.1\r\n"
    assert exchange(running.port, (one + KEPT + b"\r\n") * 4 + one + HEAD + b"\r\n").count(b'{"status":"ok"}') == 5


def test_a_taken_port_is_one_line(running: Running, cli: Run, gallery_folder: Path) -> None:
    done = cli("serve", gallery_folder, "--port", running.port)
    assert done.code == 2
    assert done.err.startswith(f"cir: cannot listen at 127.0.0.1:{running.port}: Address already in use")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--host", "0.0.0.0"), "needs a token"),
        (("--host", "no.such.host.invalid", "--allow-anyone"), "no such host"),
        (("--token-file", "/nothing"), "cannot be read"),
        (("--port", "70000"), "70000"),
        (("--rate", "-1"), "-1"),
    ],
)
def test_mistakes_are_one_line(cli: Run, gallery_folder: Path, words: tuple[str, ...], message: str) -> None:
    done = cli("serve", gallery_folder, *words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_an_index_that_is_none_is_one_line(cli: Run, tmp_path: Path) -> None:
    done = cli("serve", tmp_path / "nothing", "--port", "0")
    assert (done.code, done.err.split(":")[1].strip()) == (2, "no such index")


def test_a_model_that_is_missing_is_one_line(cli: Run, gallery_folder: Path) -> None:
    done = cli("serve", gallery_folder, "--port", "0")
    assert done.code == 2
    assert "fake-1" in done.err


def test_without_the_extra_the_command_says_what_to_install(
    cli: Run, gallery_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["cir.cli.serve"], "find_spec", lambda name: None)
    done = cli("serve", gallery_folder)
    assert done.code == 2
    assert "pip install 'cir-engine[serve]'" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_stopped(
    tmp_path: Path, tiny_model: Path, wardrobe_folder: Path, number: signal.Signals
) -> None:
    index = tmp_path / "my.index"
    cir.build_index(cir.scan([wardrobe_folder]), index, cir.load_model(tiny_model))
    words = [*CIR, "serve", str(index), "--port", "0", "--model-dir", str(tiny_model.parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        body = json.dumps({"text": "red", "k": 3}).encode()
        request = urllib.request.Request(f"{url}api/v1/search", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            assert len(json.load(response)["hits"]) == 3
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    lines = err.splitlines()
    assert [line.split()[3:5] for line in lines] == [["POST", "/api/v1/search"]]
