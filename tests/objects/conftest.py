"""What tests of object stores share: a real S3 server on this machine, empty buckets, and several machines' caches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cir.testing.store_server import SpoiltLine, StoreServer, is_installed, store_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[StoreServer]:
    """The server; its memory is empty at first."""
    if not is_installed():
        pytest.skip("needs obstore and moto[server], of the extra `dev`")
    with store_server() as running:
        yield running


@pytest.fixture
def bucket(server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket, which this process reaches; its cache is empty too."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CIR_STORE_TIMEOUT", "20")
    return server.make_bucket(f"bucket-{next(_numbers)}")


@pytest.fixture
def index(bucket: str) -> str:
    """URL of an index that does not exist yet."""
    return f"{bucket}/my.index"


@pytest.fixture
def machine(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Goes on as another machine, whose cache has what it fetched before."""
    return lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{name}"))


@pytest.fixture
def line(server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoiltLine]:
    """A line to the server that can be spoilt, over which everything goes from now on."""
    with SpoiltLine(server.port) as spoilt:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.environment(spoilt.port)["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("CIR_STORE_TIMEOUT", "1")
        yield spoilt
