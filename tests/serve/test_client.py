"""`cir.client`, against a server on a socket: answers, errors and forms of references as in the library."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import cir
from cir.client import Client
from cir.errors import (
    DataError,
    ImageDecodeError,
    MissingImageError,
    ServerError,
    UsageError,
)

if TYPE_CHECKING:
    from cir.testing.served import Running


@pytest.fixture
def running(searcher: cir.Searcher, tmp_path: Path) -> Iterator[Running]:
    from cir.serve.settings import Settings
    from cir.testing.served import Running

    with Running(searcher, Settings(port=0, thumbnails=tmp_path / "my.index.thumbnails")) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url, patience=0) as client:
        yield client


def same(found: cir.SearchResult, expected: cir.SearchResult) -> None:
    assert [(hit.rank, hit.id, hit.metadata) for hit in found.hits] == [
        (hit.rank, hit.id, hit.metadata) for hit in expected.hits
    ]
    assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in expected.hits], abs=1e-6)
    assert (found.query, found.searched, found.model) == (expected.query, expected.searched, expected.model)
    assert (found.confident, found.unsearched, found.unread) == (
        expected.confident,
        expected.unsearched,
        expected.unread,
    )


def test_results_are_those_of_the_library(client: Client, searcher: cir.Searcher, tmp_path: Path) -> None:
    file = tmp_path / "photos" / "0003.png"
    references: list[Any] = [
        "0003.png",
        str(file),
        file,
        file.read_bytes(),
        Image.open(file),
        cir.scan(file)[0],
        (),
        ["0001.png", file],
    ]
    queries = [
        cir.Query(reference, "in red", ["blue"], 4, "price<9", ["0002.png"], str(row))
        for row, reference in enumerate(references)
    ]
    for found, expected in zip(client.search_many(queries), searcher.search_many(queries), strict=True):
        same(found, expected)
    same(client.search(queries[0], exact=True, generation=1), searcher.search(queries[0], exact=True))


def test_an_id_wins_over_a_file_of_the_same_name(
    client: Client, searcher: cir.Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cir.testing.fakes import paint

    paint(tmp_path / "0003.png", 99)
    paint(tmp_path / "other.png", 98)
    monkeypatch.chdir(tmp_path)
    for name in ("0003.png", "other.png"):
        same(client.search(cir.Query(name, "red")), searcher.search(cir.Query(name, "red")))


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (cir.Query("nothing.png"), MissingImageError),
        (cir.Query(text=" "), UsageError),
        (cir.Query(text="red", where="nothing=1"), UsageError),
        (cir.Query(b"junk"), ImageDecodeError),
    ],
)
def test_errors_are_those_of_the_library(
    client: Client, searcher: cir.Searcher, query: cir.Query, kind: type[Exception], gallery_folder: Path
) -> None:
    with pytest.raises(kind) as expected:
        searcher.search(query)
    with pytest.raises(kind) as found:
        client.search(query)
    assert str(found.value) == str(expected.value).replace(str(gallery_folder), gallery_folder.name)


def test_the_rest_of_the_api(client: Client, tmp_path: Path) -> None:
    photo = (tmp_path / "photos" / "0003.png").read_bytes()
    assert client.image("0003.png") == photo
    assert client.thumbnail("0003.png", 160).startswith(b"\xff\xd8")
    assert client.metadata("0003.png")["price"] == "3.50"
    assert client.info()["images"] == 20
    assert [column["name"] for column in client.columns(values=3)] == ["price", "season", "title"]
    assert client.random(3, seed=1) == client.random(3, seed=1)
    assert len(client.random()) == 20
    query = cir.Query("0003.png", "in red")
    assert client.mark(query, "0004.png", True)["answered"] == 1
    assert client.mark(query, "0004.png", None, generations=[1])["marks"] == 0
    assert client.marks()["needed"] == 200
    for call in (client.image, client.thumbnail, client.metadata):
        with pytest.raises(MissingImageError):
            call("../nothing")


def test_several_threads_share_a_client(client: Client) -> None:
    found: list[int] = []

    def search() -> None:
        for _ in range(5):
            found.append(len(client.search(cir.Query(text="red", k=7)).hits))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [7] * 20


def test_a_token_is_shown(searcher: cir.Searcher) -> None:
    from cir.serve.settings import Settings
    from cir.testing.served import Running

    with Running(searcher, Settings(port=0, token="0123456789")) as server:
        with Client(server.url, "0123456789") as client:
            assert client.info()["images"] == 20
        with Client(server.url, "another") as client, pytest.raises(ServerError, match="needs its token"):
            client.info()


def test_a_busy_server_is_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(429, 2.0, b"{}"), (503, 1.0, b"{}"), (200, None, b'{"images": 1}')]
    waited: list[float] = []
    monkeypatch.setattr("cir.client.time.sleep", waited.append)
    monkeypatch.setattr(client, "_once", lambda *_: answers.pop(0))
    monkeypatch.setattr(client, "_patience", 3.0)
    assert client.info() == {"images": 1}
    assert waited == [2.0, 1.0]
    answers += [(429, 2.0, b'{"type": "urn:cir:Busy", "detail": "too much"}')]
    monkeypatch.setattr(client, "_patience", 1.0)
    with pytest.raises(ServerError, match="too much"):
        client.info()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=f"http://127.0.0.1:{port}: cannot be reached: .*is `cir serve` running"):
        Client(f"http://127.0.0.1:{port}").info()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:y", "", "file:///etc/passwd"])
def test_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="write http://127"):
        Client(url)


def test_a_connection_that_was_closed_is_made_again(client: Client) -> None:
    assert client.info()
    client._idle[0].sock.shutdown(socket.SHUT_RDWR)
    assert client.info()


def test_an_answer_that_is_none(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_once", lambda *_: (200, None, b"<html>"))
    with pytest.raises(ServerError, match="no server of cir"):
        client.info()
    monkeypatch.setattr(client, "_once", lambda *_: (502, None, b"<html>"))
    with pytest.raises(ServerError, match="HTTP status 502"):
        client.info()
    monkeypatch.setattr(client, "_once", lambda *_: (200, None, b"[]"))
    with pytest.raises(UsageError, match="is it a server of cir"):
        client.info()


def test_data_errors_too(client: Client) -> None:
    with pytest.raises(DataError, match='"k" is at most 1,000'):
        client.search(cir.Query(text="red", k=5000))
