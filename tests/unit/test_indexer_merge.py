"""Merging indexes: one out of several, or a refusal that leaves nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir import import_vectors, merge
from cir.data.judged_query import JudgedQuery
from cir.errors import IndexFormatError, SpaceMismatchError, UsageError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.questions import photos_of
from cir.indexer.writing.backfill import backfill
from cir.replacement.questions import store, stored
from cir.testing.fakes import DIMS, FakeEncoder, answer, build, contents, folder_of, paint
from cir.testing.two_models import NEW, OLD, PROCRUSTES, RIDGE, serve_new


def test_merging_two_indexes(tmp_path: Path) -> None:
    first, second, out = (tmp_path / f"{name}.index" for name in ("first", "second", "both"))
    build(
        folder_of(tmp_path / "a", 6),
        first,
        metadata={"0004.png": {"colour": "red", "size": "M"}, "0005.png": {"a": "b"}},
    )
    other = folder_of(tmp_path / "b", 5, start=4)
    build(other, second, metadata={"0004.png": {"colour": "blue", "year": "2011"}, "0006.png": {"colour": "green"}})
    before = contents(first), contents(second)
    report = merge([first, second], out)
    assert (report.images, report.twice, report.differing, report.questions) == (9, 2, ["0004.png"], 0)
    assert before == (contents(first), contents(second))
    gallery = Gallery.open(out)
    assert gallery.ids == [f"{number:04d}.png" for number in range(9)]
    assert gallery.image("0004.png").metadata == {"colour": "red", "size": "M", "year": "2011"}
    assert gallery.image("0005.png").metadata == {"a": "b"}
    assert gallery.image("0006.png").metadata == {"colour": "green"}
    assert [Path(gallery.image(f"000{number}.png").root).name for number in (0, 4, 5, 6)] == ["a", "a", "a", "b"]
    assert all(gallery.image(image_id).read() for image_id in gallery.ids)
    assert len(gallery.manifest.segments) == 1
    assert [Path(root).name for root in gallery.manifest.roots] == ["a", "b"]
    assert verify(out) == []
    everything = tmp_path / "all.index"
    build(folder_of(tmp_path / "c", 9), everything)
    assert answer(out) == answer(everything)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    encoder = FakeEncoder()
    build(other, out, encoder)
    assert encoder.encoded == 0


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.index", tmp_path / "b.index", tmp_path / "both.index"
    build(folder_of(tmp_path / "a", 3), a)
    build(folder_of(tmp_path / "b", 3), b)
    paint(tmp_path / "b" / "0001.png", 77)
    build(tmp_path / "b", b)
    with pytest.raises(
        UsageError, match=r"different images have the same id: '0001.png'; index their folders together"
    ):
        merge([a, b], out)
    for inside in (a / "sub", a / "segments" / "sub", tmp_path / "b" / ".." / "b.index" / "sub"):
        with pytest.raises(UsageError, match=r"sub is inside .*\.index, which is merged"):
            merge([a, b], inside)
    for given in ([a], [a, tmp_path / "b" / ".." / "a.index"]):
        with pytest.raises(UsageError, match="at least two indexes"):
            merge(given, out)
    with pytest.raises(UsageError, match="exists and holds"):
        merge([a, b], tmp_path / "a")
    with pytest.raises(UsageError, match="exists; name a new folder"):
        merge([a, b], tmp_path / "a" / "0000.png")
    with pytest.raises(IndexFormatError, match="no such index"):
        merge([a, tmp_path / "none"], out)
    build(tmp_path / "b", tmp_path / "other.index", FakeEncoder("other"))
    with pytest.raises(SpaceMismatchError, match=r"served by model fake-1 and .* is served by model other"):
        merge([a, tmp_path / "other.index"], out)
    build(tmp_path / "b", tmp_path / "plain.index", tokens=False)
    with pytest.raises(UsageError, match=r"one vector and 4 tokens per image in float16 and .* one vector per image"):
        merge([a, tmp_path / "plain.index"], out)
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


def test_judged_queries_are_merged(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.index", tmp_path / "b.index", tmp_path / "both.index"
    build(folder_of(tmp_path / "a", 12), a)
    build(folder_of(tmp_path / "b", 12, start=6), b)
    names = [f"{number:04d}.png" for number in range(18)]
    many = JudgedQuery("many", names[0], "like this", frozenset(names[1:12]))  # photos of a few targets are kept
    same, one, other = (JudgedQuery(name, names[6], name, frozenset({names[7]})) for name in ("same", "one", "other"))
    store(Gallery.open(a), [many, same, one])
    store(Gallery.open(b), [same, replace(other, id="one")])
    report = merge([a, b], out)
    assert (report.questions, report.questions_left) == (4, [])
    wanted = {"many": many, "same": same, "one": one, "b:one": replace(other, id="b:one")}
    assert {query.id: query for query in stored(Gallery.open(out)).queries} == wanted
    assert photos_of(IndexFolder(out)) == photos_of(IndexFolder(a)) | photos_of(IndexFolder(b))
    assert len(photos_of(IndexFolder(out))) < 12
    assert verify(out) == []
    shutil.rmtree(tmp_path / "a")
    assert Gallery.open(out).image(names[0]).read()  # from the photos that are kept


def test_half_reindexed_indexes_are_merged(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.index", tmp_path / "b.index", tmp_path / "both.index"
    build(folder_of(tmp_path / "a", 8), a, OLD)
    build(folder_of(tmp_path / "b", 8, start=4), b, OLD)
    serve_new(a, PROCRUSTES)
    serve_new(b, RIDGE)
    with pytest.raises(UsageError, match=r"reach the vectors of model old-1 in different ways; run `cir backfill`"):
        merge([a, b], out)
    serve_new(b, PROCRUSTES)
    next(backfill(b, NEW, count=2))  # 0004.png and 0005.png
    report = merge([a, b], out)
    gallery = Gallery.open(out)
    assert (report.images, report.twice, len(gallery.manifest.segments)) == (12, 4, 2)
    assert gallery.ids_in(gallery.space.id) == ["0004.png", "0005.png"]  # the serving model's vectors are preferred
    assert Path(gallery.image("0004.png").root).name == "a"
    assert gallery.mappings.keys() == {OLD.card.space.id}
    assert gallery.searched() == (12, 0)
    assert verify(out) == []
    (*_, last) = backfill(out, NEW)
    assert last.left == 0


def test_a_merge_killed_before_it_published_is_begun_again(tmp_path: Path) -> None:
    first, second, out = tmp_path / "a.index", tmp_path / "b.index", tmp_path / "both.index"
    build(folder_of(tmp_path / "a", 3), first)
    build(folder_of(tmp_path / "b", 3, start=3), second)
    merge([first, second], out)
    out.rename(tmp_path / ".tmp-merge-both.index")
    (tmp_path / ".tmp-merge-both.index" / "CURRENT").unlink()  # its manifest is there
    assert merge([first, second], out).images == 6
    assert verify(out) == []


def test_a_photo_and_imported_vectors_of_one_id(tmp_path: Path) -> None:
    photos, first, second = (tmp_path / f"{name}.index" for name in ("photos", "first", "second"))
    encoder = FakeEncoder(tokens=0)
    build(folder_of(tmp_path / "a", 2), photos, encoder)
    for number, index in enumerate((first, second)):
        import_vectors(np.eye(DIMS, dtype="float32")[[number]], index, encoder, ids=["0001.png"])
    with pytest.raises(
        UsageError, match=r"holds a photo and another an imported vector of the same id: '0001\.png'; rem"
    ):
        merge([photos, first], tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another vector than another of the same id: '0001\.png'"):
        merge([first, second], tmp_path / "out")
