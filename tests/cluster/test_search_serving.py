"""A server whose gallery is searched by actors of Ray: newer generations, another model, and what answers say."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")
pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx")

import ray

import cir
from cir.cluster.searching import Parts
from cir.cluster.session import joined
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.backfill import backfill
from cir.serve.settings import Limits, Settings
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.spread import attempts
from cir.testing.two_models import NEW, RIDGE, new_encoder, old_encoder, serve_new
from cir.types import ModelCard, Query

if TYPE_CHECKING:
    from cir.testing.served import Served

WAIT = 300.0
UNLIMITED = Settings(limits=Limits(rate=0))


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # as `cir serve` does; else a busy machine hardly runs the actors
        with joined("local", 2):
            yield


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Three segments of eight pictures by the old model."""
    build(folder_of(tmp_path / "photos", 24), tmp_path / "x.index", old_encoder(), segment_rows=8)
    return tmp_path / "x.index"


def load(card: ModelCard) -> FakeEncoder:
    return new_encoder() if card.digest == NEW.card.digest else old_encoder()


@pytest.fixture
def parts(index: Path) -> Iterator[Parts]:
    with Parts(index, parts=2, deadline=WAIT) as parts:
        yield parts


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    from cir.testing.served import Served

    made: list[Served] = []

    def make(index: Path, parts: Parts) -> Served:
        made.append(Served(cir.Searcher(Gallery.open(index, spread=parts), load), UNLIMITED))
        return made[-1]

    yield make
    for server in made:
        server.close()


def hits(answer: dict[str, Any]) -> list[tuple[str, float, str]]:
    return [(hit["id"], hit["score"], hit["model"]) for hit in answer["hits"]]


def in_one_process(index: Path, text: str) -> tuple[int, list[tuple[str, float, str]]]:
    """The generation that is live, and its answer."""
    gallery = Gallery.open(index)
    result = cir.Searcher(gallery, load).search(Query(text=text, k=100))
    makers = {hit.id: gallery.manifest.maker(gallery.image(hit.id).space).name for hit in result.hits}
    return gallery.manifest.generation, [(hit.id, round(hit.score, 6), makers[hit.id]) for hit in result.hits]


def until(api: Served, generation: int) -> dict[str, Any]:
    """The first answer of a generation; those before it are of one before."""
    for _ in attempts(f"generation {generation} is gone on to"):
        answer = api.search(text="red", k=100)
        assert answer["coverage"] == 1
        if answer["generation"] == generation:
            break
        assert answer["generation"] < generation
    return answer


def test_a_newer_generation_is_picked_up_by_all_parts(
    serve: Callable[..., Served], index: Path, parts: Parts, tmp_path: Path
) -> None:
    api = serve(index, parts)
    before = api.search(text="red", k=100)
    assert (before["generation"], before["coverage"], len(before["hits"])) == (1, 1, 24)
    build(folder_of(tmp_path / "more", 8, start=24), index, old_encoder(), segment_rows=8)
    after = until(api, 2)
    assert (2, hits(after)) == in_one_process(index, "red")
    again = api.search(text="red", k=100, generation=1)
    assert (again["generation"], again["hits"]) == (1, before["hits"])
    assert api.request("GET", "/info").json()["images"] == 32


def test_an_actor_that_was_lost_opens_all_generations_again(
    serve: Callable[..., Served], index: Path, parts: Parts, tmp_path: Path
) -> None:
    api = serve(index, parts)
    before = api.search(text="red", k=100)
    build(folder_of(tmp_path / "more", 8, start=24), index, old_encoder(), segment_rows=8)
    after = until(api, 2)
    assert api.search(text="red", k=100, generation=1)["hits"] == before["hits"]
    os.kill(ray.get(parts._replicas[0][0].measure()).process, signal.SIGKILL)
    for _ in attempts("it is gone"):
        answer = api.search(text="red", k=100)
        if answer["coverage"] < 1:
            break
        assert answer["hits"] == after["hits"]
    assert answer["searched"] < 32
    assert {hit["id"] for hit in answer["hits"]} < {hit["id"] for hit in after["hits"]}
    for generation, expected in ((2, after), (1, before)):
        for _ in attempts(f"all parts answer for generation {generation}"):
            answer = api.search(text="red", k=100, generation=generation)
            assert answer["generation"] == generation
            if answer["coverage"] == 1:
                break
        assert answer["hits"] == expected["hits"]


def test_a_replacement_goes_through_without_an_answer_that_mixes(
    serve: Callable[..., Served], index: Path, parts: Parts
) -> None:
    """The new model takes over by a mapping, then a backfill goes on in parts, while queries come all the time."""
    api = serve(index, parts)
    expected = dict([in_one_process(index, "red")])
    seen: list[tuple[int, list[tuple[str, float, str]], str]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answer = api.search(text="red", k=100)
            assert answer["coverage"] == 1
            seen.append((answer["generation"], hits(answer), answer["model"]))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        serve_new(index, RIDGE)
        expected |= dict([in_one_process(index, "red")])
        until(api, max(expected))
        for _ in backfill(index, new_encoder(), part=12):
            expected |= dict([in_one_process(index, "red")])
            until(api, max(expected))
    finally:
        done.set()
        asking.join()
    assert {generation for generation, _, _ in seen} >= {1, 2}
    for generation, found, model in seen:
        assert found == expected[generation]
        assert model == ("old-1" if generation == 1 else "new-1")
    makers = [{model for _, _, model in expected[generation]} for generation in sorted(expected)]
    assert makers == [{"old-1"}, {"old-1"}, {"old-1", "new-1"}, {"new-1"}]
