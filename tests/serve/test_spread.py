"""A server whose gallery is spread over parts: answers say which share of it they cover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cir
from cir.client import Client
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.spread import PartsHere

if TYPE_CHECKING:
    from cir.testing.served import Served


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of two segments of ten images."""
    build(folder_of(tmp_path / "photos", 20), tmp_path / "x.index", segment_rows=10)
    return tmp_path / "x.index"


@pytest.fixture
def parts(index: Path) -> PartsHere:
    return PartsHere(index, 2, 10**9)


@pytest.fixture
def spread(index: Path, parts: PartsHere) -> cir.Searcher:
    return cir.Searcher(Gallery.open(index, spread=parts), lambda card: FakeEncoder())


def test_answers_say_what_they_cover(serve: Callable[..., Served], spread: cir.Searcher, parts: PartsHere) -> None:
    api = serve(spread)
    whole = api.search(text="red", k=20)
    assert (whole["coverage"], whole["searched"], len(whole["hits"])) == (1, 20, 20)
    parts.silent = {0}
    half = api.search(text="red", k=20)
    assert (half["coverage"], half["searched"], len(half["hits"])) == (0.5, 10, 10)
    similar = api.search(references=[half["hits"][0]["id"]], k=20)
    assert (similar["coverage"], len(similar["hits"])) == (0.5, 9)
    parts.silent = {0, 1}
    none = api.search(text="red", k=20)
    assert (none["coverage"], none["searched"], none["hits"]) == (0, 0, [])
    assert "cir_partial_answers_total 3.0" in api.request("GET", "/metrics").text


def test_what_needs_a_part_that_does_not_answer_is_refused(
    serve: Callable[..., Served], spread: cir.Searcher, parts: PartsHere
) -> None:
    api = serve(spread)
    hit = api.search(text="red")["hits"][0]["id"]
    parts.silent = {0, 1}
    response = api.request("POST", "/explain", json={"text": "red", "hit": hit})
    assert response.status_code == 503
    assert "a part of the gallery does not answer at the moment; try again" in response.json()["detail"]


def test_a_newer_generation_is_opened_aside(
    serve: Callable[..., Served], spread: cir.Searcher, index: Path, tmp_path: Path
) -> None:
    api = serve(spread)
    build(folder_of(tmp_path / "more", 10, start=20), index, segment_rows=10)
    assert api.search(text="red", k=100)["generation"] == 1  # which makes it look
    coming = api.service.engine._coming
    assert coming is not None
    coming.join(60)
    answer = api.search(text="red", k=100)
    assert (answer["generation"], answer["coverage"], len(answer["hits"])) == (2, 1, 30)
    assert len(api.search(text="red", k=100, generation=1)["hits"]) == 20


def test_the_client_is_given_the_coverage(spread: cir.Searcher, parts: PartsHere) -> None:
    from cir.serve.settings import Settings
    from cir.testing.served import Running

    with Running(spread, Settings(port=0)) as server, Client(server.url) as client:
        assert client.search(cir.Query(text="red")).coverage == 1
        parts.silent = {1}
        assert client.search(cir.Query(text="red")).coverage == 0.5
