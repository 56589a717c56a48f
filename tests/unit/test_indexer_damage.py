"""Damaged segments are left out and counted; nothing that is damaged goes unnoticed; digests are checked once."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest

from cir import checked
from cir.errors import CorruptIndexError, IndexFormatError
from cir.files import sha256_bytes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.verify import verify
from cir.indexer.storage import generations
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.indexer.storage.manifest import FileEntry
from cir.indexer.writing.serve import serve_model
from cir.search.searcher import Searcher
from cir.testing.fakes import Answer, FakeEncoder, answer, build, folder_of, make_index, queries_for, random_rows
from cir.types import Query

ALL = RankingOptions(100)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Segments of 6, 3 and 2 images, one of the six deleted."""
    rows = [random_rows(list("abcdef"), 1), random_rows(list("ghi"), 2), random_rows(list("jk"), 3)]
    return make_index(tmp_path / "x.index", [replace(rows[0], deleted=(2,)), *rows[1:]])


def flip(path: Path, place: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def found(gallery: Gallery) -> Answer:
    """All images that a query finds."""
    return gallery.search(queries_for(gallery, "first", "second"), ALL)


@pytest.mark.parametrize("harm", ["flipped", "shortened", "missing", "a folder"])
def test_a_damaged_segment_is_left_out(index: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = found(Gallery.open(index, strict=True))
    path = IndexFolder(index).gallery("000002")
    if harm == "flipped":
        flip(path, -1)
    elif harm == "shortened":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
        if harm == "a folder":
            path.mkdir()
    gallery = Gallery.open(index)
    assert [(each.name, each.images) for each in gallery.damaged] == [("000002", 3)]
    assert gallery.ids == list("abdefjk")
    assert found(gallery) == [[hit for hit in hits if hit[0] not in "ghi"] for hits in whole]
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert f"`cir repair {index}`; its 3 images are left out" in record.getMessage()
    with pytest.raises(CorruptIndexError, match="000002"):
        Gallery.open(index, strict=True)


def test_deleted_images_are_not_counted_as_left_out(index: Path) -> None:
    flip(IndexFolder(index).gallery("000001"), -1)
    gallery = Gallery.open(index)
    assert [each.images for each in gallery.damaged] == [5]
    result = Searcher(gallery, lambda card: FakeEncoder(tokens=0)).search(Query(text="red", k=3))
    assert (result.damaged, result.searched, result.unsearched) == (5, 5, 0)


def test_an_index_of_nothing_but_damage_is_refused(index: Path) -> None:
    for name in ("000001", "000002", "000003"):
        IndexFolder(index).gallery(name).unlink()
    with pytest.raises(CorruptIndexError, match=r"all 3 segments are damaged; the first: .*000001.* is missing"):
        Gallery.open(index)


def test_writers_refuse_a_damaged_index(tmp_path: Path) -> None:
    photos, out = folder_of(tmp_path / "photos", 6), tmp_path / "x.index"
    build(photos, out)
    flip(IndexFolder(out).gallery("000001"), -1)
    before = IndexFolder(out).current.read_bytes()
    folder_of(photos, 8)
    for write in (
        lambda: build(photos, out),
        lambda: serve_model(
            out, FakeEncoder("fake-2"), {}, unsearched=frozenset({FakeEncoder().card.space.id}), generation=1
        ),
    ):
        with pytest.raises(CorruptIndexError, match=r"gallery.h5 contradicts its digest; .*`cir repair "):
            write()
    assert IndexFolder(out).current.read_bytes() == before


def test_no_flipped_byte_is_silently_wrong(index: Path) -> None:
    """Whatever is flipped in whatever file: the answer is right, or damage is named, at opening."""
    whole = answer(index)
    rng = random.Random(7)
    files = [path for path in index.rglob("*") if path.is_file() and path.name != "LOCK"]
    assert {path.name for path in files} == {"gallery.h5", "000001.json", "CURRENT"}
    for path in files:
        data = path.read_bytes()
        for place in {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(40))}:
            flip(path, place)
            try:
                gallery = Gallery.open(index)
            except IndexFormatError:
                pass
            else:
                left_out = {name for each in gallery.damaged for name in IDS[each.name]}
                assert found(gallery) == [[hit for hit in hits if hit[0] not in left_out] for hits in whole], (
                    path,
                    place,
                )
                assert left_out or path.name == "CURRENT", (path, place)  # its last byte ends a line
            path.write_bytes(data)


IDS = {"000001": "abcdef", "000002": "ghi", "000003": "jk"}


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A record of files that takes small and new ones too, and is empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(checked, "_SETTLED", 0)


@pytest.mark.usefixtures("settled")
def test_what_a_writer_has_digested_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder_of(tmp_path / "photos", 4), tmp_path / "x.index")
    monkeypatch.setattr(checked, "sha256_file", None)
    assert len(Gallery.open(tmp_path / "x.index")) == 4


@pytest.mark.usefixtures("settled")
def test_a_segment_of_somebody_else_is_read_once(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(generations, "_LARGE", 1)
    caplog.set_level(logging.INFO, "cir")
    assert len(Gallery.open(index)) == 10
    assert sum("this is done once for each file" in record.getMessage() for record in caplog.records) == 3
    caplog.clear()
    monkeypatch.setattr(checked, "sha256_file", None)
    assert len(Gallery.open(index)) == 10
    assert not caplog.records


@pytest.mark.usefixtures("settled")
def test_verify_does_not_trust_the_record(index: Path) -> None:
    """As when a disk changes a byte by itself: nothing but reading it tells."""
    folder = IndexFolder(index)
    path = folder.gallery("000001")
    flip(path, -1)
    checked.remember_checked(path, read_manifest(folder).segments[0].files["gallery.h5"].sha256)
    assert len(Gallery.open(index, strict=True)) == 10
    (problem,) = verify(index)
    assert f"{path} contradicts its digest" in problem


def test_a_file_entry_is_the_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert FileEntry.of(tmp_path / "a") == FileEntry(3, sha256_bytes(b"abc"))


def test_a_generation_that_is_removed_while_it_is_opened(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer publishes and removes between the two steps of a reader, who then opens the newer generation."""
    folder = IndexFolder(index)
    late = make_index(index.with_name("late.index"), [random_rows(["z"], 9)])

    def lose(*given: object, **options: object) -> object:
        monkeypatch.setattr(generations, "open_segment", open_segment)
        for path in late.rglob("*"):
            if path.is_file() and path.name != "LOCK":
                (index / path.relative_to(late)).write_bytes(path.read_bytes())
        raise CorruptIndexError("it is gone")

    monkeypatch.setattr(generations, "open_segment", lose)
    assert Gallery.open(folder.root).ids == ["z"]
