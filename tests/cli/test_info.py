"""`cir info`, `cir verify` and `cir models`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.testing.commands import Run, mistake
from cir.testing.fakes import make_index, queries_for, random_rows


def test_info_describes_an_index(cli: Run, wardrobe_index: Path, folder: Path, tmp_path: Path) -> None:
    shown = cli("info", wardrobe_index).out
    for word in ("40 in 1 segment\n", "tiny-1", "one vector of 16 dims and 4 tokens", "pattern", str(folder)):
        assert word in shown
    values = cli("info", wardrobe_index, "--json").json
    assert (values["images"], values["searched"], values["generation"]) == (40, 40, 1)
    assert (values["vectors"], values["tokens"], values["mappings"]) == (True, 4, {})
    assert [earlier["generation"] for earlier in values["generations"]] == [1]
    mistake(cli("info", tmp_path), "build-index")


def test_info_shows_what_was_measured_on_an_approximate_index(cli: Run, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rows = random_rows([f"{number:04d}" for number in range(400)], 1)
    index = make_index(tmp_path / "x.index", [rows])
    assert "approximate" not in cli("info", index).out
    gallery = Gallery.open(index, ann_min_rows=20)
    gallery.search(queries_for(gallery, "a"), RankingOptions(3))
    shown = cli("info", index)
    assert "approximate segment 000001: recall@10 at least " in shown.out
    assert "for stored queries" in shown.out
    (segment,) = cli("info", index, "--json").json["segments"]
    found = segment["approximate"]
    assert (found["recall"], found["lists"]) == (0.99, 10)
    assert ("searched exactly" in shown.out) != found["reached"]


def test_info_shows_what_was_measured_on_token_codes(cli: Run, tmp_path: Path) -> None:
    rows = random_rows([f"{number:02d}.jpg" for number in range(40)], 1, vectors=False, tokens=4)
    index = make_index(tmp_path / "x.index", [rows], 4, False)
    assert "recall@10" not in cli("info", index).out
    gallery = Gallery.open(index, ann_min_rows=160)
    gallery.search(queries_for(gallery, "a"), RankingOptions(3))
    (segment,) = cli("info", index, "--json").json["segments"]
    assert segment["approximate"]["promised"] >= 0.99
    line = next(line for line in cli("info", index).out.splitlines() if "recall@10" in line)
    assert f"recall@10 at least {segment['approximate']['promised']:.3f} (95 % lower bound; 0.99 wanted); " in line
    assert f"the tokens of {segment['approximate']['opened']:.1%} of the images are scored" in line


def test_verify_reads_every_byte(cli: Run, wardrobe_index: Path, tmp_path: Path) -> None:
    assert "40 images, 0 judged queries, no problems" in cli("verify", wardrobe_index).out
    copy = tmp_path / "copy.index"
    shutil.copytree(wardrobe_index, copy)
    gallery = copy / "segments" / "000001" / "gallery.h5"
    data = bytearray(gallery.read_bytes())
    data[-1000] ^= 1
    gallery.write_bytes(data)
    damaged = cli("verify", copy)
    assert damaged.code == 1
    assert "gallery.h5 contradicts its digest" in damaged.out
    assert "40 images, 0 judged queries, 1 problem\n" in damaged.out


def test_damaged_questions_are_reported_and_the_rest_is_shown(cli: Run, wardrobe_index: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.index"
    shutil.copytree(wardrobe_index, copy)
    (copy / "questions.zip").write_bytes(b"junk")
    shown = cli("info", copy)
    assert (shown.code, "40 in 1 segment\n" in shown.out) == (0, True)
    assert "questions.zip: cannot be read" in shown.err
    assert "questions.zip: cannot be read" in cli("verify", copy).out


def test_models_are_listed(cli: Run, tiny_model: Path) -> None:
    listed = cli("models", "--model-dir", tiny_model.parent).out
    assert "small-4 (alias small)" in listed
    assert "tiny-1" in listed
    assert [model["name"] for model in cli("models", "--json").json] == ["small-4", "small-lite-2"]


def test_an_index_of_a_newer_format_is_refused(cli: Run, wardrobe_index: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.index"
    shutil.copytree(wardrobe_index, newer)
    manifest = next((newer / "manifests").glob("*.json"))
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 99}))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    (newer / "CURRENT").write_text(f"{manifest.name} {digest}\n")
    for command in (("query", newer, "-t", "red"), ("info", newer), ("verify", newer), ("rollback", newer)):
        mistake(cli(*command), "upgrade", "99")
