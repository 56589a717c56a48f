"""Encoding again: the most retrieved first, one generation per part, and nothing is lost whatever stops it."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.arrays import Floats
from cir.data.judged_query import JudgedQuery
from cir.errors import ImageDecodeError, SpaceMismatchError, WeightsError
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.usage import log_usage, read_usage
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.questions import StoredQuestions, write_questions
from cir.indexer.storage.writer import writing
from cir.indexer.writing import backfill as module
from cir.indexer.writing.backfill import BackfillProgress, backfill
from cir.indexer.writing.build import build_index
from cir.indexer.writing.pipeline import encode_photos
from cir.testing.fakes import FakeEncoder, build, folder_of, paint
from cir.testing.two_models import NEW, NEW_DIMS, OLD, PROCRUSTES, mapped_queries, new_encoder, serve_new
from cir.types import Encoded

ALL = RankingOptions(20)


@pytest.fixture
def index(photos: Path, tmp_path: Path) -> Path:
    table = {f"{number:04d}.png": {"shelf": str(number % 3)} for number in range(20)}
    build(photos, tmp_path / "x.index", OLD, metadata=table)
    serve_new(tmp_path / "x.index", PROCRUSTES)
    return tmp_path / "x.index"


def native(index: Path) -> list[str]:
    """The images whose vectors the serving model made."""
    gallery = Gallery.open(index)
    return gallery.ids_in(gallery.space.id)


def test_the_most_retrieved_come_first(index: Path) -> None:
    folder = IndexFolder(index)
    for ids in (["0007.png", "0011.png"], ["0011.png"], ["0003.png"]):
        log_usage(folder, ids)
    with folder.usage.open("a") as log:
        log.write("0019.png")  # half a line, of a reader that was killed
    assert read_usage(folder) == {"0011.png": 2, "0007.png": 1, "0003.png": 1}
    steps = backfill(index, NEW, count=4, part=2)
    assert next(steps).done == 2
    assert native(index) == ["0003.png", "0011.png"]
    assert next(steps).done == 4
    assert native(index) == ["0000.png", "0003.png", "0007.png", "0011.png"]
    assert list(steps) == []


def test_usage_is_a_hint(tmp_path: Path) -> None:
    log_usage(IndexFolder(tmp_path / "no.index"), ["a"])
    assert not read_usage(IndexFolder(tmp_path / "no.index"))


def test_a_part_is_a_generation_and_answers_stay_whole(index: Path, photos: Path) -> None:
    folder = IndexFolder(index)
    log_usage(folder, ["0001.png"])
    query = NEW.encode_texts(["one"])[0].astype(np.float64)
    before = read_manifest(folder).generation
    states = []
    for number, state in enumerate(backfill(index, NEW, part=6), start=1):
        states.append(state)
        assert (state.generation, state.left) == (before + number, 20 - state.done)
        gallery = Gallery.open(index)
        assert len(gallery) == 20
        found = dict(gallery.search(mapped_queries(gallery), ALL)[0])
        assert len(found) == 20
        for image_id in native(index):
            assert found[image_id] == pytest.approx(float(gallery.image(image_id).stored @ query), abs=2e-3)
        assert gallery.image("0004.png").metadata == {"shelf": "1"}
        assert verify(index) == []
    assert states[0] == BackfillProgress(images=20, older=20, done=6, generation=before + 1)
    assert [state.done for state in states] == [6, 12, 18, 20]
    gallery = Gallery.open(index)
    assert gallery.query_spaces == (NEW.card.space.id,)
    assert not folder.usage.exists()
    assert not folder.work.exists()
    build(photos, index.parent / "fresh.index", NEW)
    fresh = Gallery.open(index.parent / "fresh.index")
    assert gallery.search(mapped_queries(gallery), ALL) == fresh.search(mapped_queries(fresh), ALL)


def test_it_goes_on_where_it_was_stopped(index: Path) -> None:
    steps = backfill(index, NEW, part=5)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(native(index)) == 5
    again = new_encoder()
    (*_, last) = backfill(index, again, part=5)
    assert (last.older, last.done, again.encoded) == (15, 15, 15)
    assert list(backfill(index, NEW)) == []


def test_what_was_encoded_before_an_interrupt_is_not_encoded_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 3)
    monkeypatch.setattr(module, "encode_photos", partial(encode_photos, batch_size=2))
    with pytest.raises(KeyboardInterrupt):
        list(backfill(index, new_encoder(after=8), workers=1))
    assert native(index) == []
    parts = sorted((IndexFolder(index).work / "backfill").iterdir())
    assert len(parts) == 3  # of 3, 3 and 2 rows
    parts[0].write_bytes(b"damaged")
    again = new_encoder()
    (state,) = backfill(index, again)
    assert (state.done, again.encoded) in ((20, 15), (20, 14))
    assert native(index) == Gallery.open(index).ids
    assert verify(index) == []
    assert not IndexFolder(index).work.exists()


def test_photos_are_encoded_by_several_workers(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "encode_photos", partial(encode_photos, batch_size=5))
    barrier = threading.Barrier(2, timeout=10)
    threads = set()

    class Meeting(FakeEncoder):
        def encode_images(self, pixels: Floats) -> Encoded:
            barrier.wait()  # passes only when two threads encode at once
            threads.add(threading.get_ident())
            return super().encode_images(pixels)

    encoder = Meeting("new-1", tokens=0, dims=NEW_DIMS)
    (state,) = backfill(index, encoder, workers=2)
    assert (state.done, encoder.encoded, len(threads)) == (20, 20, 2)


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
    assert gallery.image("0002.png").space == OLD.card.space.id
    assert "0002.png" in dict(gallery.search(mapped_queries(gallery), ALL)[0])


def test_photos_stored_with_judged_queries_replace_files_that_are_gone(index: Path, photos: Path) -> None:
    folder, gallery = IndexFolder(index), Gallery.open(index)
    image = gallery.image("0002.png")
    query = JudgedQuery("q", "0002.png", "in red", frozenset(["0002.png"]))
    questions = StoredQuestions((query,), {"0002.png": image.digest.hex()})
    write_questions(folder, questions, {image.digest.hex(): image.read})
    (photos / "0002.png").unlink()
    paint(photos / "0003.png", 901)
    (*_, last) = backfill(index, NEW)
    assert [image_id for image_id, _ in last.skipped] == ["0003.png"]
    assert "0002.png" in native(index)


def test_photos_that_the_new_model_refuses_are_skipped_everywhere(photos: Path, tmp_path: Path) -> None:
    """Two files of one content: the second is not encoded because the first was not."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (1, 9)).save(photos / name)

    class Choosy(FakeEncoder):
        def preprocess(self, image: Image.Image) -> Floats:
            if image.height > 2 * image.width:
                raise ImageDecodeError("too long")
            return super().preprocess(image)

    index = tmp_path / "x.index"
    build(photos, index, OLD)
    serve_new(index, PROCRUSTES)
    log_usage(IndexFolder(index), ["a.png", "b.png"])
    (state,) = backfill(index, Choosy("new-1", tokens=0, dims=NEW_DIMS), count=1)
    assert state.skipped == (("a.png", "a.png: too long"), ("b.png", "b.png: too long"))
    assert native(index) == ["0000.png"]


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


def test_photos_that_are_all_gone_are_reported(index: Path, photos: Path) -> None:
    for photo in photos.iterdir():
        photo.unlink()
    (state,) = backfill(index, NEW)
    assert (state.done, state.left, len(state.skipped)) == (0, 20, 20)
    assert read_manifest(IndexFolder(index)).generation == state.generation


def test_a_large_gallery_becomes_one_segment(index: Path, photos: Path) -> None:
    folder = IndexFolder(index)
    (photos / "0002.png").unlink()
    (*states, last) = backfill(index, NEW, part=4, ann_min_rows=19)
    manifest = read_manifest(folder)
    assert len(states) == 4
    assert sorted(entry.rows for entry in manifest.segments) == [19, 20]  # all but one of the old segment is deleted
    assert manifest.generation == last.generation
    assert verify(index) == []
    gallery = Gallery.open(index)
    assert gallery.image("0004.png").metadata == {"shelf": "1"}
    merged = next(entry for entry in manifest.segments if entry.space == gallery.space.id)
    assert len(list(folder.gallery(merged.name).parent.iterdir())) > 1  # the approximate index
    before = gallery.search(mapped_queries(gallery), ALL)
    assert next(backfill(index, NEW, ann_min_rows=19)).done == 0
    assert Gallery.open(index).search(mapped_queries(gallery), ALL) == before


def test_vectors_that_are_none_are_not_published(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(IndexFolder(index))
    wrong = Encoded(np.full((20, NEW_DIMS), np.nan, np.float32), None)
    monkeypatch.setattr(FakeEncoder, "encode_images", lambda self, pixels: wrong)
    with pytest.raises(WeightsError, match="not of unit length"):
        list(backfill(index, NEW))
    assert read_manifest(IndexFolder(index)) == before


def test_another_model_is_refused(index: Path) -> None:
    with pytest.raises(SpaceMismatchError, match="served by new-1, not old-1"):
        next(backfill(index, OLD))


def test_tokens_are_encoded_where_the_index_has_some(photos: Path, tmp_path: Path) -> None:
    old, new = FakeEncoder("old-2"), FakeEncoder("new-2", dims=NEW_DIMS)
    index = tmp_path / "tokens.index"
    build_index(scan([photos]), index, old)
    folder = IndexFolder(index)
    with writing(folder) as writer:
        writer.publish(read_manifest(folder).succeed(card=new.card))
    assert len(list(backfill(index, new))) == 1
    assert Gallery.open(index).layout.tokens == new.card.tokens
    assert verify(index) == []
