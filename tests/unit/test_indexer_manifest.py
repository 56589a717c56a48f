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
from cir.indexer.storage.generations import files_of_earlier, read_earlier, read_manifest
from cir.indexer.storage.manifest import EarlierGeneration, Manifest, MappingEntry, kept, runs_of
from cir.indexer.storage.writer import writing
from cir.query_vectors import QueryVectors
from cir.testing.fakes import FakeEncoder, build, folder_of, make_index, random_rows
from cir.types import ModelCard, Space


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(make_index(tmp_path / "x.index", [random_rows(["a", "b", "c"], 1)]))


def publish(folder: IndexFolder, manifest: Manifest) -> Manifest:
    """Publish as a writer does."""
    with writing(folder) as writer:
        return writer.publish(manifest)


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

    monkeypatch.setattr("cir.model_card.hashlib.sha256", count)
    for image_id in gallery.ids:
        image = gallery.image(image_id)
        assert image.query_space == image.space == gallery.space.id == gallery.manifest.space.id
    queries = QueryVectors({gallery.space.id: np.eye(1, gallery.space.dims, dtype=np.float32)})
    assert len(gallery.search(queries, RankingOptions(3))[0]) == 3


def test_generations_are_numbered_dated_and_linked(folder: IndexFolder) -> None:
    first = read_manifest(folder)
    digest = sha256_bytes(folder.manifest(1).read_bytes())
    before = datetime.now(UTC).replace(microsecond=0)
    changed = first.succeed(roots=["/photos", "/more"])
    assert (changed.generation, read_manifest(folder)) == (0, first)  # nothing is published by succeeding
    second = publish(folder, changed)
    assert (second.generation, second.previous, second.cir) == (2, 1, __version__)
    assert second.earlier == (EarlierGeneration(1, digest, first.serving),)
    assert before <= datetime.fromisoformat(second.created) <= datetime.now(UTC)
    assert second.roots == ("/photos", "/more")
    assert read_manifest(folder) == second
    assert read_earlier(folder, second.earlier[0]) == first
    segments = {entry.name for entry in first.segments}
    mappings = {name for mapping in first.mappings.values() for name in mapping.files}
    assert files_of_earlier(folder, second.earlier[0]) == (segments, mappings)
    new = FakeEncoder("new-1", tokens=0, dims=8)
    reached = {first.space.id: MappingEntry(f"{'a' * 16}--{'b' * 16}-{'c' * 8}", {})}
    third = publish(folder, second.succeed(card=new.card, mappings=reached, deleted={"000001": ((1, 1),)}))
    assert (third.generation, third.previous, third.serving) == (3, 2, new.card.digest)
    assert third.models == {**first.models, new.card.digest: new.card}
    assert third.spaces == {**first.spaces, new.card.space.id: new.card.space}
    assert (third.mappings, third.rows, third.roots) == (reached, 2, second.roots)
    back = publish(folder, first.succeed(segments=[]))
    assert (back.generation, back.previous, back.serving, back.rows) == (4, 3, first.serving, 0)
    assert [entry.generation for entry in back.earlier] == [3, 2, 1]


def test_the_empty_generation() -> None:
    card = FakeEncoder().card
    empty = Manifest.empty(card)
    assert (empty.generation, empty.previous, empty.rows, empty.card, empty.space) == (0, 0, 0, card, card.space)


def test_deleted_rows_are_runs(folder: IndexFolder) -> None:
    manifest = read_manifest(folder)
    assert runs_of(np.array([0, 1, 2, 5, 9, 10])) == ((0, 2), (5, 5), (9, 10))
    assert runs_of(np.array([], np.int64)) == ()
    fewer = replace(manifest, deleted=manifest.without({"000001": [0, 1]}))
    assert fewer.deleted == {"000001": ((0, 1),)}
    assert fewer.live_rows(fewer.segments[0]).tolist() == [False, False, True]
    assert fewer.rows == 1
    assert fewer.without({"000001": [2]}) == {"000001": ((0, 2),)}


def test_which_earlier_generations_are_kept() -> None:
    def numbers(models: str, keep: int) -> list[int]:
        """Models of generations 1, 2, ..., the last one live -> numbers that are kept."""
        earlier = [EarlierGeneration(place, "", model) for place, model in enumerate(models[:-1], start=1)]
        return [entry.generation for entry in kept(earlier[::-1], models[-1], keep)]

    assert numbers("aaaaaa", 3) == [5, 4, 3]
    assert numbers("aaaaaa", 1) == [5]
    assert numbers("a", 3) == []
    # A replacement at 4, and a backfill of many parts: both sides of the change stay.
    assert numbers("aaabbbbbb", 2) == [8, 7, 4, 3]
    assert numbers("abcccccc", 1) == [7, 3, 2, 1]


def test_generations_that_are_not_kept_go_with_their_segments(folder: IndexFolder) -> None:
    manifest = read_manifest(folder)
    publish(folder, manifest.succeed(segments=[], keep=2))
    for _ in range(3):
        publish(folder, read_manifest(folder))
    assert sorted(path.stem for path in folder.manifests.iterdir()) == ["000002", "000003", "000004", "000005"]
    publish(folder, read_manifest(folder))
    assert not (folder.segments / "000001").exists()
    assert [entry.generation for entry in read_manifest(folder).earlier] == [5, 4]


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_no_index(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    assert not is_index(path)
    with pytest.raises(IndexFormatError, match=r"no such index|not an index.*; make one with `cir build"):
        read_manifest(IndexFolder(path))


def test_an_unfinished_index(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(IndexFormatError, match=r"unfinished index: .* run the same `cir build-index` again"):
        Gallery.open(tmp_path)


@pytest.mark.parametrize("version", [0, 2, 4])
def test_another_format_is_refused_in_one_line(folder: IndexFolder, version: int) -> None:
    forge(folder, format=version)
    with pytest.raises(
        IndexVersionError, match=rf"000001\.json has format {version}, not 3; upgrade cir-engine, or build it again"
    ) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": "0" * 16},
        {"extra": 1},
        {"segments": [{}]},
        {"models": {"a": 1}},
        {"spaces": {"a": {}}},
        {"deleted": {"000001": [3]}},
        {"deleted": {"000001": [[0, 3]]}},
        {"deleted": {"000001": [[-1, 1]]}},
        {"deleted": {"000001": [[0, 1], [1, 2]]}},
        {"deleted": {"000001": [[0, 10**30]]}},
        {"deleted": {"000002": [[0, 0]]}},
        {"generation": "x"},
        {"earlier": [1]},
        {"earlier": [{"generation": 7, "sha256": "", "serving": ""}]},
        {"keep": True},
        {"created": 5},
        {"mappings": {"a": {"name": "../../outside", "files": {}}}},
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


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 5},
        {"name": "../../outside"},
        {"model": []},
        {"space": []},
        {"rows": "3"},
        {"rows": -3},
        {"vectors": None},
        {"files": {}},
        {"files": {"../x": {"bytes": 1, "sha256": ""}}},
    ],
)
def test_a_segment_of_wrong_types(folder: IndexFolder, changes: dict[str, Any]) -> None:
    (segment,) = json.loads(folder.manifest(1).read_bytes())["segments"]
    forge(folder, segments=[segment | changes])
    with pytest.raises(CorruptIndexError, match="is not a manifest"):
        read_manifest(folder)


def test_flipped_lost_and_garbled(folder: IndexFolder) -> None:
    path = folder.manifest(1)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b" }")
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        read_manifest(folder)
    path.unlink()
    with pytest.raises(CorruptIndexError, match=r"is missing, which .*CURRENT names"):
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
    with pytest.raises(CorruptIndexError, match="a space or model that is not described"):
        Gallery.open(folder.root)
    forge(folder, spaces={**values["spaces"], other.space.id: asdict(other.space)})
    gallery = Gallery.open(folder.root)  # no mapping reaches what is stored: it stays and is not searched
    assert len(gallery) == manifest.rows
    assert gallery.searched() == (0, len(gallery))
    query = np.ones((1, other.space.dims), np.float32)
    assert gallery.search(QueryVectors({other.space.id: query}), RankingOptions(3)) == [[]]
    with pytest.raises(SpaceMismatchError):
        gallery.search(QueryVectors({manifest.space.id: query}), RankingOptions(3))


def test_what_was_never_published_is_removed(folder: IndexFolder) -> None:
    """As after a kill between the manifest and `CURRENT`."""
    live = read_manifest(folder)
    (folder.segments / "000002").mkdir()
    (folder.segments / "000003.bak").mkdir()
    (folder.manifests / "000009 (1).json").touch()
    folder.mappings.mkdir()
    (folder.mappings / "left.json").touch()
    ghost = replace(live, generation=2, earlier=(EarlierGeneration(1, "0" * 64, live.serving),))
    folder.manifest(2).write_text(json.dumps(ghost.to_json()))
    (folder.root / ".tmp-1-x").touch()
    with writing(folder):
        pass
    assert sorted(path.name for path in folder.segments.iterdir()) == ["000001", "000003.bak"]
    assert sorted(path.name for path in folder.manifests.iterdir()) == ["000001.json", "000009 (1).json"]
    assert not list(folder.mappings.iterdir())
    assert not (folder.root / ".tmp-1-x").exists()
    assert publish(folder, live).generation == 2


@pytest.mark.parametrize("live", [True, False])
def test_no_segment_is_removed_next_to_an_unreadable_manifest(folder: IndexFolder, live: bool) -> None:
    publish(folder, read_manifest(folder))
    (folder.segments / "000002").mkdir()
    folder.manifest(2 if live else 1).write_text("{")
    with writing(folder):
        pass
    assert (folder.segments / "000002").exists()


def test_a_lost_pointer_is_not_an_index_that_was_never_built(folder: IndexFolder, tmp_path: Path) -> None:
    folder.current.unlink()
    for step in (lambda: read_manifest(folder), lambda: build(folder_of(tmp_path / "photos", 2), folder.root)):
        with pytest.raises(IndexFormatError, match=r"has lost its CURRENT, which says what is live; .*`cir repair "):
            step()
    assert (folder.segments / "000001").exists()


def test_every_path_is_in_the_folder(folder: IndexFolder) -> None:
    names = [name for name, value in vars(IndexFolder).items() if isinstance(value, property)]
    paths = [path for name in names if isinstance(path := getattr(folder, name), Path)]
    assert {path.parent for path in paths} == {folder.root}
    assert len(set(paths)) == len(paths)
    assert is_index(folder.root)
    assert foreign_files(folder) == []
    (folder.root / "thesis.tex").touch()
    assert foreign_files(folder) == ["thesis.tex"]
