"""Building: what becomes of every image, from run to run."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir.errors import (
    DataError,
    IndexFormatError,
    IndexLockedError,
    MissingImageError,
    SpaceMismatchError,
    UsageError,
)
from cir.images import open_image, scan
from cir.indexer.writing.build import build_index
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.manifest import SEGMENTS, open_segment, read_manifest
from cir.indexer.reading.verify import verify

sys.path.append(str(Path(__file__).parents[1] / "crash"))
from indexer_fakes import DIMS, TOKENS, FakeEncoder, answer, build, folder_of, paint


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", 20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "below" / "x.index"


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_first_build(photos, out):
    encoder = FakeEncoder()
    seen = []
    report = build(photos, out, encoder, progress=lambda done, total: seen.append((done, total)))
    assert report.added == [f"{number:04d}.png" for number in range(20)]
    assert (report.total, report.generation, report.resumed, report.skipped) == (20, 1, 0, [])
    assert encoder.encoded == 20
    assert max(encoder.batches) <= 4
    assert seen == [(done, 20) for done in range(4, 21, 4)]
    assert report.images_per_second > 0
    assert report.bytes_per_image > 2 * DIMS * (1 + TOKENS)
    assert report.decode_seconds > 0
    assert report.encode_seconds > 0
    assert json.loads(json.dumps(report.to_json()))["path"] == str(out)
    assert verify(out) == []
    assert sorted(path.name for path in out.iterdir()) == ["CURRENT", "LOCK", "manifests", "segments", "skipped.jsonl"]
    manifest = read_manifest(out)
    assert manifest.roots == (str(photos.resolve()),)
    gallery = Gallery.open(out)
    assert gallery.file("0003.png").read() == (photos / "0003.png").read_bytes()
    shutil.rmtree(photos)
    with pytest.raises(MissingImageError):
        gallery.file("0003.png")


def test_the_answer_depends_on_neither_lanes_nor_batches_nor_parts(photos, tmp_path):
    answers = []
    for number, options in enumerate(
        [
            {"workers": 1, "batch_size": 1, "part_rows": 1},
            {"workers": 5, "batch_size": 3},
            {"batch_size": 100, "workers": None},
        ]
    ):
        build(photos, tmp_path / f"{number}.index", **options)
        answers.append(answer(tmp_path / f"{number}.index"))
    assert answers[0] == answers[1] == answers[2]


def test_nothing_changed_nothing_written(photos, out):
    build(photos, out)
    before = snapshot(out)
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert (len(report.unchanged), report.generation, encoder.encoded) == (20, 1, 0)
    assert not report.added
    after = snapshot(out)
    before.pop("LOCK")
    after.pop("LOCK")
    assert after == before


def test_added_updated_renamed_and_missing(photos, out):
    build(photos, out)
    paint(photos / "0100.png", 100)
    paint(photos / "0001.png", 101)
    (photos / "0002.png").rename(photos / "moved.png")
    (photos / "0003.png").unlink()
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert report.added == ["0100.png"]
    assert report.updated == ["0001.png"]
    assert report.renamed == [("0002.png", "moved.png")]
    assert report.missing == ["0003.png"]
    assert len(report.unchanged) == 17
    assert (report.total, report.generation, encoder.encoded) == (21, 2, 2)
    gallery = Gallery.open(out)
    assert "0002.png" not in gallery
    assert "0003.png" in gallery
    assert verify(out) == []
    fresh = out.with_name("fresh.index")
    paint(photos / "0003.png", 3)
    build(photos, fresh)
    assert answer(out) == answer(fresh)


def test_pruning_forgets_the_missing(photos, out):
    build(photos, out)
    (photos / "0003.png").unlink()
    build(photos, out)
    report = build(photos, out, prune=True)
    assert (report.missing, report.total, report.generation) == (["0003.png"], 19, 2)
    assert "0003.png" not in Gallery.open(out)
    assert verify(out) == []


def test_a_segment_without_live_rows_leaves_the_manifest(photos, out):
    build(photos, out)
    for number in range(20):
        paint(photos / f"{number:04d}.png", 500 + number)
    report = build(photos, out)
    assert len(report.updated) == 20
    manifest = read_manifest(out)
    assert [entry.name for entry in manifest.segments] == ["000002"]
    assert manifest.deleted == {}
    assert (out / SEGMENTS / "000001").exists()


def test_the_same_content_is_encoded_once(photos, out):
    for number in range(8):
        shutil.copy(photos / "0000.png", photos / f"twin{number}.png")
    encoder = FakeEncoder()
    assert build(photos, out, encoder).total == 28
    assert encoder.encoded == 20
    shutil.copy(photos / "0005.png", photos / "late twin.png")
    report = build(photos, out, encoder)
    assert (report.added, encoder.encoded) == (["late twin.png"], 20)
    gallery = Gallery.open(out)
    np.testing.assert_array_equal(gallery.vector("late twin.png"), gallery.vector("0005.png"))
    twin = hashlib.sha256((photos / "0005.png").read_bytes()).digest()
    assert gallery.ids_of(twin) == ["0005.png", "late twin.png"]
    assert gallery.ids_of(bytes(32)) == []
    (photos / "0005.png").unlink()
    build(photos, out, prune=True)
    assert Gallery.open(out).ids_of(twin) == ["late twin.png"]


def test_where_the_model_lay_is_kept(photos, out, tmp_path):
    encoder = FakeEncoder()
    build(photos, out, encoder)
    assert Gallery.open(out).model_path is None
    encoder.directory = tmp_path / "models" / "fake-1"  # type: ignore[attr-defined]
    paint(photos / "new.png", 64)
    build(photos, out, encoder)
    assert Gallery.open(out).model_path == str((tmp_path / "models" / "fake-1").resolve())


def test_a_second_folder_leaves_the_first_alone(photos, out, tmp_path):
    build(photos, out)
    more = folder_of(tmp_path / "more", 5, 50)
    report = build(more, out)
    assert (len(report.added), report.missing, report.total) == (5, [], 25)
    assert read_manifest(out).roots == (str(photos.resolve()), str(more.resolve()))
    assert Gallery.open(out).root("0050.png") == str(more.resolve())


def test_a_second_folder_with_the_same_names_replaces_nothing(photos, out, tmp_path):
    build(photos, out)
    before = answer(out)
    other = folder_of(tmp_path / "other", 0)
    paint(other / "0001.png", 900)
    shutil.copy(photos / "0002.png", paint(other / "0002.png", 0))
    report = build(other, out)
    assert [image_id for image_id, _ in report.skipped] == ["0001.png"]
    assert "belongs to an image of" in report.skipped[0][1]
    assert report.unchanged == ["0002.png"]
    assert report.generation == 1
    assert answer(out) == before
    # The remedy that the reason names: both at once, with the folder's name before the id. Nothing is encoded again.
    encoder = FakeEncoder()
    report = build([photos, other], out, encoder)
    assert len(report.renamed) == 20
    assert report.added == ["other/0001.png", "other/0002.png"]
    assert ("0002.png", "photos/0002.png") in report.renamed
    assert (encoder.encoded, report.missing, report.total) == (1, [], 22)


def test_a_folder_that_moved(photos, out, tmp_path):
    build(photos, out, metadata={"0000.png": {"colour": "red"}})
    moved = photos.rename(tmp_path / "elsewhere")
    paint(moved / "0001.png", 901)
    (moved / "0002.png").unlink()
    encoder = FakeEncoder()
    report = build(moved, out, encoder)
    assert (len(report.unchanged), report.updated, report.missing) == (18, ["0001.png"], ["0002.png"])
    assert encoder.encoded == 1
    gallery = Gallery.open(out)
    assert gallery.root("0000.png") == str(moved.resolve())
    assert gallery.metadata("0000.png") == {"colour": "red"}
    assert build(moved, out).generation == report.generation


def test_one_image_of_an_indexed_folder_makes_the_others_not_missing(photos, out):
    build(photos, out)
    paint(photos / "new.png", 77)
    report = build(photos / "new.png", out, prune=True)
    assert (report.added, report.missing, report.total) == (["new.png"], [], 21)


def test_a_zip_that_breaks_later_loses_nothing(photos, out):
    with zipfile.ZipFile(photos / "more.zip", "w") as archive:
        archive.write(photos / "0000.png", "inside.png")
    build(photos, out)
    (photos / "more.zip").write_bytes(b"PK broken")
    report = build(photos / "0000.png", out, prune=True)
    assert (report.missing, report.total) == ([], 21)


def test_metadata_is_merged_and_republished_without_encoding(photos, out):
    build(photos, out, metadata={"0000.png": {"colour": "red", "size": "M"}, "0001.png": {"colour": "blue"}})
    encoder = FakeEncoder()
    report = build(
        photos, out, encoder, metadata={"0000.png": {"colour": "green", "size": ""}, "0001.png": {"colour": "blue"}}
    )
    assert (len(report.unchanged), report.generation, report.total, encoder.encoded) == (20, 2, 20, 0)
    gallery = Gallery.open(out)
    assert gallery.metadata("0000.png") == {"colour": "green"}
    assert gallery.metadata("0001.png") == {"colour": "blue"}
    assert read_manifest(out).segments[1].rows == 1
    assert build(photos, out).generation == 2
    (photos / "0000.png").rename(photos / "renamed.png")
    build(photos, out, metadata={"renamed.png": {"size": "L"}})
    assert Gallery.open(out).metadata("renamed.png") == {"colour": "green", "size": "L"}


@pytest.mark.parametrize("columns", [{"": "x"}, {"a\0": "x"}, {"a": "\0"}])
def test_metadata_that_cannot_be_stored(photos, out, columns):
    with pytest.raises(UsageError, match=r"metadata of 0000\.png"):
        build(photos, out, metadata={"0000.png": columns})
    assert not out.exists()


def test_unreadable_images_are_skipped_with_a_reason(photos, out, monkeypatch):
    (photos / "broken.png").write_bytes(b"not an image")
    shutil.copy(photos / "broken.png", photos / "broken twin.png")
    data = (photos / "0000.png").read_bytes()
    (photos / "0001.png").write_bytes(data[: len(data) // 2])
    (photos / "gone.png").symlink_to(photos / "0002.png")
    images = scan([photos])
    (photos / "gone.png").unlink()
    report = build_index(images, out, FakeEncoder(), workers=2, batch_size=4)
    assert [image_id for image_id, _ in report.skipped] == ["0001.png", "broken twin.png", "broken.png", "gone.png"]
    assert report.total == 19
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in rows] == report.skipped
    assert {row["root"] for row in rows} == {str(photos.resolve())}


def test_an_indexed_image_that_breaks_is_kept_as_it_was(photos, out):
    build(photos, out)
    before = answer(out)
    (photos / "0004.png").write_bytes(b"broken")
    report = build(photos, out, prune=True)
    assert [image_id for image_id, _ in report.skipped] == ["0004.png"]
    assert (report.missing, report.total, report.generation) == ([], 20, 1)
    assert answer(out) == before


def test_nothing_usable_leaves_no_index(tmp_path, out):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the 1 images can be used; the first: a\.png"):
        build(folder, out)
    assert not out.exists()
    out.mkdir(parents=True)
    with pytest.raises(DataError, match="none of the 1"):
        build(folder, out)
    assert list(out.iterdir()) == []
    with pytest.raises(DataError, match="no images found"):
        build_index([], out, FakeEncoder())


def test_a_place_that_is_something_else_is_left_alone(photos, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("precious")
    with pytest.raises(IndexFormatError, match=r"is not an index: it holds thesis\.tex"):
        build(photos, home)
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]
    with pytest.raises(IndexFormatError, match="is not an index but a file"):
        build(photos, home / "thesis.tex")


def test_what_a_kill_left_of_the_first_pointer_is_no_foreign_file(photos, out):
    out.mkdir(parents=True)
    (out / ".tmp-0123456789ab-CURRENT").write_text("000001.json 00")
    assert len(build(photos, out).added) > 0
    assert not list(out.rglob(".tmp-*"))


def test_another_model_is_refused(photos, out):
    build(photos, out)
    before = snapshot(out)
    with pytest.raises(SpaceMismatchError, match=r"was made by model fake-1 .*, not fake-2 .*--model YOUR_MODEL"):
        build(photos, out, FakeEncoder("fake-2"))
    assert {name: data for name, data in snapshot(out).items() if name != "LOCK"} == {
        name: data for name, data in before.items() if name != "LOCK"
    }


def test_tokens_are_the_index_s_choice(photos, out, tmp_path):
    build(photos, out, tokens=False)
    assert not Gallery.open(out).has_tokens
    paint(photos / "new.png", 60)
    build(photos, out)
    assert not Gallery.open(out).has_tokens
    with_tokens = tmp_path / "tokens.index"
    build(photos, with_tokens)
    with pytest.raises(UsageError, match="holds tokens; keep them"):
        build(photos, with_tokens, tokens=False)
    with pytest.raises(UsageError, match="nothing but tokens"):
        build(photos, tmp_path / "none.index", FakeEncoder(vector=False), tokens=False)


@pytest.mark.parametrize("change", [{"workers": 0}, {"batch_size": 0}, {"part_rows": -1}])
def test_numbers_below_one(photos, out, change):
    with pytest.raises(UsageError, match="give at least 1"):
        build(photos, out, **change)


def test_two_images_of_one_id(photos, out):
    images = scan([photos])
    with pytest.raises(UsageError, match=r"two images have the id 0000\.png"):
        build_index([*images, images[0]], out, FakeEncoder())


def test_a_dry_run_writes_nothing(photos, out):
    encoder = FakeEncoder()
    report = build(photos, out, encoder, dry_run=True)
    assert (len(report.added), report.total, report.generation, report.dry_run) == (20, 20, 0, True)
    assert not out.parent.exists()
    build(photos, out)
    before = snapshot(out)
    paint(photos / "new.png", 61)
    (photos / "0000.png").unlink()
    report = build(photos, out, encoder, dry_run=True, prune=True)
    assert (report.added, report.missing, report.total, encoder.encoded) == (["new.png"], ["0000.png"], 20, 0)
    assert snapshot(out) == before


def test_one_build_at_a_time(photos, out):
    build(photos, out)
    with writer_lock(out), pytest.raises(IndexLockedError):
        build(photos, out)


def test_readers_keep_their_snapshot(photos, out):
    build(photos, out)
    gallery = Gallery.open(out)
    before = gallery.search({gallery.space.id: FakeEncoder().encode_texts(["one"])}, 50)
    for number in range(20):
        paint(photos / f"{number:04d}.png", 700 + number)
    build(photos, out)
    assert gallery.search({gallery.space.id: FakeEncoder().encode_texts(["one"])}, 50) == before
    assert answer(out) != before


def test_large_segments_get_their_approximate_index(photos, out, monkeypatch, caplog):
    pytest.importorskip("faiss")
    build(photos, out, ann_min_rows=20)
    assert (out / SEGMENTS / "000001" / "ann.faiss").exists()
    monkeypatch.setitem(sys.modules, "faiss", None)
    build(photos, out.with_name("y.index"), ann_min_rows=20)
    assert "searched exactly" in caplog.text


def test_temporaries_and_orphans_of_killed_builds_go(photos, out):
    build(photos, out)
    (out / ".tmp-1-CURRENT").touch()
    (out / "manifests" / ".tmp-2-x").touch()
    (out / SEGMENTS / "000007").mkdir()
    paint(photos / "new.png", 62)
    build(photos, out)
    assert not list(out.rglob(".tmp-*"))
    assert sorted(path.name for path in (out / SEGMENTS).iterdir()) == ["000001", "000002"]


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 5), min_size=1), min_size=1, max_size=4))
def test_any_history_ends_like_a_fresh_build(tmp_path_factory, steps):
    """Whatever a folder went through, a pruning build equals a first build of its last state."""
    home = tmp_path_factory.mktemp("history")
    for step in steps:
        shutil.rmtree(home / "photos", ignore_errors=True)
        for name, seed in step.items():
            paint(home / "photos" / f"{name}.png", seed)
        build(home / "photos", home / "old.index", prune=True)
    build(home / "photos", home / "new.index")
    assert verify(home / "old.index") == []
    assert Gallery.open(home / "old.index").ids == Gallery.open(home / "new.index").ids
    assert answer(home / "old.index") == answer(home / "new.index")


def test_a_card_may_change_its_name(photos, out):
    build(photos, out)
    encoder = FakeEncoder()
    encoder.card = replace(encoder.card, name="fake-alias")
    paint(photos / "new.png", 63)
    build(photos, out, encoder)
    assert read_manifest(out).card.name == "fake-alias"
    assert len(Gallery.open(out)) == 21


def test_float32_on_request_is_kept_by_later_builds(photos, out):
    build(photos, out, precision="float32")
    gallery = Gallery.open(out)
    image = gallery.ids[0]
    encoder = FakeEncoder()
    exact = encoder.encode_images(encoder.preprocess(open_image(photos / image))[None])
    assert np.array_equal(gallery.tokens(image), exact.tokens[0])
    paint(photos / "new.png", 77)
    build(photos, out)  # the index decides for itself
    stored = [segment.layout.precision for segment in segments_of(out)]
    assert stored == ["float32", "float32"]
    assert verify(out) == []
    assert len(answer(out)[0]) == 21


def segments_of(out):
    return [open_segment(out, entry) for entry in read_manifest(out).segments]
