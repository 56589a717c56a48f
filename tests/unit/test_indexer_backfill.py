"""Encoding again: the most retrieved first, a generation a part, and whatever stops it, nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cir.errors import SpaceMismatchError, WeightsError
from cir.indexer.writing.backfill import backfill
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.manifest import SEGMENTS, read_manifest
from cir.indexer.reading.usage import USAGE, record, retrieved
from cir.indexer.reading.verify import verify
from cir.types import Encoded

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("crash", "unit"))
from indexer_fakes import build, folder_of, paint
from test_indexer_edges import NEW, NEW_DIMS, OLD, PROCRUSTES, NewEncoder, asked, serve


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", 20)


@pytest.fixture
def index(photos: Path, tmp_path: Path) -> Path:
    table = {f"{number:04d}.png": {"shelf": str(number % 3)} for number in range(20)}
    build(photos, tmp_path / "x.index", OLD, metadata=table)
    serve(tmp_path / "x.index", PROCRUSTES)
    return tmp_path / "x.index"


def native(index: Path) -> list[str]:
    gallery = Gallery.open(index)
    return [image_id for image_id in gallery.ids if gallery.stored_space(image_id) == gallery.space.id]


def test_the_most_retrieved_come_first(index: Path) -> None:
    for ids in (["0007.png", "0011.png"], ["0011.png"], ["0003.png"]):
        record(index, ids)
    with (index / USAGE).open("a") as log:
        log.write("0019.png")  # half a line, of a reader that was killed
    assert retrieved(index) == {"0011.png": 2, "0007.png": 1, "0003.png": 1}
    steps = backfill(index, NEW, count=4, part=2)
    assert next(steps).done == 2
    assert native(index) == ["0003.png", "0011.png"]
    assert next(steps).done == 4
    assert native(index) == ["0000.png", "0003.png", "0007.png", "0011.png"]
    assert list(steps) == []


def test_a_part_is_a_generation_and_answers_stay_whole(index: Path) -> None:
    wanted = NEW.encode_texts(["one"])[0].astype(np.float64)
    before = read_manifest(index).generation
    for number, state in enumerate(backfill(index, NEW, part=6), start=1):
        assert (state.generation, state.left) == (before + number, 20 - state.done)
        gallery = Gallery.open(index)
        assert len(gallery) == 20
        found = dict(gallery.search(asked(gallery), 20)[0])
        assert len(found) == 20
        for image_id in native(index):
            assert found[image_id] == pytest.approx(float(gallery.stored_values(image_id) @ wanted), abs=2e-3)
        assert gallery.metadata("0004.png") == {"shelf": "1"}
        assert verify(index) == []
    assert number == 4
    gallery = Gallery.open(index)
    assert gallery.asked == (NEW.card.space.id,)
    fresh = index.parent / "fresh.index"
    build(index.parent / "photos", fresh, NEW)
    ours = gallery.search(asked(gallery), 20)
    assert not (index / USAGE).exists()
    assert ours == Gallery.open(fresh).search({NEW.card.space.id: NEW.encode_texts(["one"])}, 20)
    assert not (index / "work").exists()


def test_it_goes_on_where_it_was_stopped(index: Path) -> None:
    for _ in backfill(index, NEW, part=5):
        break
    assert len(native(index)) == 5
    again = NewEncoder()
    (*_, last) = backfill(index, again, part=5)
    assert (last.older, last.done, again.encoded) == (15, 15, 15)
    assert list(backfill(index, NEW)) == []


def test_photos_that_are_gone_or_changed_stay_as_they_were(index: Path, photos: Path) -> None:
    (photos / "0002.png").unlink()
    paint(photos / "0005.png", 900)
    (photos / "0006.png").write_bytes(b"no picture")
    first = next(backfill(index, NEW, count=4))  # what cannot be used is passed over, not waited for
    assert (first.done, first.left) == (4, 16)
    assert native(index) == ["0000.png", "0001.png", "0003.png", "0004.png"]
    (*_, last) = backfill(index, NEW)
    assert [image_id for image_id, _ in last.skipped] == ["0002.png", "0005.png", "0006.png"]
    assert last.left == 3
    gallery = Gallery.open(index)
    assert len(gallery) == 20
    assert gallery.stored_space("0002.png") == OLD.card.space.id
    assert "0002.png" in dict(gallery.search(asked(gallery), 20)[0])


def test_parts_of_a_build_that_was_stopped_stay(index: Path, photos: Path) -> None:
    folder_of(photos, 30, start=20)

    def stop(done: int, total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(photos, index, NEW, progress=stop)
    parts = set((index / "work").glob("*.h5"))
    assert parts
    list(backfill(index, NEW, part=6))
    assert set((index / "work").glob("*.h5")) == parts
    assert build(photos, index, NEW).resumed > 0


def test_photos_that_are_all_gone_are_told(index: Path, photos: Path) -> None:
    for photo in photos.iterdir():
        photo.unlink()
    (state,) = backfill(index, NEW)
    assert (state.done, state.left, len(state.skipped)) == (0, 20, 20)
    assert read_manifest(index).generation == state.generation


def test_a_large_gallery_becomes_one_segment(index: Path, photos: Path) -> None:
    (photos / "0002.png").unlink()
    (*_, last) = backfill(index, NEW, part=4, ann_min_rows=19)
    manifest = read_manifest(index)
    assert sorted(entry.rows for entry in manifest.segments) == [19, 20]  # all but one of the old segment is deleted
    assert manifest.generation == last.generation
    assert verify(index) == []
    gallery = Gallery.open(index)
    assert gallery.metadata("0004.png") == {"shelf": "1"}
    merged = next(entry for entry in manifest.segments if entry.space == gallery.space.id)
    assert len(list((index / SEGMENTS / merged.name).iterdir())) > 1  # the approximate index
    before = gallery.search(asked(gallery), 20)
    assert next(backfill(index, NEW, ann_min_rows=19)).done == 0
    assert Gallery.open(index).search(asked(gallery), 20) == before
    small = index.parent / "small.index"
    build(photos, small, NEW)
    paint(photos / "new.png", 77)
    build(photos, small, NEW)
    assert list(backfill(small, NEW)) == []
    assert len(read_manifest(small).segments) == 2


def test_vectors_that_are_none_are_not_published(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(index)
    wrong = Encoded(np.full((20, NEW_DIMS), np.nan, np.float32), None)
    monkeypatch.setattr(NewEncoder, "encode_images", lambda self, pixels: wrong)
    with pytest.raises(WeightsError, match="not of unit length"):
        list(backfill(index, NEW))
    assert read_manifest(index) == before


def test_another_model_is_refused(index: Path) -> None:
    with pytest.raises(SpaceMismatchError, match="served by new-1, not old-1"):
        next(backfill(index, OLD))


def test_usage_is_a_hint(index: Path, tmp_path: Path) -> None:
    record(tmp_path / "no.index", ["a"])
    assert not retrieved(tmp_path / "no.index")
