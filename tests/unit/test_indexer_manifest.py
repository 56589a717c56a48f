"""Generations: what is live, what is refused, what is cleaned up."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cir.errors import CorruptIndexError, IndexFormatError, IndexVersionError, SpaceMismatchError
from cir.files import sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.manifest import (
    CURRENT,
    MANIFESTS,
    SEGMENTS,
    Manifest,
    next_generation,
    publish,
    read_manifest,
    remove_unpublished,
)

sys.path.append(str(Path(__file__).parents[1] / "crash"))
from indexer_fakes import FakeEncoder, make_index, random_rows


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path / "x.index", [random_rows(["a", "b", "c"], 1)])


def forge(index: Path, **changes: object) -> None:
    """Change the live manifest, digest and all."""
    name = (index / CURRENT).read_text().split()[0]
    values = json.loads((index / MANIFESTS / name).read_text()) | changes
    data = json.dumps({key: value for key, value in values.items() if value is not None}).encode()
    (index / MANIFESTS / name).write_bytes(data)
    (index / CURRENT).write_text(f"{name} {sha256_bytes(data)}\n")


def test_a_manifest_comes_back_as_it_was(index):
    manifest = read_manifest(index)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.generation == 1
    assert manifest.rows == 3
    assert manifest.card == FakeEncoder(tokens=0).card
    assert manifest.space.id == manifest.segments[0].space
    assert manifest.created.endswith("+00:00")
    line = (index / CURRENT).read_text()
    assert line == f"000001.json {sha256_bytes((index / MANIFESTS / '000001.json').read_bytes())}\n"


def test_generations_follow_each_other_and_old_ones_stay(index):
    publish(index, replace(read_manifest(index), generation=next_generation(index)))
    assert read_manifest(index).generation == 2
    assert (index / MANIFESTS / "000001.json").exists()


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_no_index(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    with pytest.raises(
        IndexFormatError, match=r"no such index|not an index: no CURRENT in .*; make one with `cir build"
    ):
        read_manifest(path)


def test_an_unfinished_index(tmp_path):
    (tmp_path / "work").mkdir()
    with pytest.raises(IndexFormatError, match=r"unfinished index: .* run the same `cir build-index` again"):
        Gallery.open(tmp_path)


def test_a_newer_format(index):
    forge(index, format=3)
    with pytest.raises(IndexVersionError, match=r"written by a newer cir \(format 3\); upgrade"):
        read_manifest(index)


@pytest.mark.parametrize(
    "changes",
    [{"serving": "0" * 16}, {"segments": None}, {"format": None}, {"extra": 1}, {"segments": [{}]}, {"format": "x"}],
)
def test_a_manifest_that_is_none(index, changes):
    forge(index, **changes)
    with pytest.raises(CorruptIndexError, match="is no manifest"):
        read_manifest(index)


def test_a_manifest_of_other_json(index):
    data = b"[]"
    (index / MANIFESTS / "000001.json").write_bytes(data)
    (index / CURRENT).write_text(f"000001.json {sha256_bytes(data)}")
    with pytest.raises(CorruptIndexError, match="is no manifest"):
        read_manifest(index)


def test_flipped_lost_and_garbled(index):
    path = index / MANIFESTS / "000001.json"
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b" }")
    with pytest.raises(CorruptIndexError, match=r"contradicts its digest in CURRENT"):
        read_manifest(index)
    path.unlink()
    with pytest.raises(CorruptIndexError, match="cannot be read: No such file"):
        read_manifest(index)
    (index / CURRENT).write_text("garbage")
    with pytest.raises(CorruptIndexError, match="CURRENT cannot be read"):
        read_manifest(index)


def test_a_segment_of_the_wrong_size_or_none(index):
    path = index / SEGMENTS / "000001" / "gallery.h5"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptIndexError, match=rf"has {len(data) - 1} bytes instead of {len(data)}"):
        Gallery.open(index)
    path.unlink()
    with pytest.raises(CorruptIndexError, match="is missing"):
        Gallery.open(index)


def test_a_segment_of_another_space(index):
    other = FakeEncoder("other", tokens=0).card
    manifest = read_manifest(index)
    ours = dict(manifest.to_json()["models"])
    forge(index, serving=other.digest, models={**ours, other.digest: other.to_json()})
    forge(index, spaces={})
    with pytest.raises(CorruptIndexError, match="holds other vectors than the manifest says"):
        Gallery.open(index)
    forge(index, spaces={**manifest.to_json()["spaces"], other.space.id: asdict(other.space)})
    gallery = Gallery.open(index)  # no mapping leads to what is stored: it is there, and not searched
    assert len(gallery) == manifest.rows
    assert not gallery.searchable.any()
    assert gallery.search({other.space.id: np.ones((1, other.space.dims), np.float32)}, 3) == [[]]
    with pytest.raises(SpaceMismatchError):
        gallery.search({manifest.space.id: np.ones((1, other.space.dims), np.float32)}, 3)


def test_a_manifest_of_format_1_is_read(index):
    forge(index, format=1, mappings=None)  # None leaves the key out
    assert read_manifest(index).mappings == {}
    assert len(Gallery.open(index)) == 3


def test_unpublished_segments_are_removed(index):
    (index / SEGMENTS / "000002").mkdir()
    (index / SEGMENTS / "000003.bak").mkdir()
    (index / MANIFESTS / "000009 (1).json").touch()
    remove_unpublished(index)
    assert sorted(path.name for path in (index / SEGMENTS).iterdir()) == ["000001", "000003.bak"]
    assert next_generation(index) == 2


def test_nothing_is_removed_next_to_an_unreadable_manifest(index):
    (index / SEGMENTS / "000002").mkdir()
    (index / MANIFESTS / "000003.json").write_text("{")
    remove_unpublished(index)
    assert (index / SEGMENTS / "000002").exists()
    assert next_generation(index) == 4
