"""`cir repair`, and what other commands say about a damaged index."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir import ModelCard, import_vectors
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.writer import Writer
from cir.testing.commands import Run, mistake


@pytest.fixture
def damaged(wardrobe_index: Path, tmp_path: Path) -> Path:
    """An index of two segments of which the second, of one image, has a flipped byte."""
    copy = tmp_path / "x.index"
    shutil.copytree(wardrobe_index, copy)
    index = IndexFolder(copy)
    # The same file twice, each with its own rows.
    shutil.copytree(index.segments / "000001", index.segments / "000002")
    with writer_lock(index) as lock:
        live = read_manifest(index)
        (first,) = live.segments
        deleted = {"000001": ((0, 0),), "000002": ((1, first.rows - 1),)}
        segments = [first, replace(first, name="000002")]
        Writer(index, lock).publish(live.succeed(segments=segments, deleted=deleted), earlier=[])
    path = index.gallery("000002")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return copy


def test_a_damaged_part_is_said_everywhere(cli: Run, damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = cli("query", damaged, "-t", "red", "-k", 2)
    assert asked.code == 0
    assert asked.out.splitlines()[-1].startswith("1 images were not searched: their part of the index is damaged")
    (record,) = caplog.records  # a line on stderr
    assert (
        f"gallery.h5 contradicts its digest; restore it from a copy, or run `cir repair {damaged}`"
        in record.getMessage()
    )
    answer = cli("query", damaged, "-t", "red", "--json").json
    assert (answer["damaged"], answer["searched"]) == (1, 39)
    shown = cli("info", damaged)
    assert "damaged     1 images in segment 000002, left out: see `cir repair --dry-run`\n" in shown.out
    assert [each["name"] for each in cli("info", damaged, "--json").json["damaged"]] == ["000002"]


def test_writers_name_the_way_out(cli: Run, damaged: Path, folder: Path) -> None:
    mistake(cli("build-index", folder, "-o", damaged), f"cir repair {damaged}")
    mistake(cli("questions", damaged, "--metadata", "colour=colour"), f"cir repair {damaged}")


def test_repair(cli: Run, damaged: Path, folder: Path, tmp_path: Path) -> None:
    before = cli("query", damaged, "-t", "red", "--json").json["hits"]
    dry = cli("repair", damaged, "--dry-run")
    assert dry.code == 1
    assert "segment 000002: 1 images, 1 restored from older segments, 0 lost\n" in dry.out
    assert f"{damaged}: nothing was changed; 40 images of generation 2 would be live\n" in dry.out
    done = cli("repair", damaged)
    assert "kept: quarantine/000003-segment-000002.h5\n" in done.out
    assert f"{damaged}: generation 3, 40 images of generation 2\n" in done.out
    assert cli("verify", damaged).code == 0
    assert cli("repair", damaged).out == f"{damaged}: generation 3, 40 images, nothing to repair\n"
    after = cli("query", damaged, "-t", "red", "--json").json
    assert after["damaged"] == 0
    assert len(after["hits"]) >= len(before)
    mistake(cli("repair", tmp_path / "no.index"), "no such index")


def test_repair_of_what_is_lost(cli: Run, wardrobe_index: Path, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "x.index"
    shutil.copytree(wardrobe_index, copy)
    (copy / "segments" / "000001" / "gallery.h5").write_bytes(b"")
    mistake(cli("query", copy, "-t", "red"), f"cir repair {copy}")
    report = cli("repair", copy, "--json").json
    assert (report["lost"], report["restored"], report["images"]) == (40, 0, 0)
    line = json.loads((copy / "quarantine" / "lost.jsonl").read_text())
    assert (line["segment"], line["images"], line["id"]) == ("000001", 40, None)
    assert f"encode what is lost again: cir build-index IMAGES -o {copy}\n" not in cli("repair", copy).out
    assert cli("build-index", folder, "-o", copy).code == 0
    assert cli("query", copy, "-t", "red").code == 0


def test_imported_vectors_are_imported_again(cli: Run, tmp_path: Path) -> None:
    index = tmp_path / "v.index"
    for name in ("ab", "cde"):
        import_vectors(np.eye(8, dtype="float32")[: len(name)], index, ModelCard.named("other", 8), ids=list(name))
    shown = cli("rollback", index).out
    assert "3 images added since are not in it; `cir import` adds them" in shown
    for path in index.glob("segments/*/gallery.h5"):
        path.write_bytes(path.read_bytes()[:-1])
    told = cli("repair", index).out
    assert f"import what is lost again: cir import VECTORS -o {index}\n" in told
    assert "build-index" not in told
    assert "cir repair" not in told
