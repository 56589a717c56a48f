"""Readers that live longer than a generation."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from cir.errors import IndexFormatError
from cir.indexer.reading import live_segment
from cir.indexer.reading.gallery import Gallery, refreshed
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.writer import writing
from cir.search.searcher import Searcher
from cir.testing.fakes import Answer, FakeEncoder, build, folder_of, make_index, queries_for, random_rows
from cir.types import Query

TEN = RankingOptions(10)


def found(gallery: Gallery) -> Answer:
    """The best ten images of two queries."""
    return gallery.search(queries_for(gallery, "first", "second"), TEN)


def delete(index: Path, segment: str, rows: list[int]) -> None:
    """Publish a generation with further rows deleted."""
    folder = IndexFolder(index)
    with writing(folder) as writer:
        live = read_manifest(folder)
        writer.publish(live.succeed(deleted=live.without({segment: rows})))


def test_nothing_is_opened_while_nothing_changes(tmp_path: Path) -> None:
    gallery = Gallery.open(make_index(tmp_path / "x.index", [random_rows(["a", "b"], 1)]))
    assert refreshed(gallery) is gallery


def test_segments_and_approximate_indexes_stay_open(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    path = make_index(tmp_path / "x.index", [random_rows([f"{n:03d}" for n in range(200)], 1), random_rows(["z"], 2)])
    gallery = Gallery.open(path, ann_min_rows=100)
    before = found(gallery)
    delete(path, "000001", [3])
    now = refreshed(gallery)
    assert (len(gallery), len(now)) == (201, 200)
    assert now.rows.id_of(0) == "000"
    for old, new in zip(gallery._segments, now._segments, strict=True):
        assert new.segment is old.segment
        assert new._ann is old._ann
    assert now._segments[0]._ann is not None
    assert found(gallery) == before
    assert "003" not in {image_id for image_id, _ in found(now)[0]}
    assert "003" not in now


def test_a_searcher_goes_on_with_the_live_generation(tmp_path: Path) -> None:
    photos, out, encoder = folder_of(tmp_path / "photos", 4), tmp_path / "x.index", FakeEncoder()
    build(photos, out)
    searcher = Searcher(Gallery.open(out), lambda card: encoder)
    assert searcher.search(Query(text="red")).searched == 4
    assert not searcher.refresh()
    build(folder_of(photos, 6), out)
    assert searcher.search(Query(text="red")).searched == 4
    assert searcher.refresh()
    assert searcher.search(Query(text="red")).searched == 6
    assert searcher.encoder is encoder


def test_a_failed_refresh_changes_nothing(tmp_path: Path) -> None:
    path = make_index(tmp_path / "x.index", [random_rows(["a", "b"], 1)])
    searcher = Searcher(Gallery.open(path), lambda card: FakeEncoder(tokens=0))
    IndexFolder(path).current.write_text("garbage")
    with pytest.raises(IndexFormatError):
        searcher.refresh()
    assert searcher.search(Query(text="red")).searched == 2


def test_a_search_ends_on_the_generation_it_began_with(tmp_path: Path) -> None:
    path = make_index(tmp_path / "x.index", [random_rows([f"{n:03d}" for n in range(30)], 1)])
    inside, go_on = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        def encode_texts(self, captions, space=None):  # type: ignore[no-untyped-def]
            inside.set()
            assert go_on.wait(60)
            return super().encode_texts(captions, space)

    searcher = Searcher(Gallery.open(path), lambda card: Slow(tokens=0))
    results = []
    thread = threading.Thread(target=lambda: results.append(searcher.search(Query(text="red"))))
    thread.start()
    assert inside.wait(60)
    delete(path, "000001", list(range(20)))
    assert searcher.refresh()
    go_on.set()
    thread.join()
    assert [result.searched for result in results] == [30]
    assert searcher.search(Query(text="red")).searched == 10


@pytest.mark.parametrize("ann_min_rows", [10, 1000])
def test_a_reader_answers_when_its_files_are_gone(
    tmp_path: Path, ann_min_rows: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped files stay until they are closed; an approximate index that was not opened yet is not built again."""
    path = make_index(tmp_path / "x.index", [random_rows([f"{n:03d}" for n in range(200)], 1)])
    whole = found(Gallery.open(path))
    gallery = Gallery.open(path, ann_min_rows=ann_min_rows)
    shutil.rmtree(path)
    monkeypatch.setattr(live_segment, "load_or_build", None)
    assert found(gallery) == whole
    assert gallery.image("007").metadata == {"colour": "blue"}
    assert ("was removed, so it is searched exactly" in caplog.text) == (ann_min_rows == 10)
    assert not path.exists()
