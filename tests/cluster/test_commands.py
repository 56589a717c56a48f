"""`--ray` of build-index, backfill and evaluate: what the commands say and leave is what they do without it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from cir.files import sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.writer import writing
from cir.testing.commands import Run, mistake

OVER = ("--ray", "local", "--processes", 2)


def segments(out: Path) -> list[str]:
    """Digests of the segment files of the live generation."""
    folder = IndexFolder(out)
    return [sha256_file(folder.gallery(entry.name)) for entry in read_manifest(folder).segments]


def same_rows(first: Path, second: Path) -> bool:
    """Whether two indexes have the same ids and metadata, and vectors within 1e-3."""
    one, two = Gallery.open(first), Gallery.open(second)
    assert list(one.ids) == list(two.ids)
    pairs = [(one.image(name), two.image(name)) for name in one.ids]
    return all(a.metadata == b.metadata and np.allclose(a.vector, b.vector, atol=1e-3) for a, b in pairs)


def test_build(cli: Run, cluster: Any, wardrobe_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    one, many, usual = tmp_path / "one.index", tmp_path / "many.index", tmp_path / "usual.index"
    table = wardrobe_folder / "wardrobe.csv"
    words = ["build-index", wardrobe_folder, "--model", tiny_model, "--metadata", table, "--workers", 1]
    cut = ["--segment-rows", 16]
    assert cli(*words, *cut, "-o", one).code == 0
    done = cli(*words, *cut, "-o", many, *OVER, "--json")
    assert done.code == 0, done.err
    assert done.json["total"] == 40
    assert done.err == ""
    assert len(segments(many)) == 3
    assert segments(many) == segments(one)
    assert cli(*words, "-o", usual).code == 0
    assert same_rows(many, usual)


@pytest.mark.long
def test_backfill(
    cli: Run,
    cluster: Any,
    wardrobe_folder: Path,
    tiny_model: Path,
    make_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from cir.models import load_model

    newer = make_model(tmp_path / "tiny-2", seed=5)
    photos = Path(shutil.copytree(wardrobe_folder / "images", tmp_path / "photos"))
    out = {name: tmp_path / f"{name}.index" for name in ("one", "many")}
    for index in out.values():
        assert cli("build-index", photos, "--model", tiny_model, "-o", index).code == 0
        with writing(IndexFolder(index)) as writer:
            writer.publish(read_manifest(writer.folder).succeed(card=load_model(newer).card))
    (photos / "00003.jpg").unlink()
    words = ["--part", 30, "--model-dir", tmp_path, "--json"]
    one, many = cli("backfill", out["one"], *words), cli("backfill", out["many"], *words, *OVER)
    assert (one.code, many.code) == (0, 0), many.err
    assert (many.json["done"], many.json["left"], many.json["generation"]) == (39, 1, one.json["generation"])
    assert many.json["skipped"] == one.json["skipped"]
    assert same_rows(out["one"], out["many"])
    assert not (out["many"] / "work").exists()


@pytest.mark.long
def test_evaluate(cli: Run, cluster: Any, tiny_model: Path, tmp_path: Path, wardrobe_folder: Path) -> None:
    queries = [
        {"id": str(n), "reference": f"images/{n + 1:05d}.jpg", "caption": "red", "targets": [f"images/{n + 2:05d}.jpg"]}
        for n in range(5)
    ]
    file = tmp_path / "queries.jsonl"
    file.write_text("".join(json.dumps(query) + "\n" for query in queries))
    words = ["evaluate", "jsonl", "--data-root", wardrobe_folder, "--queries", file, "--model", tiny_model, "--json"]
    one, many = cli(*words), cli(*words, *OVER)
    assert many.code == 0, many.err
    first, second = one.json, many.json
    assert {key for key in first if first[key] != second[key]} <= {"seconds"}


def test_mistakes(
    cli: Run, wardrobe_folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["build-index", wardrobe_folder, "--model", tiny_model, "-o", tmp_path / "x.index"]
    mistake(cli(*words, "--processes", 2), "--processes is for --ray")
    mistake(cli(*words, "--ray", "local", "--dry-run"), "leave out --ray")
    mistake(cli(*words, "--ray", "nowhere"), "HOST:PORT")
    mistake(cli(*words, "--ray", "127.0.0.1:99999"), "not a port")
    with socket.socket() as taken:  # bound, and listening to nobody
        taken.bind(("127.0.0.1", 0))
        mistake(cli(*words, "--ray", f"127.0.0.1:{taken.getsockname()[1]}"), "no Ray cluster answers")
    monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        mistake(cli(*words, "--ray", f"127.0.0.1:{other.server_port}"), "is no Ray cluster; give the port of the head")
        other.shutdown()
    monkeypatch.setitem(sys.modules, "ray", None)
    mistake(cli(*words, "--ray", "local"), "pip install 'cir-engine[ray]'")
    assert not (tmp_path / "x.index").exists()
