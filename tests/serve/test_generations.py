"""What is built while the server runs, and earlier generations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.writing.history import rollback
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.two_models import MAPPINGS, NEW, OLD, RIDGE, serve_new
from cir.types import ModelCard

if TYPE_CHECKING:
    from cir.testing.served import Served


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


def test_what_is_built_meanwhile_is_found(api: Served, gallery_folder: Path, tmp_path: Path) -> None:
    assert len(api.search(text="red", k=100)["hits"]) == 20
    build(folder_of(tmp_path / "photos", 4, start=20), gallery_folder)
    answer = api.search(text="red", k=100)
    assert (answer["generation"], len(answer["hits"])) == (2, 24)
    assert {hit["generation"] for hit in answer["hits"] if hit["id"] > "0019.png"} == {2}
    assert api.request("GET", "/info").json()["images"] == 24
    rollback(gallery_folder)
    assert len(api.search(text="red", k=100)["hits"]) == 20


def test_an_earlier_generation_can_be_searched(api: Served, gallery_folder: Path, tmp_path: Path) -> None:
    before = api.search(text="red", k=100)
    build(folder_of(tmp_path / "photos", 4, start=20), gallery_folder)
    now = api.search(text="red", k=100)
    again = api.search(text="red", k=100, generation=1)
    assert (again["generation"], now["generation"]) == (1, 2)
    assert again["hits"] == before["hits"]
    generations = api.request("GET", "/info").json()["generations"]
    assert [(each["generation"], each["images"], each["live"]) for each in generations] == [
        (2, 24, True),
        (1, 20, False),
    ]


def test_a_damaged_generation_is_not_gone_on_to(api: Served, gallery_folder: Path, tmp_path: Path) -> None:
    before = api.search(text="red")
    pointer = IndexFolder(gallery_folder).current
    whole = pointer.read_bytes()
    pointer.write_text("nonsense")
    assert api.search(text="red")["hits"] == before["hits"]
    assert "does not name a manifest" in api.request("GET", "/info").json()["problem"]
    pointer.write_bytes(whole)
    assert api.search(text="red")["hits"] == before["hits"]
    assert api.request("GET", "/info").json()["problem"] == ""


class Models:
    """Gives the old and the new model; the new one only once it may be loaded."""

    def __init__(self) -> None:
        self.loading, self.may_load = threading.Event(), threading.Event()
        self.missing = False

    def load(self, card: ModelCard) -> FakeEncoder:
        if card.digest == OLD.card.digest:
            return FakeEncoder("old-1", tokens=0)
        self.loading.set()
        assert self.may_load.wait(30)
        if self.missing:
            from cir.errors import WeightsError

            raise WeightsError("new-1: its folder is gone; bring it back")
        return FakeEncoder("new-1", tokens=0, dims=NEW.card.dims)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def old_index(tmp_path: Path) -> Path:
    """An index of twenty pictures by the old model."""
    build(folder_of(tmp_path / "old", 20), tmp_path / "old.index", FakeEncoder("old-1", tokens=0))
    return tmp_path / "old.index"


@pytest.fixture
def replaced(serve: Callable[..., Served], old_index: Path, models: Models) -> Iterator[Served]:
    yield serve(cir.Searcher(Gallery.open(old_index), models.load))
    models.may_load.set()


def coming(api: Served) -> threading.Thread:
    thread = api.service.engine._coming
    assert thread is not None
    return thread


def test_another_model_is_loaded_before_it_serves(replaced: Served, models: Models, old_index: Path) -> None:
    before = replaced.search(text="red")
    serve_new(old_index, RIDGE)
    assert replaced.search(text="red")["model"] == "old-1"
    assert models.loading.wait(30)
    assert replaced.search(text="red")["hits"] == before["hits"]
    thread = coming(replaced)
    models.may_load.set()
    thread.join(30)
    answer = replaced.search(text="red")
    assert (answer["model"], answer["generation"]) == ("new-1", 2)
    expected = cir.Searcher(Gallery.open(old_index), models.load).search(cir.Query(text="red"))
    assert ids(answer) == [hit.id for hit in expected.hits]
    assert {(hit["model"], hit["older"], hit["route"]) for hit in answer["hits"]} == {("old-1", True, "ridge")}
    info = replaced.request("GET", "/info").json()
    assert info["replaced"]
    assert [each["model"] for each in info["generations"]] == ["new-1", "old-1"]
    old = replaced.search(text="red", generation=1)
    assert old["hits"] == before["hits"]  # side by side


def test_a_model_that_is_missing_leaves_the_open_generation(replaced: Served, models: Models, old_index: Path) -> None:
    models.missing = True
    models.may_load.set()
    before = replaced.search(text="red")
    serve_new(old_index, RIDGE)
    replaced.search(text="red")
    coming(replaced).join(30)
    assert replaced.search(text="red")["hits"] == before["hits"]
    assert replaced.request("GET", "/info").json()["problem"].startswith("new-1: its folder is gone")
    models.missing = False
    serve_new(old_index, MAPPINGS[2])
    replaced.search(text="red")
    coming(replaced).join(30)
    assert replaced.search(text="red")["model"] == "new-1"
    assert replaced.request("GET", "/info").json()["problem"] == ""


def test_no_answer_mixes_two_generations(
    api: Served, gallery_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that is published while a batch is computed is that of the next one."""
    searcher = api.service.engine.searcher
    whole = searcher.search_many

    def build_meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        build(folder_of(tmp_path / "photos", 4, start=20), gallery_folder)
        return whole(*arguments, **options)

    monkeypatch.setattr(searcher, "search_many", build_meanwhile)
    answer = api.search(text="red", k=100)
    assert (answer["generation"], len(answer["hits"]), answer["searched"]) == (1, 20, 20)
    answer = api.search(text="red", k=100)
    assert (answer["generation"], len(answer["hits"]), answer["searched"]) == (2, 24, 24)


def test_the_server_looks_for_newer_generations_by_itself(api: Served, gallery_folder: Path, tmp_path: Path) -> None:
    build(folder_of(tmp_path / "photos", 4, start=20), gallery_folder)
    api.run(api.service.in_turn(api.service.engine.follow))
    assert api.request("GET", "/info").json()["images"] == 24
