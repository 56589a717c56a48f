"""What a machine has of an index in a store: one segment, what fits into the cache, and what is open."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cir.errors import CorruptIndexError, StoreError, UsageError
from cir.indexer.reading.gallery import Gallery, refreshed
from cir.indexer.storage.cache import cache_folder, make_room
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.indexer.storage.mirror import fetch_segment, folder_at, place_of, upload_segment
from cir.indexer.storage.writer import writing
from cir.indexer.writing.remove import remove
from cir.objects import open_store
from cir.testing.fakes import Answer, FakeEncoder, answer, build, paint, queries_for
from cir.testing.store_server import SpoiltLine

Machine = Callable[[str], None]


def keys(index: str) -> set[str]:
    return {info.key for info in open_store(index).listed()}


def test_workers_fetch_and_upload_one_segment(index: str, photos: Path, out: Path, machine: Machine) -> None:
    build(photos, out)
    manifest = read_manifest(IndexFolder(out))
    (entry,) = manifest.segments
    machine("worker")
    assert upload_segment(folder_at(index), IndexFolder(out).gallery(entry.name)) == entry.files[GALLERY]
    assert "CURRENT" not in keys(index)
    machine("driver")
    with writing(index_folder(index)) as writer:
        writer.publish(manifest)
    machine("searcher")
    folder = folder_at(index)
    assert fetch_segment(folder, entry) == folder.gallery(entry.name)
    assert len(open_segment(folder, entry)) == 20
    assert answer(Path(index)) == answer(out)
    machine("driver")
    other = replace(entry, files={GALLERY: replace(entry.files[GALLERY], sha256="0" * 64)})
    with writing(index_folder(index)) as writer, pytest.raises(CorruptIndexError, match="upload it before"):
        writer.publish(manifest.succeed(segments=[replace(other, name="000009")]))


def test_the_cache_keeps_what_is_open(index: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(photos, Path(index))
    monkeypatch.setenv("CIR_CACHE_GB", "0")
    gallery = Gallery.open(index)
    before = search(gallery)
    (file,) = cache_folder().rglob(GALLERY)
    make_room(cache_folder(), 0)
    assert file.is_file()
    assert search(gallery) == before
    code = (
        "from cir.indexer.reading.gallery import Gallery\n"
        f"gallery = Gallery.open({index!r})\nprint(len(gallery), flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "20\n"
        del gallery
        gc.collect()
        make_room(cache_folder(), 0)
        assert file.is_file()  # the other process has it open
        process.communicate("\n", 60)
    make_room(cache_folder(), 0)
    assert not file.exists()
    assert search(Gallery.open(index)) == before
    monkeypatch.setenv("CIR_CACHE_GB", "much")
    with pytest.raises(UsageError, match="CIR_CACHE_GB is 'much'"):
        Gallery.open(index)


def test_segments_of_long_ago_make_room_first(bucket: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"{bucket}/{name}" for name in "abc"]
    for url in urls:
        build(photos, Path(url))
    gc.collect()
    sizes = [path.stat().st_size for path in cache_folder().rglob(GALLERY)]
    monkeypatch.setenv("CIR_CACHE_GB", str(2.5 * sizes[0] / 1e9))
    Gallery.open(urls[0])
    left = [bool(list(folder_at(url).root.rglob(GALLERY))) for url in urls]
    assert left == [True, False, True]


def test_a_folder_of_the_cache_stands_for_its_index(index: str, photos: Path, machine: Machine) -> None:
    build(photos, Path(index))
    root = index_folder(index).root
    assert str(place_of(folder_at(root))) == index
    remove(root, ids=["0001.png"])
    machine("other")
    assert len(Gallery.open(index)) == 19


def search(gallery: Gallery) -> Answer:
    from cir.indexer.reading.ranking import RankingOptions

    return gallery.search(queries_for(gallery, "a", "b"), RankingOptions(5))


def caught_up(gallery: Gallery, generation: int) -> Gallery:
    deadline = time.monotonic() + 60
    while gallery.manifest.generation < generation:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        gallery = refreshed(gallery)
    return gallery


def test_an_open_index_goes_on_with_what_is_published(
    index: str, photos: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(photos, Path(index))
    machine("server")
    gallery = Gallery.open(index)
    assert refreshed(gallery) is gallery
    machine("writer")
    paint(photos / "more.png", 500)
    build(photos, Path(index))
    machine("server")
    later = caught_up(gallery, 2)
    assert len(later) == 21
    assert len(gallery) == 20


def test_a_server_goes_on_with_what_is_published(index: str, photos: Path, machine: Machine) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from cir.search import Searcher
    from cir.serve.settings import Limits, Settings
    from cir.testing.served import Served

    build(photos, Path(index))
    machine("server")
    with Served(
        Searcher(Gallery.open(index), lambda card: FakeEncoder(card.name)), Settings(limits=Limits(rate=0))
    ) as served:
        assert served.request("GET", "/info").json()["name"] == "my.index"
        assert len(served.search(text="red", k=100)["hits"]) == 20
        machine("writer")
        remove(index, ids=["0001.png"])
        machine("server")
        deadline = time.monotonic() + 60
        while (answered := served.search(text="red", k=100))["generation"] == 1:
            assert time.monotonic() < deadline
        assert len(answered["hits"]) == 19
        assert served.request("GET", "/info").json()["problem"] == ""
        store = open_store(index)
        (line, _) = store.get("CURRENT", 1000) or (b"", None)
        for content, problem in ((b"garbage", f"{index}/CURRENT cannot be read"), (line, "")):
            store.put("CURRENT", content)
            while served.request("GET", "/info").json()["problem"][: len(problem) or None] != problem:
                assert len(served.search(text="red", k=100)["hits"]) == 19
                assert time.monotonic() < deadline


def test_an_open_index_answers_without_its_store(
    index: str,
    photos: Path,
    machine: Machine,
    line: SpoiltLine,
    caplog: pytest.LogCaptureFixture,
    patience: Callable[[float], None],
) -> None:
    build(photos, Path(index))
    patience(2)
    gallery = Gallery.open(index)
    line.cut_after = 0
    caplog.set_level(logging.WARNING, "cir")
    deadline = time.monotonic() + 60
    while "answers go on from what is here" not in caplog.text:
        started = time.monotonic()
        assert refreshed(gallery) is gallery
        assert len(search(gallery)) == 2
        assert time.monotonic() - started < 1  # nobody waits for the store
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_segment_that_is_here_needs_no_store(
    index: str, photos: Path, line: SpoiltLine, caplog: pytest.LogCaptureFixture, patience: Callable[[float], None]
) -> None:
    build(photos, Path(index))
    manifest = read_manifest(index_folder(index))
    patience(1)
    line.cut_after = 0
    folder = folder_at(index)
    for _ in range(2):
        for entry in manifest.segments:
            assert fetch_segment(folder, entry).is_file()
    assert caplog.text.count("what is derived from segments is made here") == 1
    (entry,) = manifest.segments
    folder.gallery(entry.name).unlink()
    with pytest.raises(StoreError):
        fetch_segment(folder_at(index), entry)
