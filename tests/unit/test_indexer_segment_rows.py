"""Builds that are cut into segments by position: what they hold, how they are resumed, what does not change the cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cir import errors
from cir.files import sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder, record
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.report import BuildReport
from cir.indexer.writing.spreading import usual_rows
from cir.testing.fakes import FakeEncoder, answer, build, folder_of, paint

ROWS = 8  # two batches


def cut(photos: Path, out: Path, encoder: FakeEncoder | None = None, **options: Any) -> BuildReport:
    return build(photos, out, encoder, **{"segment_rows": ROWS, **options})


def segments(out: Path) -> list[str]:
    """Digests of the segment files of the live generation."""
    folder = IndexFolder(out)
    return [sha256_file(folder.gallery(entry.name)) for entry in read_manifest(folder).segments]


def clean(out: Path) -> bool:
    """Whether an index is whole, and nothing of its making is left."""
    folder = IndexFolder(out)
    named = {entry.name for entry in read_manifest(folder).segments}
    return verify(out) == [] and not folder.work.exists() and {p.name for p in folder.segments.iterdir()} >= named


def test_it_holds_what_one_segment_would(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_text("no picture")
    shutil.copy(photos / "0002.png", photos / "again.png")
    metadata = {"0003.png": {"colour": "red"}, "0012.png": {"colour": "blue"}}
    whole = build(photos, tmp_path / "whole.index", metadata=metadata)
    made = cut(photos, tmp_path / "cut.index", metadata=metadata)
    assert (made.added, made.skipped, made.total) == (whole.added, whole.skipped, 21)
    assert answer(tmp_path / "cut.index") == answer(tmp_path / "whole.index")
    first, second = (Gallery.open(tmp_path / name) for name in ("whole.index", "cut.index"))
    assert [first.image(i).metadata for i in first.ids] == [second.image(i).metadata for i in second.ids]
    assert [first.image(i).root for i in first.ids] == [second.image(i).root for i in second.ids]
    assert len(segments(tmp_path / "cut.index")) == 3
    assert clean(tmp_path / "cut.index")
    assert (tmp_path / "cut.index" / "skipped.jsonl").read_text() == (
        tmp_path / "whole.index" / "skipped.jsonl"
    ).read_text()


def test_threads_do_not_change_a_byte(photos: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        cut(photos, tmp_path / f"{workers}.index", workers=workers)
    assert segments(tmp_path / "1.index") == segments(tmp_path / "3.index")


@pytest.mark.parametrize("after", [1, 9, 16])
def test_a_stopped_build_finds_its_segments(photos: Path, tmp_path: Path, after: int) -> None:
    cut(photos, tmp_path / "whole.index")
    out = tmp_path / "x.index"
    with pytest.raises(KeyboardInterrupt):
        cut(photos, out, FakeEncoder(after=after), workers=1)
    with pytest.raises(errors.IndexFormatError, match="unfinished"):
        answer(out)
    encoder = FakeEncoder()
    report = cut(photos, out, encoder)
    assert report.resumed == ROWS * (after // ROWS)
    assert encoder.encoded == 20 - report.resumed
    assert segments(out) == segments(tmp_path / "whole.index")
    assert clean(out)


def test_a_damaged_segment_and_a_changed_photo_are_made_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    with pytest.raises(KeyboardInterrupt):
        cut(photos, out, FakeEncoder(after=16), workers=1)
    gallery = IndexFolder(out).gallery("000001")
    gallery.write_bytes(gallery.read_bytes()[:-1] + b"?")
    paint(photos / "0009.png", 900)  # of the second segment
    encoder = FakeEncoder()
    assert cut(photos, out, encoder).resumed == 0
    assert encoder.encoded == 20
    cut(photos, tmp_path / "whole.index")
    assert segments(out) == segments(tmp_path / "whole.index")
    assert clean(out)


def test_another_command_leaves_finished_segments_and_an_uncut_build_removes_them(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    build(folder_of(tmp_path / "before", 3, 300), out)
    with pytest.raises(KeyboardInterrupt):
        cut(photos, out, FakeEncoder(after=9), workers=1)
    build(tmp_path / "before", out, dry_run=True)
    assert record(IndexFolder(out), "000002").exists()
    assert verify(out) == []
    encoder = FakeEncoder()
    assert build(photos, out, encoder).total == 23
    assert encoder.encoded == 20
    assert clean(out)
    assert len(list(IndexFolder(out).segments.iterdir())) == 2


def test_a_first_build_that_was_cut_and_killed_is_no_lost_index(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    with pytest.raises(KeyboardInterrupt):
        cut(photos, out, FakeEncoder(after=16), workers=1)
    assert len(list(IndexFolder(out).segments.iterdir())) == 2
    assert build(photos, out).total == 20  # without the option
    assert clean(out)


def test_bringing_up_to_date(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    cut(photos, out, metadata={"0005.png": {"colour": "red"}})
    (photos / "0005.png").rename(photos / "zz.png")
    paint(photos / "0007.png", 700)
    (photos / "0011.png").unlink()
    folder_of(photos / "more", ROWS, 300)
    encoder = FakeEncoder()
    report = cut(photos, out, encoder, prune=True)
    assert encoder.encoded == ROWS + 1
    assert (report.renamed, report.updated, report.missing) == ([("0005.png", "zz.png")], ["0007.png"], ["0011.png"])
    build(photos, tmp_path / "whole.index")
    assert answer(out) == answer(tmp_path / "whole.index")
    assert Gallery.open(out).image("zz.png").metadata == {"colour": "red"}
    assert clean(out)
    assert cut(photos, out).generation == report.generation  # nothing to do
    assert clean(out)


def test_nothing_but_broken_pictures(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_text("no picture")
    with pytest.raises(errors.DataError, match="none of the 1 images"):
        cut(photos, tmp_path / "x.index")
    assert not (tmp_path / "x.index").exists()


def test_the_usual_cut_follows_the_gallery() -> None:
    from cir.indexer.storage.segment import Layout

    layout = Layout.of(FakeEncoder(tokens=0).card)
    assert [usual_rows(images, layout) for images in (10, 10**5, 10**9)] == [1024, 6250, 131_072]
    tokens = Layout("", "", "", dims=256, tokens=32, vectors=False)
    assert usual_rows(10**9, tokens) == 16_384
