"""Repair: what is left is whole and sound, what is lost is listed and put aside, and a build brings it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cir.errors import CorruptIndexError, DataError, IndexFormatError, IndexLockedError, IndexVersionError
from cir.indexer.reading.ann import load_or_build
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage import writer as storage_writer
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.writer import Writer, writing
from cir.indexer.writing import repair as module
from cir.indexer.writing.repair import repair
from cir.testing.fakes import FakeEncoder, answer, build, contents, folder_of, make_index, random_rows
from cir.testing.two_models import OLD, RIDGE, serve_new


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Segments of 6 and 3 images, one of the six deleted."""
    rows = [random_rows(list("abcdef"), 1), random_rows(list("ghi"), 2)]
    return make_index(tmp_path / "x.index", [replace(rows[0], deleted=(2,)), rows[1]])


def flip(path: Path, place: int = -1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def again(index: Path, **changes: object) -> None:
    """Publish the live generation once more."""
    folder = IndexFolder(index)
    with writing(folder) as writer:
        writer.publish(read_manifest(folder).succeed(**changes))  # type: ignore[arg-type]


def test_a_sound_index_stays_as_it_is(index: Path) -> None:
    before = contents(index)
    report = repair(index)
    assert (report.problems, report.generation, report.images) == ((), 1, 8)
    assert contents(index) == before


def test_what_is_lost_is_listed_and_put_aside(index: Path) -> None:
    path = IndexFolder(index).gallery("000001")
    flip(path)
    damaged = path.read_bytes()
    dry = repair(index, dry_run=True)
    assert path.read_bytes() == damaged
    report = repair(index)
    assert (report.base, report.generation, report.images, report.lost, report.restored) == (1, 2, 3, 5, 0)
    assert replace(report, dry_run=True, generation=1, aside=()) == dry
    assert (report.segments[0].segment, report.segments[0].ids) == ("000001", ("a", "b", "d", "e", "f"))
    assert "gallery.h5 contradicts its digest" in report.problems[0]
    assert report.aside == ("quarantine/000002-segment-000001.h5",)
    assert (index / report.aside[0]).read_bytes() == damaged
    assert not path.exists()
    lines = [json.loads(line) for line in (index / "quarantine" / "lost.jsonl").read_text().splitlines()]
    assert lines[0] == {"generation": 2, "segment": "000001", "id": "a", "restored_from": None}
    assert len(lines) == 5
    assert verify(index) == []
    assert Gallery.open(index, strict=True).ids == list("ghi")
    assert repair(index).problems == ()


def test_a_file_that_tells_nothing(index: Path) -> None:
    IndexFolder(index).gallery("000001").write_bytes(b"")
    report = repair(index)
    assert (report.lost, report.segments[0].ids) == (5, ())
    (line,) = (index / "quarantine" / "lost.jsonl").read_text().splitlines()
    assert json.loads(line)["images"] == 5
    assert verify(index) == []


def test_a_build_encodes_what_was_lost_and_nothing_else(tmp_path: Path) -> None:
    photos, out = folder_of(tmp_path / "photos", 6), tmp_path / "x.index"
    build(photos, out)
    again(out, segments=[], deleted={})  # the second segment starts afresh, and absorbs nothing
    build(folder_of(photos, 8), out)
    with writing(IndexFolder(out)) as writer:
        Writer.publish(writer, read_manifest(IndexFolder(out)), earlier=[])
    whole = answer(out)
    entry = read_manifest(IndexFolder(out)).segments[0]
    flip(IndexFolder(out).gallery(entry.name))
    assert repair(out).lost == 8
    encoder = FakeEncoder()
    assert len(build(photos, out, encoder).added) == 8
    assert encoder.encoded == 8
    assert answer(out) == whole
    assert verify(out) == []


def test_images_come_back_from_older_segments(tmp_path: Path) -> None:
    """A change of metadata writes rows again; the rows before are still in the segment of an older generation."""
    photos, out = folder_of(tmp_path / "photos", 6), tmp_path / "x.index"
    build(photos, out)
    whole = answer(out)
    build(photos, out, metadata={"0001.png": {"colour": "red"}, "0002.png": {"colour": "blue"}})
    before = read_manifest(IndexFolder(out))
    newest = before.segments[-1]
    held = len(open_segment(IndexFolder(out), newest))
    flip(IndexFolder(out).gallery(newest.name))
    report = repair(out)
    assert (report.restored, report.lost, report.images) == (held, 0, 6)
    assert verify(out) == []
    assert answer(out) == whole
    encoder = FakeEncoder()
    assert build(photos, out, encoder).added == []
    assert encoder.encoded == 0


def test_damage_to_earlier_generations_alone(index: Path) -> None:
    folder = IndexFolder(index)
    again(index, segments=read_manifest(folder).segments[1:], deleted={})
    again(index)
    flip(folder.gallery("000001"))
    assert len(verify(index)) == 1
    report = repair(index)
    assert (report.forgotten, report.lost, report.images) == ((1,), 0, 3)
    assert [earlier.generation for earlier in read_manifest(folder).earlier] == [3, 2]
    assert verify(index) == []


def lose_pointer(folder: IndexFolder) -> None:
    """As when a file was deleted by mistake."""
    folder.current.unlink()


def garble_pointer(folder: IndexFolder) -> None:
    """As when a disk has written something else."""
    folder.current.write_bytes(b"\0" * 80)


def flip_manifest(folder: IndexFolder) -> None:
    """A digit of a number: still a manifest, but not the one that was published."""
    path = folder.manifest(2)
    path.write_bytes(path.read_bytes().replace(b'"keep":20', b'"keep":21'))


def lose_manifest(folder: IndexFolder) -> None:
    """As when a file was deleted by mistake."""
    folder.manifest(2).unlink()


@pytest.mark.parametrize(
    ("harm", "base", "images"),
    [(lose_pointer, 2, 3), (garble_pointer, 2, 3), (flip_manifest, 1, 8), (lose_manifest, 1, 8)],
)
def test_the_newest_sound_generation_is_restored(
    index: Path, harm: Callable[[IndexFolder], None], base: int, images: int
) -> None:
    folder = IndexFolder(index)
    again(index, segments=read_manifest(folder).segments[1:], deleted={})
    harm(folder)
    with pytest.raises(IndexFormatError, match="cir repair"):
        Gallery.open(index)
    report = repair(index)
    assert (report.base, report.images) == (base, images)
    assert report.generation == 3
    assert report.problems[0]
    assert verify(index) == []
    assert len(Gallery.open(index, strict=True)) == images
    assert [earlier.generation for earlier in read_manifest(folder).earlier] == [*range(base, 0, -1)]
    again(index)
    assert verify(index) == []


def test_without_a_pointer_a_generation_whose_segments_are_gone_is_passed_over(index: Path) -> None:
    folder = IndexFolder(index)
    again(index, segments=read_manifest(folder).segments[:1])
    entry = read_manifest(folder).segments[0]
    ghost = replace(read_manifest(folder), generation=3, segments=(replace(entry, name="000009"),), deleted={})
    folder.manifest(3).write_text(json.dumps(ghost.to_json()))
    folder.current.unlink()
    assert (repair(index).base, len(Gallery.open(index))) == (2, 5)


def test_no_manifest_left(index: Path) -> None:
    IndexFolder(index).manifest(1).write_text("{")
    with pytest.raises(
        CorruptIndexError, match=r"none of its manifests can be read, .*; restore the index from a copy"
    ):
        repair(index)


def test_no_index(tmp_path: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(IndexFormatError, match="no such index"):
            repair(tmp_path / "x.index", dry_run=dry_run)
    assert not (tmp_path / "x.index").exists()


def test_an_index_of_another_version(index: Path) -> None:
    folder = IndexFolder(index)
    values = json.loads(folder.manifest(1).read_bytes()) | {"format": 1}
    folder.manifest(1).write_text(json.dumps(values))
    folder.current.unlink()
    with pytest.raises(IndexVersionError):
        repair(index)


def test_another_writer(index: Path) -> None:
    with writer_lock(IndexFolder(index)), pytest.raises(IndexLockedError):
        repair(index)


@pytest.mark.parametrize("name", ["ann.faiss", "ann.json"])
def test_derived_files_are_made_again(tmp_path: Path, name: str) -> None:
    pytest.importorskip("faiss")
    index = make_index(tmp_path / "large.index", [random_rows([f"{number:02}" for number in range(20)], 1)])
    folder = IndexFolder(index)
    (entry,) = read_manifest(folder).segments
    segment = open_segment(folder, entry)
    assert segment.vectors is not None
    load_or_build(segment.path.parent, entry.files["gallery.h5"].sha256, segment.vectors)
    flip(segment.path.parent / name, 7)
    assert repair(index, dry_run=True).remade == ("segments/000001/ann.faiss",)
    report = repair(index, ann_min_rows=20)
    assert (report.generation, report.lost, report.remade) == (1, 0, ("segments/000001/ann.faiss",))
    assert (segment.path.parent / "ann.faiss").exists()
    assert verify(index) == []
    flip(segment.path.parent / name, 7)
    report = repair(index, ann_min_rows=21)
    assert (report.remade, report.removed) == ((), ("segments/000001/ann.faiss",))
    assert not (segment.path.parent / "ann.faiss").exists()


def test_judged_queries_that_are_damaged_are_put_aside(index: Path) -> None:
    IndexFolder(index).questions.write_bytes(b"PK garbage")
    report = repair(index)
    assert report.aside == ("quarantine/000002-questions.zip",)
    assert (report.generation, verify(index)) == (1, [])


@pytest.mark.parametrize("step", ["_put_aside", "_write_lost", "remove_unreachable", "build_derived"])
def test_an_interrupted_repair_can_be_repeated(index: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    damaged = IndexFolder(index).gallery("000001")
    flip(damaged)
    data = damaged.read_bytes()

    def fail(*given: object) -> None:
        raise DataError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(module, step, fail)
        with pytest.raises(DataError):
            repair(index)
    assert Gallery.open(index).ids == list("ghi")
    repair(index)
    assert verify(index) == []
    assert not damaged.exists(), "left over, named by no generation"
    assert (index / "quarantine" / "000002-segment-000001.h5").read_bytes() == data
    assert len((index / "quarantine" / "lost.jsonl").read_text().splitlines()) == 5


def test_a_repair_that_stopped_before_its_last_step_does_the_same_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(IndexFolder(index).gallery("000001"))
    real = storage_writer.write_bytes

    def fail(path: Path, data: bytes) -> None:
        if path.name == "CURRENT":
            raise DataError("disk full")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage_writer, "write_bytes", fail)
        with pytest.raises(DataError):
            repair(index)
    assert IndexFolder(index).manifest(2).exists()
    report = repair(index)
    assert report.generation == 2
    assert {path.name for path in (index / "quarantine").iterdir()} == {"000002-segment-000001.h5", "lost.jsonl"}
    assert len((index / "quarantine" / "lost.jsonl").read_text().splitlines()) == 5


def test_what_a_lost_mapping_derived_goes_with_it(tmp_path: Path) -> None:
    index = tmp_path / "x.index"
    build(folder_of(tmp_path / "photos", 6), index, OLD)
    serve_new(index, RIDGE)
    Gallery.open(index)  # maps the vectors
    assert list(index.glob("segments/000001/*/mapped.npy"))
    (array,) = index.glob("mappings/*.safetensors")
    flip(array)
    assert str(array) in verify(index)[0]
    report = repair(index)
    assert (report.lost, report.images) == (0, 6)
    assert verify(index) == []
