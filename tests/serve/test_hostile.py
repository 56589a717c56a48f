"""Hostile requests: none is an error of ours, and nothing is read or written outside of its place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cir.testing.hostile import Hostile, hostile_requests

if TYPE_CHECKING:
    from cir.testing.served import Served

PARTS = 8
SECRET = b"root:x:0:0"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_enough_of_them() -> None:
    names = [request.name for request in hostile_requests()]
    assert len(names) >= 700
    assert not [name for name, count in Counter(names).items() if count > 1]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_hostile_request_is_an_error_of_ours(
    serve: Callable[..., Served], tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    api = serve(rate=0.0)
    before = files(tmp_path)
    for request in hostile_requests()[part::PARTS]:
        status, content = send(api, request)
        assert status < 500, request.name
        assert SECRET not in content, request.name
    after = files(tmp_path)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    kept = (str(tmp_path / "my.index.thumbnails"), str(tmp_path / "my.index" / "marks.jsonl"))
    assert not [path for path in changed if not path.startswith(kept)]
    assert api.search(text="red")["hits"]


def send(api: Served, request: Hostile) -> tuple[int, bytes]:
    response = api.request(request.method, request.path, content=request.body, headers=request.headers)
    kind = response.headers.get("content-type", "")
    if response.status_code >= 400 and request.method != "HEAD":
        assert kind == "application/problem+json", request.name
        assert json.loads(response.content)["status"] == response.status_code
    return response.status_code, response.content
