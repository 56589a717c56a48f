"""Building: what becomes of every image, from run to run."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir.errors import (
    MissingImageError,
)
from cir.images import decode
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.known import model_folders, remember_roots
from cir.testing.fakes import DIMS, TOKENS, FakeEncoder, answer, build, contents, folder_of, paint, queries_for


def test_a_first_build(photos: Path, out: Path) -> None:
    encoder = FakeEncoder()
    seen: list[tuple[int, int]] = []
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
    manifest = read_manifest(IndexFolder(out))
    assert manifest.roots == (str(photos.resolve()),)
    gallery = Gallery.open(out)
    assert gallery.image("0003.png").file.read() == (photos / "0003.png").read_bytes()
    shutil.rmtree(photos)
    with pytest.raises(MissingImageError):
        _ = gallery.image("0003.png").file


def test_the_answer_depends_on_neither_workers_nor_batches_nor_parts(photos: Path, tmp_path: Path) -> None:
    answers = []
    ways: list[dict[str, Any]] = [
        {"workers": 1, "batch_size": 1, "part_rows": 1},
        {"workers": 5, "batch_size": 3},
        {"batch_size": 100, "workers": None},
    ]
    for number, options in enumerate(ways):
        build(photos, tmp_path / f"{number}.index", **options)
        answers.append(answer(tmp_path / f"{number}.index"))
    assert answers[0] == answers[1] == answers[2]


def test_nothing_changed_nothing_written(photos: Path, out: Path) -> None:
    build(photos, out)
    before = contents(out)
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert (len(report.unchanged), report.generation, encoder.encoded) == (20, 1, 0)
    assert not report.added
    assert contents(out) == before


def test_added_updated_renamed_and_missing(photos: Path, out: Path) -> None:
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


def test_pruning_forgets_the_missing(photos: Path, out: Path) -> None:
    build(photos, out)
    (photos / "0003.png").unlink()
    build(photos, out)
    report = build(photos, out, prune=True)
    assert (report.missing, report.total, report.generation) == (["0003.png"], 19, 2)
    assert "0003.png" not in Gallery.open(out)
    assert verify(out) == []


def test_a_segment_without_live_rows_leaves_the_manifest(photos: Path, out: Path) -> None:
    build(photos, out)
    for number in range(20):
        paint(photos / f"{number:04d}.png", 500 + number)
    report = build(photos, out)
    assert len(report.updated) == 20
    manifest = read_manifest(IndexFolder(out))
    assert [entry.name for entry in manifest.segments] == ["000002"]
    assert manifest.deleted == {}
    assert (IndexFolder(out).segments / "000001").exists()


def test_the_same_content_is_encoded_once(photos: Path, out: Path) -> None:
    for number in range(8):
        shutil.copy(photos / "0000.png", photos / f"twin{number}.png")
    encoder = FakeEncoder()
    assert build(photos, out, encoder).total == 28
    assert encoder.encoded == 20
    shutil.copy(photos / "0005.png", photos / "late twin.png")
    report = build(photos, out, encoder)
    assert (report.added, encoder.encoded) == (["late twin.png"], 20)
    gallery = Gallery.open(out)
    np.testing.assert_array_equal(gallery.image("late twin.png").vector, gallery.image("0005.png").vector)
    twin = hashlib.sha256((photos / "0005.png").read_bytes()).digest()
    assert gallery.ids_of([twin])[twin] == ["0005.png", "late twin.png"]
    assert gallery.ids_of([bytes(32)]) == {bytes(32): []}
    (photos / "0005.png").unlink()
    build(photos, out, prune=True)
    assert Gallery.open(out).ids_of([twin])[twin] == ["late twin.png"]


def test_where_the_model_lay_is_kept(photos: Path, out: Path, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    build(photos, out, encoder)
    assert model_folders(encoder.card.digest) == []
    encoder.directory = tmp_path / "models" / "fake-1"
    paint(photos / "new.png", 64)
    build(photos, out, encoder)
    assert model_folders(encoder.card.digest) == [tmp_path / "models" / "fake-1"]
    assert not [path for path in out.rglob("*.json") if b"models/fake-1" in path.read_bytes()]


def test_photos_are_read_only_where_this_user_has_indexed(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(photos, out)
    assert Gallery.open(out).untrusted_roots == frozenset()
    assert Gallery.open(out).image("0001.png").read()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody else"))
    gallery = Gallery.open(out)
    assert gallery.untrusted_roots == {str(photos)}
    with pytest.raises(MissingImageError, match=r"which you have not indexed on this machine.*--trust-roots allows it"):
        gallery.image("0001.png").read()
    assert Gallery.open(out, trust_roots=True).image("0001.png").read()
    remember_roots([str(photos.parent)])
    assert Gallery.open(out).image("0001.png").read()


def test_a_second_folder_leaves_the_first_alone(photos: Path, out: Path, tmp_path: Path) -> None:
    build(photos, out)
    more = folder_of(tmp_path / "more", 5, 50)
    report = build(more, out)
    assert (len(report.added), report.missing, report.total) == (5, [], 25)
    assert read_manifest(IndexFolder(out)).roots == (str(photos.resolve()), str(more.resolve()))
    assert Gallery.open(out).image("0050.png").root == str(more.resolve())


def test_a_second_folder_with_the_same_names_replaces_nothing(photos: Path, out: Path, tmp_path: Path) -> None:
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


def test_a_folder_that_moved(photos: Path, out: Path, tmp_path: Path) -> None:
    build(photos, out, metadata={"0000.png": {"colour": "red"}})
    moved = photos.rename(tmp_path / "elsewhere")
    paint(moved / "0001.png", 901)
    (moved / "0002.png").unlink()
    encoder = FakeEncoder()
    report = build(moved, out, encoder)
    assert (len(report.unchanged), report.updated, report.missing) == (18, ["0001.png"], ["0002.png"])
    assert encoder.encoded == 1
    gallery = Gallery.open(out)
    assert gallery.image("0000.png").root == str(moved.resolve())
    assert gallery.image("0000.png").metadata == {"colour": "red"}
    assert build(moved, out).generation == report.generation


def test_one_image_of_an_indexed_folder_makes_the_others_not_missing(photos: Path, out: Path) -> None:
    build(photos, out)
    paint(photos / "new.png", 77)
    report = build(photos / "new.png", out, prune=True)
    assert (report.added, report.missing, report.total) == (["new.png"], [], 21)


def test_a_zip_that_breaks_later_loses_nothing(photos: Path, out: Path) -> None:
    with zipfile.ZipFile(photos / "more.zip", "w") as archive:
        archive.write(photos / "0000.png", "inside.png")
    build(photos, out)
    (photos / "more.zip").write_bytes(b"PK broken")
    report = build(photos / "0000.png", out, prune=True)
    assert (report.missing, report.total) == ([], 21)


def test_metadata_is_merged_and_republished_without_encoding(photos: Path, out: Path) -> None:
    build(photos, out, metadata={"0000.png": {"colour": "red", "size": "M"}, "0001.png": {"colour": "blue"}})
    encoder = FakeEncoder()
    report = build(
        photos, out, encoder, metadata={"0000.png": {"colour": "green", "size": ""}, "0001.png": {"colour": "blue"}}
    )
    assert (len(report.unchanged), report.generation, report.total, encoder.encoded) == (20, 2, 20, 0)
    gallery = Gallery.open(out)
    assert gallery.image("0000.png").metadata == {"colour": "green"}
    assert gallery.image("0001.png").metadata == {"colour": "blue"}
    assert [entry.rows for entry in read_manifest(IndexFolder(out)).segments] == [20]  # the old one is absorbed
    assert build(photos, out).generation == 2
    (photos / "0000.png").rename(photos / "renamed.png")
    build(photos, out, metadata={"renamed.png": {"size": "L"}})
    assert Gallery.open(out).image("renamed.png").metadata == {"colour": "green", "size": "L"}


def test_readers_keep_their_contents(photos: Path, out: Path) -> None:
    build(photos, out)
    gallery = Gallery.open(out)
    queries, options = queries_for(gallery, "one"), RankingOptions(50)
    before = gallery.search(queries, options)
    for number in range(20):
        paint(photos / f"{number:04d}.png", 700 + number)
    build(photos, out)
    assert gallery.search(queries, options) == before
    assert answer(out) != before


def test_large_segments_get_their_approximate_index(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss")
    build(photos, out, ann_min_rows=20)
    assert (IndexFolder(out).segments / "000001" / "ann.faiss").exists()
    monkeypatch.setitem(sys.modules, "faiss", None)
    build(photos, out.with_name("y.index"), ann_min_rows=20)
    assert "searched exactly" in caplog.text


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 5), min_size=1), min_size=1, max_size=4))
def test_any_history_ends_like_a_fresh_build(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[int, int]]
) -> None:
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


def test_a_card_may_change_its_name(photos: Path, out: Path) -> None:
    build(photos, out)
    encoder = FakeEncoder()
    encoder.card = replace(encoder.card, name="fake-alias")
    paint(photos / "new.png", 63)
    build(photos, out, encoder)
    assert read_manifest(IndexFolder(out)).card.name == "fake-alias"
    assert len(Gallery.open(out)) == 21


def test_float32_on_request_is_kept_by_later_builds(photos: Path, out: Path) -> None:
    build(photos, out, precision="float32")
    image = Gallery.open(out).image("0000.png")
    encoder = FakeEncoder()
    exact = encoder.encode_images(encoder.preprocess(decode(image.read(), image.id))[None])
    assert exact.vectors is not None
    assert image.stored.dtype == np.float32
    np.testing.assert_array_equal(image.stored, exact.vectors[0])
    paint(photos / "new.png", 77)
    build(photos, out)  # the index decides for itself
    folder = IndexFolder(out)
    segments = [open_segment(folder, entry) for entry in read_manifest(folder).segments]
    assert [segment.layout.precision for segment in segments] == ["float32"]
    assert verify(out) == []
    assert len(answer(out)[0]) == 21


def test_how_many_generations_are_kept(photos: Path, out: Path) -> None:
    build(photos, out, keep=2)
    for number in range(4):
        paint(photos / f"later {number}.png", 40 + number)
        build(photos, out)
    assert [entry.generation for entry in read_manifest(IndexFolder(out)).earlier] == [4, 3]
    build(photos, out, keep=3)  # nothing else has changed
    assert read_manifest(IndexFolder(out)).keep == 3
    assert verify(out) == []
