"""Marks through the API: those of `cir query --judge`, and pools of two models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.marks import check_marks, read_marks
from cir.replacement.marked import marked
from cir.testing.commands import Run
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.two_models import NEW, OLD, RIDGE, serve_new

if TYPE_CHECKING:
    from cir.testing.served import Served

ABOUT = {"references": ["0003.png"], "text": " in red "}


def say(api: Served, image: str, right: bool | None, **values: Any) -> Any:
    method = "DELETE" if right is None else "PUT"
    body = {**ABOUT, "image": image, **values} | ({} if right is None else {"right": right})
    headers = {"content-type": "application/json"}
    return api.request(method, "/marks", content=json.dumps(body), headers=headers)


def judged(api: Served) -> tuple[list[str], list[str]]:
    found = api.request("POST", "/marks/of", json=ABOUT).json()
    assert found["markable"]
    return found["right"], found["wrong"]


def test_a_mark_is_kept_replaced_and_taken_back(api: Served, gallery_folder: Path) -> None:
    assert judged(api) == ([], [])
    assert say(api, "0004.png", True).json()["answered"] == 1
    say(api, "./0005.png", False)
    assert judged(api) == (["0004.png"], ["0005.png"])
    say(api, "0004.png", False)
    assert judged(api) == ([], ["0004.png", "0005.png"])
    counts = say(api, "0005.png", None).json()
    assert judged(api) == ([], ["0004.png"])
    assert (counts["marks"], counts["queries"], counts["answered"], counts["needed"]) == (1, 1, 0, 200)
    say(api, "0004.png", None)
    assert judged(api) == ([], [])
    assert api.request("GET", "/marks").json()["marks"] == 0
    kept = read_marks(IndexFolder(gallery_folder))
    assert len(kept) == 5
    assert {(mark.caption, mark.reference) for mark in kept} == {("in red", "0003.png")}
    assert {mark.models for mark in kept} == {(Gallery.open(gallery_folder).card.digest,)}
    assert [mark.withdrawn for mark in kept] == [False, False, False, True, True]
    assert not check_marks(IndexFolder(gallery_folder))


def test_marks_are_those_of_the_command_line(api: Served, cli: Run, gallery_folder: Path) -> None:
    say(api, "0004.png", True)
    say(api, "0005.png", False)
    done = cli("questions", gallery_folder, "--from-marks")
    assert done.code == 0, done.err
    assert "2 marks on hits of 1 queries, 1 with a right answer" in done.out


def test_an_upload_that_the_gallery_has_can_be_marked(api: Served, tmp_path: Path) -> None:
    files = [("images", ("x", (tmp_path / "photos" / "0003.png").read_bytes()))]
    upload = api.request("POST", "/uploads", files=files).json()["uploads"][0]["upload"]
    assert say(api, "0004.png", True, references=[{"upload": upload}]).status_code == 200
    assert judged(api) == (["0004.png"], [])


@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({"text": ""}, 400, "needs a query of a text"),
        ({"references": ["0001.png", "0002.png"]}, 400, "needs a query of a text"),
        ({"references": ["nothing.png"]}, 400, "is no image of my.index"),
        ({"references": [{"upload": "0" * 64}]}, 400, "the picture is no image of my.index"),
        ({"image": "nothing.png"}, 404, "no image"),
        ({"image": 3}, 422, '"image" is the id'),
        ({"image": "0003.png"}, 400, "the reference is no answer"),
        ({"generations": [7]}, 404, "no generation 7"),
        ({"generations": ["1"]}, 422, "number of a generation"),
        ({"generations": [None]}, 422, "a few numbers"),
        ({"right": 1}, 422, "true or false"),
        ({"negatives": ["x"]}, 422, "unknown key"),
    ],
)
def test_what_cannot_be_marked(api: Served, values: dict[str, Any], status: int, words: str) -> None:
    response = api.request("PUT", "/marks", json={**ABOUT, "image": "0004.png", "right": True, **values})
    assert response.status_code == status
    assert words in response.json()["detail"]
    assert api.request("GET", "/marks").json()["marks"] == 0


def test_a_query_that_cannot_be_marked_says_why(api: Served) -> None:
    found = api.request("POST", "/marks/of", json={"references": ["0003.png"]}).json()
    assert (found["markable"], found["right"]) == (False, [])
    assert "needs a query of a text" in found["reason"]


def test_what_marks_are_good_for(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 of 200 queries" in api.request("GET", "/marks").json()["good_for"]
    monkeypatch.setattr("cir.serve.marks.MIN_QUERIES", 1)
    say(api, "0004.png", True)
    assert "`cir questions my.index --from-marks`" in api.request("GET", "/marks").json()["good_for"]


@pytest.fixture
def replaced(serve: Callable[..., Served], tmp_path: Path) -> Served:
    """A server over an index of twenty pictures by the old model, which the new one serves."""
    build(folder_of(tmp_path / "old", 20), tmp_path / "old.index", FakeEncoder("old-1", tokens=0))
    serve_new(tmp_path / "old.index", RIDGE)
    models = {card.digest: encoder for card, encoder in ((OLD.card, OLD), (NEW.card, NEW))}
    return serve(cir.Searcher(Gallery.open(tmp_path / "old.index"), lambda card: models[card.digest]))


def test_the_first_tens_of_two_models_are_judged_together(replaced: Served) -> None:
    tens = [{hit["id"] for hit in replaced.search(text="red", generation=number)["hits"]} for number in (1, 2)]
    assert tens[0] != tens[1]
    body = {"text": "red", "generations": [1, 2]}
    pool = replaced.request("POST", "/pool", json=body).json()
    shown = [image["id"] for image in pool["images"]]
    assert set(shown) == tens[0] | tens[1]
    assert shown != sorted(shown)
    assert "score" not in json.dumps(pool)
    mark = {"text": "red", "image": shown[0], "right": True, "generations": [1, 2]}
    assert replaced.request("PUT", "/marks", json=mark).status_code == 200
    again = replaced.request("POST", "/pool", json=body).json()
    assert [image["id"] for image in again["images"]] == shown[1:]
    assert again["judged"] == 1
    (kept,) = read_marks(replaced.service.gallery.folder)
    assert set(kept.models) == {OLD.card.digest, NEW.card.digest}


def test_pools_of_a_new_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `cir replace-model --judge-pool` asks on a terminal is there for the page."""
    from cir.serve.pools import Pools
    from cir.serve.settings import Settings
    from cir.testing.served import Served

    monkeypatch.setattr("cir.replacement.pool.MIN_QUERIES", 2)
    index = tmp_path / "old.index"
    build(folder_of(tmp_path / "old", 40), index, FakeEncoder("old-1", tokens=0))

    def opened() -> cir.Searcher:
        return cir.Searcher(Gallery.open(index), lambda card: OLD)

    with Served(opened(), Settings()) as api:
        assert api.request("GET", "/pools").status_code == 404
        for reference in ("0003.png", "0004.png", "0005.png"):
            body = {"references": [reference], "text": "red", "image": "0020.png", "right": True}
            assert api.request("PUT", "/marks", json=body).status_code == 200
    pools = Pools(opened(), lambda: NEW, "new-1")
    with Served(opened(), Settings()) as api:
        api.service.pools = pools
        assert api.request("GET", "/pools").json()["state"] == "computing"
        pools.run()
        found = api.request("GET", "/pools").json()
        assert (found["state"], found["model"], len(found["pools"])) == ("ready", "new-1", 3)
        pool = found["pools"][0]
        body = {
            "references": pool["references"],
            "text": pool["text"],
            "image": pool["images"][0]["id"],
            "right": False,
        }
        assert api.request("PUT", "/marks", json={**body, "pool": True}).status_code == 200
        again = api.request("GET", "/pools").json()
        assert again["left"] == found["left"] - 1
        assert again["pools"][0]["images"] == pool["images"][1:]
        assert read_marks(IndexFolder(index))[-1].models == (OLD.card.digest, NEW.card.digest)
        assert marked(Gallery.open(index)).marks == 4


def test_pools_that_cannot_be_computed_say_why(tmp_path: Path) -> None:
    from cir.serve.pools import Pools

    index = tmp_path / "old.index"
    build(folder_of(tmp_path / "old", 10), index, FakeEncoder("old-1", tokens=0))
    pools = Pools(cir.Searcher(Gallery.open(index), lambda card: OLD), lambda: NEW, "new-1")
    pools.run()
    assert pools.state == "failed"
    assert "0 queries are marked, 200 are needed" in pools.detail
