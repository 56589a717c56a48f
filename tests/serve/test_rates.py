"""How much one client may ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cir.testing.served import Served

SEARCH = {"json": {"text": "red"}}


class TestRates:
    """Requests per second and client."""

    def test_a_bucket_fills_by_its_rate(self) -> None:
        from cir.serve.guard.rates import Buckets

        now = 0.0
        buckets = Buckets(10, lambda: now)
        assert [buckets.take("a", 1) for _ in range(40)] == [0] * 40  # the burst
        assert buckets.take("a", 1) == pytest.approx(0.1)
        assert buckets.take("b", 1) == 0
        now = 0.25
        assert [buckets.take("a", 1) for _ in range(2)] == [0, 0]
        assert buckets.take("a", 1) == pytest.approx(0.05)
        now = 1000.0
        assert [buckets.take("a", 1) for _ in range(41)][-2:] == [0, pytest.approx(0.1)]

    def test_clients_that_are_remembered_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from cir.serve.guard.rates import Buckets

        monkeypatch.setattr("cir.serve.guard.rates._CLIENTS", 5)
        buckets = Buckets(1, lambda: 0.0)
        for number in range(100):
            buckets.take(str(number), 1)
        assert len(buckets._buckets) == 5

    def test_too_many_searches_are_429(self, serve: Callable[..., Served]) -> None:
        api = serve(rate=0.5)
        statuses = [api.request("POST", "/search", **SEARCH).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = api.request("POST", "/search", **SEARCH)
        assert int(refused.headers["retry-after"]) >= 1
        assert api.request("GET", "/metrics").status_code == 429  # the same bucket

    def test_there_may_be_no_limit(self, serve: Callable[..., Served]) -> None:
        api = serve(rate=0)
        assert {api.request("POST", "/search", **SEARCH).status_code for _ in range(10)} == {200}

    def test_too_many_at_once_are_429(self, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
        api = serve(in_flight=2)
        go, whole = threading.Event(), api.service.batcher._answer
        monkeypatch.setattr(api.service.batcher, "_answer", lambda jobs: go.wait(30) and whole(jobs))
        running = [api.begin("POST", "/search", **SEARCH) for _ in range(2)]
        refused = api.begin("POST", "/search", **SEARCH).result(30)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        go.set()
        assert [each.result(30).status_code for each in running] == [200, 200]

    @pytest.mark.parametrize(
        ("address", "client"),
        [
            ("192.168.0.1", "192.168.0.1"),
            ("::ffff:192.168.0.1", "192.168.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"),
        ],
    )
    def test_a_client_is_an_address_or_a_network(self, address: str, client: str) -> None:
        from cir.serve.guard.common import client_of

        assert client_of({"client": (address, 1)}) == client
        assert client_of({"client": None}) == ""
