"""Searching through the API: as the library answers, with the words of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.testing.commands import Run

if TYPE_CHECKING:
    from cir.testing.served import Served


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


@pytest.mark.parametrize(
    "query",
    [
        {"references": "0003.png", "text": "in red"},
        {"references": ["0003.png"]},
        {"text": "a red dress", "k": 5},
        {
            "references": ["0003.png", "./0004.png"],
            "text": "in red",
            "negatives": ["stripes"],
            "where": "season=summer",
        },
        {"text": "red", "where": {"price": {"<": 7}}, "exclude": ["0001.png"], "k": 3},
        {"text": "red", "exact": True},
    ],
)
def test_answers_are_those_of_the_library(api: Served, searcher: cir.Searcher, query: dict[str, Any]) -> None:
    answer = api.search(**query)
    arguments = {name: value for name, value in query.items() if name != "exact"}
    result = searcher.search(cir.Query(**arguments), exact=query.get("exact", False))
    assert ids(answer) == [hit.id for hit in result.hits]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in result.hits], abs=1e-6)
    assert [hit["rank"] for hit in answer["hits"]] == [hit.rank for hit in result.hits]
    assert [hit["metadata"] for hit in answer["hits"]] == [dict(hit.metadata) for hit in result.hits]
    assert (answer["searched"], answer["model"], answer["generation"]) == (20, "fake-1", 1) or "where" in query
    assert answer["confident"] is result.confident


def test_a_picture_is_sent_as_a_part_of_a_form(api: Served, searcher: cir.Searcher, tmp_path: Path) -> None:
    data = (tmp_path / "photos" / "0003.png").read_bytes()
    files = [("references", ("shirt.jpg", data, "image/jpeg")), ("references", (None, "0004.png"))]
    form = {"text": "in red", "k": "4", "negatives": ["a", "b"], "where": "price<9", "exact": "true"}
    response = api.request("POST", "/search", files=files, data=form)
    assert response.status_code == 200, response.text
    query = cir.Query([data, "0004.png"], "in red", ["a", "b"], 4, "price<9")
    expected = [hit.id for hit in searcher.search(query, exact=True).hits]
    assert ids(response.json()) == expected
    assert "0003.png" not in expected  # the same content is the reference itself
    again = response.json()["query"]
    assert "upload" in again["references"][0]
    assert ids(api.search(**again)) == expected


def test_uploads_are_kept_for_later_searches(api: Served, searcher: cir.Searcher, tmp_path: Path) -> None:
    from cir.testing.pictures import saved, shades

    other, known = saved(shades(), "JPEG"), (tmp_path / "photos" / "0005.png").read_bytes()
    response = api.request("POST", "/uploads", files=[("images", ("x", other)), ("images", ("y", known))])
    first, second = response.json()["uploads"]
    assert (first["same"], second["same"]) == ([], ["0005.png"])
    answer = api.search(references=[{"upload": first["upload"]}], text="red")
    assert ids(answer) == [hit.id for hit in searcher.search(cir.Query(other, "red")).hits]
    shown = api.request("GET", first["preview"])
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.content.startswith(b"\xff\xd8\xff")


def test_uploads_go_when_there_is_no_room(serve: Any, tmp_path: Path) -> None:
    from cir.testing.pictures import saved, shades

    api = serve(kept_uploads=1)
    pictures = [saved(shades(20 + number, 20), "PNG") for number in range(8)]
    kept = [api.request("POST", "/uploads", files=[("images", ("x", data))]).json()["uploads"][0] for data in pictures]
    gone = api.request("POST", "/search", json={"references": [{"upload": kept[0]["upload"]}]})
    assert gone.status_code == 404
    assert gone.json()["detail"] == "this upload is no longer kept; send the picture again"
    assert api.request("GET", kept[0]["preview"]).status_code == 404
    assert api.request("GET", kept[-1]["preview"]).status_code == 200


def test_endless_scroll_goes_on_where_it_was(api: Served) -> None:
    whole = api.search(text="red", k=20)
    assert not whole["more"]
    found, offset = [], 0
    while True:
        answer = api.search(text="red", k=6, offset=offset)
        found += answer["hits"]
        if not answer["more"]:
            break
        offset += 6
    assert [(hit["rank"], hit["id"]) for hit in found] == [(hit["rank"], hit["id"]) for hit in whole["hits"]]


def test_a_batch_is_answered_in_order_and_each_mistake_is_its_own(api: Served) -> None:
    queries = [
        {"text": "red", "k": 2, "id": "a"},
        {"id": "b"},
        {"references": ["nothing.png"], "id": "3"},
        {"text": "red", "where": "nothing=1"},
        {"references": ["0003.png"], "k": 1},
    ]
    answers = api.request("POST", "/search/batch", json={"queries": queries}).json()["answers"]
    assert ids(answers[0]) == ids(api.search(text="red", k=2))
    assert answers[0]["id"] == "a"
    assert [answer["problem"]["status"] for answer in answers[1:4]] == [400, 404, 400]
    assert [answer["id"] for answer in answers] == ["a", "b", "3", None, None]
    assert ids(answers[4]) == ids(api.search(references="0003.png", k=1))


def test_a_batch_with_what_is_no_query_is_refused(api: Served) -> None:
    for query, words in (({"k": "x"}, '"k" is a whole number'), ({"where": "season"}, "is not a condition")):
        refused = api.request("POST", "/search/batch", json={"queries": [{"text": "red"}, query]})
        assert refused.status_code in (400, 422)
        assert refused.json()["detail"].startswith("query 2: ")
        assert words in refused.json()["detail"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ("query", "INDEX", "-t", " ")),
        ({"text": "red", "where": "colour=red"}, ("query", "INDEX", "-t", "red", "--where", "colour=red")),
        ({"text": "red", "where": "season"}, ("query", "INDEX", "-t", "red", "--where", "season")),
        ({"text": "red", "where": "title<3"}, ("query", "INDEX", "-t", "red", "--where", "title<3")),
        ({"references": "no.png"}, ("query", "INDEX", "-i", "no.png")),
        ({"text": "red", "negatives": " "}, ("query", "INDEX", "-t", "red", "--not", " ")),
    ],
)
def test_errors_have_the_words_of_the_command_line(
    api: Served, cli: Run, gallery_folder: Path, values: dict[str, Any], words: tuple[str, ...], monkeypatch: Any
) -> None:
    monkeypatch.chdir(gallery_folder.parent)  # where the command line, too, calls the index by its name
    response = api.request("POST", "/search", json=values)
    assert response.headers["content-type"] == "application/problem+json"
    done = cli(*(gallery_folder.name if word == "INDEX" else word for word in words))
    assert done.code == 2
    assert done.err == f"cir: {response.json()['detail']}\n"


@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({"text": 3}, 422, '"text" is a string'),
        ({"text": "red", "k": "3"}, 422, '"k" is a whole number'),
        ({"text": "red", "k": 0}, 400, "k is 0"),
        ({"text": "red", "k": -(10**30)}, 400, "k is -1"),
        ({"text": "red", "k": 1001}, 422, '"k" is at most 1,000'),
        ({"text": "red", "k": 1000, "offset": 4001}, 400, "together at most 5,000"),
        ({"text": "red", "offset": -1}, 422, '"offset" is 0 or more'),
        ({"text": "red" * 1000}, 422, "more than 2,000 letters"),
        ({"references": ["0001.png"] * 11}, 422, "at most 10"),
        ({"references": [None]}, 422, '"references" is a list'),
        ({"references": [{"upload": "../x"}]}, 422, "64 hex digits"),
        ({"references": [{"upload": "0" * 64}]}, 404, "no longer kept"),
        ({"text": "red", "exact": "yes"}, 422, "true or false"),
        ({"text": "red", "generation": 99}, 400, "no generation 99 is kept; there are: 1"),
        ({"text": "red", "generation": True}, 422, "number of a generation"),
        ({"text": "red", "colour": "red"}, 422, "unknown key colour"),
        ({"text": "\udcff"}, 400, "not readable as text"),
        ({"references": ["/etc/passwd"]}, 404, "neither an image file nor an id"),
        ({"references": ["../photos/0001.png"]}, 404, "neither an image file nor an id"),
    ],
)
def test_mistakes_are_one_line(api: Served, values: dict[str, Any], status: int, words: str) -> None:
    content = json.dumps(values)
    response = api.request("POST", "/search", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    problem = response.json()
    assert words in problem["detail"]
    assert "\n" not in problem["detail"]
    assert problem["status"] == status
    assert problem["type"].startswith("urn:cir:")


def test_a_reference_is_never_a_path(api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cir.testing.fakes import paint

    paint(tmp_path / "elsewhere.png", 77)
    monkeypatch.chdir(tmp_path)
    for name in ("elsewhere.png", str(tmp_path / "elsewhere.png"), "~/elsewhere.png"):
        assert api.request("POST", "/search", json={"references": [name]}).status_code == 404


def test_no_path_of_this_machine_is_told(api: Served, tmp_path: Path) -> None:
    for method, path, options in (
        ("POST", "/search", {"json": {"text": "red"}}),
        ("POST", "/search", {"json": {"references": ["x"]}}),
        ("GET", "/info", {}),
        ("GET", "/images/nothing", {}),
    ):
        assert str(tmp_path) not in api.request(method, path, **options).text


def test_a_bad_query_leaves_those_of_its_batch_alone(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = api.service.engine.searcher
    whole = searcher.search_many

    def broken(queries: list[cir.Query], **options: Any) -> list[cir.SearchResult]:
        if any(query.text == "bug" for query in queries):
            raise ZeroDivisionError("a bug")
        return whole(queries, **options)

    monkeypatch.setattr(searcher, "search_many", broken)
    waiting = [api.begin("POST", "/search", json={"text": text}) for text in ("red", "bug", "blue")]
    red, bug, blue = (each.result(30) for each in waiting)
    assert (red.status_code, bug.status_code, blue.status_code) == (200, 500, 200)
    assert bug.json()["detail"] == "this is a bug in cir; the server's log has its traceback"
    assert "ZeroDivision" not in bug.text
