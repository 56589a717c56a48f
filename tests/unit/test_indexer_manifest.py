"""Generations: what is live, what follows, what is refused, what is cleaned up."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir import __version__
from cir.errors import CorruptIndexError, IndexFormatError, IndexVersionError, SpaceMismatchError
from cir.files import sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import IndexFolder, foreign_files, is_index
from cir.indexer.storage.manifest import (
    Manifest,
    MappingEntry,
    next_generation,
    publish,
    read_manifest,
    remove_unpublished,
)
from cir.query_vectors import QueryVectors
from cir.testing.fakes import FakeEncoder, make_index, random_rows
from cir.types import ModelCard, Space


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(make_index(tmp_path / "x.index", [random_rows(["a", "b", "c"], 1)]))


def forge(folder: IndexFolder, **changes: object) -> None:
    """Change the live manifest, digest and all; None leaves a key out."""
    name = folder.current.read_text().split()[0]
    values = json.loads((folder.manifests / name).read_text()) | changes
    data = json.dumps({key: value for key, value in values.items() if value is not None}).encode()
    (folder.manifests / name).write_bytes(data)
    folder.current.write_text(f"{name} {sha256_bytes(data)}\n")


def test_a_manifest_comes_back_as_it_was(folder: IndexFolder) -> None:
    manifest = read_manifest(folder)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.generation == 1
    assert manifest.rows == 3
    assert manifest.card == FakeEncoder(tokens=0).card
    assert manifest.space.id == manifest.segments[0].space
    assert manifest.created.endswith("+00:00")
    line = folder.current.read_text()
    assert line == f"000001.json {sha256_bytes(folder.manifest(1).read_bytes())}\n"


def test_models_and_spaces_are_values_parsed_once(folder: IndexFolder) -> None:
    manifest = read_manifest(folder)
    (card,), (space,) = manifest.models.values(), manifest.spaces.values()
    assert isinstance(card, ModelCard)
    assert isinstance(space, Space)
    assert manifest.card is manifest.card is card
    assert manifest.space is manifest.space is card.space
    assert manifest.maker(space.id) is card
    with pytest.raises(KeyError):
        manifest.maker("0" * 16)
    gallery = Gallery.open(folder.root)
    assert gallery.card is gallery.manifest.card
    assert gallery.space is gallery.manifest.space


def test_the_id_of_a_space_is_computed_once(folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery.open(folder.root)
    _ = gallery.space.id

    def count(*args: object) -> object:
        pytest.fail("an id was computed again")

    monkeypatch.setattr("cir.types.hashlib.sha256", count)
    for image_id in gallery.ids:
        image = gallery.image(image_id)
        assert image.query_space == image.space == gallery.space.id == gallery.manifest.space.id
    queries = QueryVectors({gallery.space.id: np.eye(1, gallery.space.dims, dtype=np.float32)})
    assert len(gallery.search(queries, RankingOptions(3))[0]) == 3


def test_succeed_numbers_dates_and_keeps(folder: IndexFolder, tmp_path: Path) -> None:
    first = read_manifest(folder)
    before = datetime.now(UTC).replace(microsecond=0)
    second = first.succeed(folder, roots=["/photos", "/more"])
    assert (second.generation, second.previous, second.cir) == (2, 1, __version__)
    assert before <= datetime.fromisoformat(second.created) <= datetime.now(UTC)
    assert second.roots == ("/photos", "/more")
    kept = replace(second, generation=1, previous=first.previous, created=first.created, roots=first.roots)
    assert kept == first
    publish(folder, second)
    new = FakeEncoder("new-1", tokens=0, dims=8)
    new.directory = tmp_path / "models" / "new-1"
    mappings = {first.space.id: MappingEntry("m", {})}
    third = second.succeed(folder, encoder=new, mappings=mappings, deleted={"000001": (1,)}, roots=["/photos"])
    assert (third.generation, third.previous, third.serving) == (3, 2, new.card.digest)
    assert third.models == {**first.models, new.card.digest: new.card}
    assert third.spaces == {**first.spaces, new.card.space.id: new.card.space}
    assert (third.mappings, third.deleted, third.rows) == (mappings, {"000001": (1,)}, 2)
    assert third.roots == second.roots
    assert third.model_paths == {new.card.digest: str(new.directory.resolve())}
    back = first.succeed(folder, segments=[], previous=3)
    assert (back.previous, back.serving, back.segments, back.rows) == (3, first.serving, (), 0)
    assert read_manifest(folder) == second  # nothing is published by succeeding


def test_the_empty_generation(tmp_path: Path) -> None:
    card = FakeEncoder().card
    empty = Manifest.empty(card)
    assert (empty.generation, empty.rows, empty.card, empty.space) == (0, 0, card, card.space)
    first = empty.succeed(IndexFolder(tmp_path))
    assert (first.generation, first.previous, first.models) == (1, 0, {card.digest: card})


def test_generations_follow_each_other_and_old_ones_stay(folder: IndexFolder) -> None:
    publish(folder, read_manifest(folder).succeed(folder))
    assert read_manifest(folder).generation == 2
    assert folder.manifest(1).exists()


def test_deleted_rows_are_written_as_runs(folder: IndexFolder) -> None:
    manifest = replace(read_manifest(folder), deleted={"000001": (0, 1, 2, 5, 9, 10)})
    values = json.loads(json.dumps(manifest.to_json()))
    assert values["deleted"] == {"000001": [[0, 2], [5, 5], [9, 10]]}
    assert Manifest.from_json(values) == manifest


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_no_index(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    assert not is_index(path)
    with pytest.raises(
        IndexFormatError, match=r"no such index|not an index: no CURRENT in .*; make one with `cir build"
    ):
        read_manifest(IndexFolder(path))


def test_an_unfinished_index(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(IndexFormatError, match=r"unfinished index: .* run the same `cir build-index` again"):
        Gallery.open(tmp_path)


@pytest.mark.parametrize("version", [0, 2, 3])
def test_another_format_is_refused_in_one_line(folder: IndexFolder, version: int) -> None:
    forge(folder, format=version)
    with pytest.raises(
        IndexVersionError, match=rf"000001\.json has format {version}, not 1; upgrade cir-engine, or build it again"
    ) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": "0" * 16},
        {"segments": None},
        {"format": None},
        {"extra": 1},
        {"segments": [{}]},
        {"format": "x"},
        {"models": {"a": 1}},
        {"spaces": {"a": {}}},
        {"mappings": None},
        {"deleted": {"000001": [3]}},
        {"generation": "x"},
        {"previous": [1]},
        {"model_paths": []},
        {"created": 5},
    ],
)
def test_a_manifest_that_is_none(folder: IndexFolder, changes: dict[str, Any]) -> None:
    forge(folder, **changes)
    with pytest.raises(CorruptIndexError, match="is not a manifest"):
        read_manifest(folder)


def test_a_manifest_of_other_json(folder: IndexFolder) -> None:
    for data in (b"[]", b"[" * 200_000):
        folder.manifest(1).write_bytes(data)
        folder.current.write_text(f"000001.json {sha256_bytes(data)}")
        with pytest.raises(CorruptIndexError, match="is not a manifest"):
            read_manifest(folder)


@pytest.mark.parametrize("changes", [{"name": 5}, {"model": []}, {"space": []}, {"rows": "3"}, {"vectors": None}])
def test_a_segment_of_wrong_types(folder: IndexFolder, changes: dict[str, Any]) -> None:
    (segment,) = json.loads(folder.manifest(1).read_bytes())["segments"]
    forge(folder, segments=[segment | changes])
    with pytest.raises(CorruptIndexError, match="is not a manifest"):
        read_manifest(folder)


def test_flipped_lost_and_garbled(folder: IndexFolder) -> None:
    path = folder.manifest(1)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b" }")
    with pytest.raises(CorruptIndexError, match=r"contradicts its digest in CURRENT"):
        read_manifest(folder)
    path.unlink()
    with pytest.raises(CorruptIndexError, match="cannot be read: No such file"):
        read_manifest(folder)
    folder.current.write_text("garbage")
    with pytest.raises(CorruptIndexError, match="CURRENT cannot be read"):
        read_manifest(folder)


def test_a_segment_of_the_wrong_size_or_none(folder: IndexFolder) -> None:
    path = folder.gallery("000001")
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptIndexError, match=rf"has {len(data) - 1} bytes instead of {len(data)}"):
        Gallery.open(folder.root)
    path.unlink()
    with pytest.raises(CorruptIndexError, match="is missing"):
        Gallery.open(folder.root)


def test_a_segment_of_another_space(folder: IndexFolder) -> None:
    other = FakeEncoder("other", tokens=0).card
    manifest = read_manifest(folder)
    values = manifest.to_json()
    forge(folder, serving=other.digest, models={**values["models"], other.digest: other.to_json()})
    forge(folder, spaces={})
    with pytest.raises(CorruptIndexError, match="holds other vectors than the manifest says"):
        Gallery.open(folder.root)
    forge(folder, spaces={**values["spaces"], other.space.id: asdict(other.space)})
    gallery = Gallery.open(folder.root)  # no mapping reaches what is stored: it stays and is not searched
    assert len(gallery) == manifest.rows
    assert not gallery.searchable.any()
    query = np.ones((1, other.space.dims), np.float32)
    assert gallery.search(QueryVectors({other.space.id: query}), RankingOptions(3)) == [[]]
    with pytest.raises(SpaceMismatchError):
        gallery.search(QueryVectors({manifest.space.id: query}), RankingOptions(3))


def test_unpublished_segments_are_removed(folder: IndexFolder) -> None:
    (folder.segments / "000002").mkdir()
    (folder.segments / "000003.bak").mkdir()
    (folder.manifests / "000009 (1).json").touch()
    remove_unpublished(folder)
    assert sorted(path.name for path in folder.segments.iterdir()) == ["000001", "000003.bak"]
    assert next_generation(folder) == 2


def test_nothing_is_removed_next_to_an_unreadable_manifest(folder: IndexFolder) -> None:
    (folder.segments / "000002").mkdir()
    folder.manifest(3).write_text("{")
    remove_unpublished(folder)
    assert (folder.segments / "000002").exists()
    assert next_generation(folder) == 4


def test_every_path_is_in_the_folder(folder: IndexFolder) -> None:
    names = [name for name, value in vars(IndexFolder).items() if isinstance(value, property)]
    paths = [getattr(folder, name) for name in names]
    assert {path.parent for path in paths} == {folder.root}
    assert len(set(paths)) == len(paths)
    assert is_index(folder.root)
    assert foreign_files(folder) == []
    (folder.root / "thesis.tex").touch()
    assert foreign_files(folder) == ["thesis.tex"]
