"""Who may ask, on whose behalf, and how much."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cir.errors import UsageError

if TYPE_CHECKING:
    from cir.testing.served import Served

SEARCH = {"json": {"text": "red"}}
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("localhost.", 200),
        ("127.0.0.1:9", 200),  # a forwarded port
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.168.0.1", 421),
        ("127.0.0.1@evil.example", 421),
        ("", 421),
        ("a b", 421),
        ("localhost:8000:8000", 421),
        ("pictures.example.org", 421),
    ],
)
def test_only_names_of_the_server_are_answered(api: Served, host: str, status: int) -> None:
    for path in ("/info", "/health", "/"):
        response = api.request("GET", path, headers={"host": host})
        assert response.status_code == status
        assert response.headers["content-security-policy"]


def test_further_names_can_be_allowed(serve: Callable[..., Served]) -> None:
    api = serve(allowed_hosts=frozenset({"pictures.example.org"}))
    assert api.request("GET", "/info", headers={"host": "pictures.example.org"}).status_code == 200
    assert api.request("GET", "/info", headers={"host": "pictures.example.com"}).status_code == 421


def test_a_server_for_all_addresses_answers_to_addresses_and_its_own_name(serve: Callable[..., Served]) -> None:
    import socket

    api = serve(host="0.0.0.0", token=TOKEN)
    for host, status in (
        ("192.168.0.7:8000", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
        ("[fe80::1]", 200),
    ):
        response = api.request("GET", "/info", headers={"host": host, "authorization": f"Bearer {TOKEN}"})
        assert response.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8001"}, 403),
        ({"origin": "http://localhost:8000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": "http://127.0.0.1:99999"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_other_sites_are_refused(api: Served, headers: dict[str, str], status: int) -> None:
    response = api.request("POST", "/search", headers=headers, **SEARCH)
    assert response.status_code == status
    if "sec-fetch-site" in headers:
        assert api.request("GET", "/info", headers=headers).status_code == status
        assert api.request("GET", "/", headers=headers).status_code == 200  # a link on another page


def test_behind_a_proxy_that_speaks_https(serve: Callable[..., Served]) -> None:
    api = serve(allowed_hosts=frozenset({"pics.example"}))
    same = {"host": "pics.example", "origin": "https://pics.example"}
    assert api.request("POST", "/search", headers=same, **SEARCH).status_code == 200
    other = {"host": "pics.example", "origin": "https://other.example"}
    assert api.request("POST", "/search", headers=other, **SEARCH).status_code == 403


def test_without_the_token_only_the_page_is_served(serve: Callable[..., Served]) -> None:
    api = serve(token=TOKEN)
    for method, path in (
        ("GET", "/info"),
        ("POST", "/search"),
        ("GET", "/images/0001.png"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/nothing"),
    ):
        refused = api.request(method, path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/health", "/ready"):
        assert api.request("GET", path).status_code == 200
    for given in (f"Bearer {TOKEN}x", "Bearer ", TOKEN, f"Basic {TOKEN}", f"bearer  {TOKEN[:-1]}"):
        assert api.request("GET", "/info", headers={"authorization": given}).status_code == 401
    assert api.request("GET", "/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert api.request("GET", "/info", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200


def test_the_page_gets_a_cookie_for_the_token(serve: Callable[..., Served]) -> None:
    api = serve(token=TOKEN)
    refused = api.request("POST", "/session", json={"token": "wrong"})
    assert refused.status_code == 401
    assert "set-cookie" not in refused.headers
    given = api.request("POST", "/session", json={"token": TOKEN})
    assert given.status_code == 204
    cookie = given.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert api.request("GET", "/images/0001.png").status_code == 200  # the client keeps it
    api.run(asyncio.sleep(0, api._client.cookies.clear()))
    assert api.request("GET", "/images/0001.png").status_code == 401
    for body in (b"", b"[]", b'{"token": 3}', b"{" * 3000, b"x" * 20_000, b"\xff", b'{"token": "\xff"}'):
        assert api.request("POST", "/session", content=body).status_code == 400
    assert api.request("GET", "/session").status_code == 404


def test_guessing_the_token_is_limited(serve: Callable[..., Served]) -> None:
    api = serve(token=TOKEN, rate=0.5)
    statuses = [api.request("POST", "/session", json={"token": str(number)}).status_code for number in range(3)]
    assert statuses == [401, 401, 429]


@pytest.mark.parametrize(
    ("host", "token", "anyone", "words"),
    [
        ("127.0.0.1", None, False, ""),
        ("::1", None, False, ""),
        ("localhost", None, False, ""),
        ("0.0.0.0", None, False, "needs a token"),
        ("192.168.0.1", None, False, "needs a token"),
        ("0.0.0.0", None, True, ""),
        ("0.0.0.0", TOKEN, False, ""),
        ("127.0.0.1", "short", False, "at least 8"),
        ("127.0.0.1", "with blanks in it", False, "at least 8"),
        ("127.0.0.1", "caf\u00e9caf\u00e9", False, "at least 8"),
    ],
)
def test_other_machines_need_a_token(host: str, token: str | None, anyone: bool, words: str) -> None:
    from cir.serve.settings import check_token

    if not words:
        check_token(host, token, anyone=anyone)
        return
    with pytest.raises(UsageError, match=words):
        check_token(host, token, anyone=anyone)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(serve: Callable[..., Served]) -> None:
    api = serve(upload_bytes=10_000)
    large = {"references": ("a.png", b"x" * 20_000)}
    for response in (
        api.request("POST", "/search", files=large),
        api.request("POST", "/search", content=b" " * 20_000, headers={"content-type": "application/json"}),
    ):
        assert response.status_code == 413
        assert response.headers["connection"] == "close"

    pieces = 0

    async def endless() -> Any:
        nonlocal pieces
        while True:
            pieces += 1
            yield b"x" * 1000

    response = api.request(
        "POST", "/search", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert response.status_code == 413
    assert pieces < 20
    assert api.request("GET", "/info", headers={"content-length": "5000000"}).status_code == 413


def test_a_body_that_does_not_arrive_is_given_up(serve: Callable[..., Served]) -> None:
    api = serve(body_seconds=0.01)

    async def never() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    response = api.request("POST", "/search", content=never(), headers={"content-type": "application/json"})
    assert response.status_code == 408
    assert "longer than 0.01 seconds" in response.json()["detail"]


def test_bytes_of_all_bodies_are_bounded(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir.serve.guard.bodies.BODIES_BYTES", 50)
    refused = api.request("POST", "/search", json={"text": "red" * 100})
    assert refused.status_code == 429
    assert api.request("GET", "/info").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-encoding": "gzip"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data"}, 400),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 500}, 400),
        ({"content-type": "multipart/form-data; boundary=x; charset=utf-7"}, 415),
        ({"content-type": ""}, 415),
        ({"content-length": "-3"}, 400),
        ({"content-length": "99999999999999999999"}, 400),
    ],
)
def test_odd_headers(api: Served, headers: dict[str, str], status: int) -> None:
    response = api.request(
        "POST", "/search", content=b'{"text": "red"}', headers={"content-type": "application/json", **headers}
    )
    assert response.status_code == status, response.text


def test_a_header_that_is_there_twice_is_refused(api: Served) -> None:
    twice = [("host", "127.0.0.1"), ("host", "evil.example")]
    response = api.run(api._client.get("/api/v1/info", headers=twice))
    assert response.status_code == 400


def test_logs_have_no_texts_and_no_names(serve: Callable[..., Served], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cir.serve")
    api = serve()
    api.request("POST", "/search", json={"text": "a secret wish"})
    api.request("GET", "/thumbnails/0001.png")
    api.request("GET", "/nothing/here?secret=1")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("requestlog")]
    assert [line.split()[1:5] for line in lines] == [
        ["127.0.0.1", "POST", "/api/v1/search", "200"],
        ["127.0.0.1", "GET", "/api/v1/thumbnails/{image_id}", "200"],
        ["127.0.0.1", "GET", "other", "404"],
    ]
    assert "secret" not in caplog.text
    assert "0001.png" not in caplog.text
    told = serve(log_queries=True)
    told.request("POST", "/search", json={"text": "a secret\nwish"})
    told.request("GET", "/thumbnails/0001.png")
    assert "a secret\\nwish" in caplog.text
    assert "0001.png" in caplog.text


def test_a_bug_is_told_to_the_log_alone(
    api: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret details")

    monkeypatch.setattr(api.service, "describer", broken)
    response = api.request("GET", "/random")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret details" in caplog.text
    assert response.json()["request"] in caplog.text


def test_everything_carries_the_headers_of_safety(api: Served) -> None:
    for method, path, options in (
        ("GET", "/", {}),
        ("GET", "/info", {}),
        ("GET", "/images/0001.png", {}),
        ("GET", "/nothing", {}),
        ("POST", "/search", {"json": {}}),
        ("PUT", "/search", {}),
    ):
        headers = api.request(method, path, **options).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert (
            "unsafe-inline" not in headers["content-security-policy"]
            or "default-src 'none'" in headers["content-security-policy"]
        )
        assert "server" not in headers
