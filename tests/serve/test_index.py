"""What the API says about the index, and the document that describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.indexer.reading.column_values import column_values
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import Rows, make_index, random_rows

if TYPE_CHECKING:
    from cir.testing.served import Served


def test_columns_offer_what_filters_need(api: Served) -> None:
    found = api.request("GET", "/columns?values=2").json()
    columns = {column.pop("name"): column for column in found["columns"]}
    assert columns["season"] == {
        "kind": "values",
        "images": 14,
        "missing": 6,
        "distinct": 2,
        "values": [{"value": "Summer", "count": 7}, {"value": "winter", "count": 7}],
        "more": 0,
        "minimum": None,
        "maximum": None,
    }
    assert (columns["price"]["kind"], columns["price"]["minimum"], columns["price"]["maximum"]) == (
        "numbers",
        0.5,
        19.5,
    )
    assert (columns["title"]["distinct"], columns["title"]["more"]) == (20, 18)
    for column, value in (("season", "Summer"), ("price", "3.50")):
        answer = api.search(text="red", k=50, where={column: value})
        assert {hit["metadata"][column] for hit in answer["hits"]} == {value}


def test_values_that_conditions_take_for_one_are_one(tmp_path: Path) -> None:
    rows = random_rows([f"{number}" for number in range(8)], 1)
    rows.metadata = [{"c": text} for text in ("Red", "red", "red", "1", "1.0", "", "RED", "blue")]
    rows.deleted = (7,)
    other = Rows(["x", "y"], rows.vectors[:2], None, [{"c": "red", "d": "only here"}, {}])
    gallery = Gallery.open(make_index(tmp_path / "i", [rows, other]))
    first, second = column_values(gallery)
    assert first.values == {"red": 5, "1": 2}
    assert (first.images, first.missing, first.minimum, first.maximum) == (7, 2, 1.0, 1.0)
    assert (second.values, second.images, second.missing) == ({"only here": 1}, 1, 8)
    for value, count in first.values.items():
        assert int(gallery.select({"c": value}).sum()) == count


def test_too_many_values_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir.indexer.reading.column_values.MOST_DISTINCT", 3)
    rows = random_rows([f"{number}" for number in range(8)], 1)
    rows.metadata = [{"text": f"word {number}", "number": str(number)} for number in range(8)]
    number, text = column_values(Gallery.open(make_index(tmp_path / "i", [rows])))
    assert (text.values, text.images, text.minimum) == (None, 8, None)
    assert (number.values, number.images) == (None, 8)


def test_the_document_describes_every_answer(api: Served, tmp_path: Path) -> None:
    """Each answer is held against the shape that the document gives for it."""
    from cir.serve import shapes

    document = api.request("GET", "/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.")
    picture = (tmp_path / "photos" / "0003.png").read_bytes()
    upload = api.request("POST", "/uploads", files=[("images", ("x", picture))]).json()["uploads"][0]
    mark = {"references": ["0003.png"], "text": "red", "image": "0004.png"}
    calls: list[tuple[str, str, str, dict[str, Any]]] = [
        ("get", "/health", "/health", {}),
        ("get", "/ready", "/ready", {}),
        ("get", "/info", "/info", {}),
        ("get", "/columns", "/columns", {}),
        ("get", "/random", "/random?n=3", {}),
        ("get", "/metadata/{image_id}", "/metadata/0001.png", {}),
        (
            "post",
            "/search",
            "/search",
            {"json": {"text": "red", "references": ["0001.png", {"upload": upload["upload"]}]}},
        ),
        ("post", "/search/batch", "/search/batch", {"json": {"queries": [{"text": "red"}, {}]}}),
        ("post", "/uploads", "/uploads", {"files": [("images", ("x", picture))]}),
        ("put", "/marks", "/marks", {"json": {**mark, "right": True}}),
        ("get", "/marks", "/marks", {}),
        ("post", "/marks/of", "/marks/of", {"json": {"references": ["0003.png"], "text": "red"}}),
        ("delete", "/marks", "/marks", {"content": json.dumps(mark), "headers": {"content-type": "application/json"}}),
        ("post", "/pool", "/pool", {"json": {"text": "red", "generations": [1]}}),
    ]
    for method, route, path, options in calls:
        response = api.request(method.upper(), path, **options)
        assert response.status_code == 200, (path, response.text)
        described = document["paths"][f"/api/v1{route}"][method]["responses"]["200"]
        name = described["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        getattr(shapes, name).model_validate(response.json(), strict=True)
        assert document["components"]["schemas"][name]
    described_routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    called = {(method, f"/api/v1{route}") for method, route, _, _ in calls}
    bytes_alone = {"/images/{image_id}", "/thumbnails/{image_id}", "/uploads/{sha256}", "/metrics", "/pools"}
    others = {("get", f"/api/v1{path}") for path in bytes_alone} | {("post", "/api/v1/explain")}
    assert described_routes - called <= others
    problem = api.request("POST", "/search", json={})
    shapes.Problem.model_validate(problem.json(), strict=True)


def test_there_is_no_page_of_documents_from_elsewhere(api: Served) -> None:
    for path in ("/docs", "/redoc", "/api/v1/docs", "/openapi.json"):
        assert api.request("GET", f"/page/..{path}").status_code == 404
        assert api.run(api._client.get(path)).status_code == 404


def test_metrics_count(api: Served) -> None:
    api.search(text="red")
    api.request("POST", "/search", json={})
    text = api.request("GET", "/metrics").text
    assert 'cir_requests_total{method="POST",route="/api/v1/search",status="200"} 1.0' in text
    assert 'cir_requests_total{method="POST",route="/api/v1/search",status="400"} 1.0' in text
    assert "cir_generation 1.0" in text
    assert "cir_images 20.0" in text
    assert "cir_batch_queries_count 2.0" in text
    assert "process_resident_memory_bytes" in text


def test_the_page_is_a_few_files_of_the_package(api: Served) -> None:
    page = api.request("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("..%2f__init__.py", "__init__.py", "../app.py", "%2e%2e%2fapp.py", "nothing.js"):
        assert api.request("GET", f"/page/{name}").status_code == 404


def test_an_index_of_which_only_the_models_name_is_known(serve: Any, tmp_path: Path) -> None:
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((30, 8))
    card = cir.ModelCard.named("clip-elsewhere", dims=8)
    cir.import_vectors(vectors, tmp_path / "clip.index", card, ids=[f"sku-{row}" for row in range(30)])
    api = serve(cir.open_index(tmp_path / "clip.index"))
    info = api.request("GET", "/info").json()
    assert (info["queries"], info["compositions"]) == (False, [])
    assert len(api.search(references="sku-3")["hits"]) == 10
    refused = api.request("POST", "/search", json={"text": "red"})
    assert refused.status_code in (409, 503)
    assert "clip-elsewhere" in refused.json()["detail"]
    assert not api.request("GET", "/metadata/sku-3").json()["photo"]
    assert api.request("GET", "/images/sku-3").status_code == 404
