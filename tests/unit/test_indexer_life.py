"""Removing, compacting and merging: what an index holds afterwards, and how many segments it takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cir import checked, compact, merge, remove
from cir.errors import CorruptIndexError, IndexFormatError, UsageError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import FileEntry, SegmentEntry
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.history import rollback
from cir.indexer.writing.merging import to_absorb
from cir.indexer.writing.stored_rows import StoredRows, StoredSegment
from cir.testing.fakes import FakeEncoder, answer, build, contents, folder_of, make_index, random_rows


def manifest_of(index: Path):
    return read_manifest(IndexFolder(index))


def ids_of(index: Path) -> list[str]:
    return sorted(row.id for row in StoredRows(IndexFolder(index), manifest_of(index)))


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Three segments; rows 1 and 4 of the second are deleted."""
    names = [[f"{start + 3 * row:02d}.png" for row in range(9)] for start in range(3)]
    rows = [random_rows(ids, seed, tokens=4) for seed, ids in enumerate(names)]
    rows[1].deleted = (1, 4)
    return make_index(tmp_path / "several.index", rows, tokens=4)


# Rows.


def test_rows_are_found_by_id_content_and_root(several: Path) -> None:
    stored = StoredRows(IndexFolder(several), manifest_of(several))
    everything = list(stored)
    assert len(stored) == len(everything) == 25
    for wanted in (["00.png"], [row.id for row in everything], ["04.png", "13.png", "05.png", "none"], []):
        found = stored.find(wanted)
        assert list(found) == sorted(set(wanted) & {row.id for row in everything})
        assert all(row.id == image_id == row.segment.segment.ids[row.row] for image_id, row in found.items())
    for row in everything:
        assert stored.holding(row.digest) == row
        assert row.digest in stored
    deleted = stored.segments[1].segment.digests[4].tobytes()
    assert deleted not in stored
    assert bytes(32) not in stored
    assert len(list(stored.under({"/photos"}))) == 25
    assert not list(stored.under({"/other"}))
    assert stored.roots == {"/photos"}
    empty = StoredRows(IndexFolder(several), None)
    assert (len(empty), list(empty), empty.find(["a"]), bytes(32) in empty) == (0, [], {}, False)


def test_contents_whose_digests_begin_alike_are_told_apart(several: Path) -> None:
    segment = StoredRows(IndexFolder(several), manifest_of(several)).segments[0]
    digests = np.zeros((9, 32), np.uint8)
    digests[:, 31] = range(9)
    digests[5] = digests[2]
    segment.segment.digests = digests
    live = segment.live.copy()
    live[2] = False
    segment = StoredSegment(segment.entry, segment.segment, live)
    assert [segment.holding(digest.tobytes()) for digest in digests] == [0, 1, 5, 3, 4, 5, 6, 7, 8]
    assert segment.holding(b"\0" * 31 + b"\x0a") is None
    assert segment.holding(b"\xff" * 32) is None


# Merging by itself.


def stored_of(size: int, name: str, live: float = 1.0) -> StoredSegment:
    """A segment as `to_absorb` sees it."""
    layout = Layout.of(FakeEncoder().card)
    entry = SegmentEntry(name, 100, "", "", 16, 4, True, {"gallery.h5": FileEntry(size, "")})
    segment = type("Fake", (), {"layout": layout})()
    return StoredSegment(entry, segment, np.arange(100) < 100 * live)


def test_which_segments_a_new_one_absorbs() -> None:
    layout = Layout.of(FakeEncoder().card)

    def absorbed(sizes: list[int], size: int) -> list[int]:
        segments = [stored_of(each, str(number)) for number, each in enumerate(sizes)]
        return [each.size for each in to_absorb(segments, layout, size, small=10)]

    assert absorbed([], 1) == []
    assert absorbed([9, 3, 10], 1) == [3, 9, 10]  # what is small makes 13, of the same tier as the third
    assert absorbed([14, 3, 5], 1) == [3, 5]
    assert absorbed([39, 40], 10) == [39, 40]
    assert absorbed([40, 40], 30) == []
    assert absorbed([100, 20, 9], 12) == [9, 20, 100]
    assert absorbed([200, 20, 9], 12) == [9, 20]
    assert absorbed([200], 100) == []
    mostly_deleted = stored_of(100, "1", live=0.05)
    assert to_absorb([mostly_deleted], layout, 1, small=10) == [mostly_deleted]
    other = Layout.of(FakeEncoder("other").card)
    assert to_absorb([stored_of(1, "1")], other, 100, small=10) == []


def test_a_thousand_appends_leave_a_handful_of_segments_and_copy_each_row_a_few_times() -> None:
    layout, segments, copied = Layout.of(FakeEncoder().card), [], 0
    for number in range(1000):
        taken = to_absorb(segments, layout, 3, small=30)
        size = 3 + sum(each.size for each in taken)
        copied += size
        segments = [*(each for each in segments if each not in taken), stored_of(size, str(number))]
        assert len(segments) <= 2 + np.log(max(1, 3 * number / 30)) / np.log(4)
    assert sum(each.size for each in segments) == 3000
    assert copied / 3000 < 12


def test_appends_are_absorbed_and_nothing_changes_for_who_searches(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "x.index"
    for number in range(6):
        folder_of(photos, 4, start=4 * number)
        build(photos, out, metadata={f"{4 * number:04d}.png": {"shelf": str(number)}})
    (photos / "0002.png").unlink()
    (photos / "0003.png").rename(photos / "moved.png")
    build(photos, out, prune=True)
    assert [entry.rows for entry in manifest_of(out).segments] == [23]
    assert manifest_of(out).deleted == {}
    assert verify(out) == []
    build(photos, tmp_path / "fresh.index")
    assert answer(out) == answer(tmp_path / "fresh.index")
    gallery = Gallery.open(out)
    assert [gallery.image(f"{4 * number:04d}.png").metadata for number in range(6)] == [
        {"shelf": str(number)} for number in range(6)
    ]
    assert gallery.image("moved.png").metadata == {}
    rollback(out, 5)
    assert len(Gallery.open(out)) == 20


def test_a_damaged_segment_is_not_absorbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = folder_of(tmp_path / "photos", 6), tmp_path / "x.index"
    build(photos, out)
    path = IndexFolder(out).gallery("000001")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptIndexError, match="cir repair"):
        build(folder_of(tmp_path / "photos", 8), out)
    monkeypatch.setattr(checked, "_SETTLED", 0)  # from here on as when the disk itself has changed the byte
    checked.remember_checked(path, manifest_of(out).segments[0].files[path.name].sha256)
    build(tmp_path / "photos", out)
    assert [entry.rows for entry in manifest_of(out).segments] == [6, 2]
    assert len(verify(out)) > 0
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        compact(out)
    build(folder_of(tmp_path / "other", 2, start=50), tmp_path / "y.index")
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        merge([tmp_path / "y.index", out], tmp_path / "both.index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "photos", "x.index", "y.index"]


# Compacting.


def test_compacting(several: Path) -> None:
    before = answer(several)
    report = compact(several)
    assert (report.segments_before, report.segments, report.dropped, report.images) == (3, 1, 2, 25)
    assert (report.earlier, report.earlier_bytes) == (1, report.bytes_before)
    assert manifest_of(several).deleted == {}
    assert answer(several) == before
    assert verify(several) == []
    assert report.to_json()["path"] == str(several)
    again = compact(several)
    assert (again.generation, again.segments_before, again.dropped) == (report.generation, 1, 0)
    kept = compact(several, keep=3)
    assert (kept.generation, manifest_of(several).keep, kept.earlier) == (3, 3, 2)
    rollback(several)
    rollback(several, 1)
    assert len(manifest_of(several).segments) == 3
    assert answer(several) == before


def test_compacting_without_earlier_generations_frees_the_disk(several: Path) -> None:
    before = answer(several)
    open_before = Gallery.open(several)
    report = compact(several, keep=0)
    assert (report.earlier, report.earlier_bytes, manifest_of(several).keep) == (0, 0, 20)
    assert [path.name for path in (several / "segments").iterdir()] == ["000004"]
    assert [path.name for path in (several / "manifests").iterdir()] == ["000002.json"]
    assert answer(several) == before
    assert open_before.image("00.png").vector is not None  # who has it open keeps it
    assert verify(several) == []
    assert compact(several, keep=0).generation == 2  # nothing is left to do
    with pytest.raises(UsageError, match="no earlier generation"):
        rollback(several)


def test_what_cannot_be_compacted(tmp_path: Path, several: Path) -> None:
    with pytest.raises(IndexFormatError, match="no such index"):
        compact(tmp_path / "none")
    with pytest.raises(UsageError, match="keep is -1"):
        compact(several, keep=-1)


# Removing.


def test_removing_by_id_and_metadata(several: Path) -> None:
    before = contents(several)
    red = [
        image_id for image_id in ids_of(several) if Gallery.open(several).image(image_id).metadata == {"colour": "Red"}
    ]
    dry = remove(several, where="colour=red", dry_run=True)
    assert (dry.removed, dry.images, dry.dry_run, dry.generation) == (red, 25 - len(red), True, 1)
    assert contents(several) == before
    report = remove(several, ids=[red[0], "01.png", *red], where={"colour": "red"})
    assert (report.removed, report.images, report.generation) == (red, 25 - len(red), 2)
    assert not set(red) & set(Gallery.open(several).ids)
    assert verify(several) == []
    assert remove(several, ids="01.png").removed == ["01.png"]
    assert remove(several, where="colour=red").generation == 3  # nothing was removed
    rollback(several, 1)
    assert len(Gallery.open(several)) == 25


def test_an_unknown_id_removes_nothing(several: Path) -> None:
    before = contents(several)
    unknown = [f"x{number}.png" for number in range(7)]
    with pytest.raises(UsageError, match=r"'x0.png', .*'x4.png' and 2 more; nothing was removed") as error:
        remove(several, ids=["00.png", *unknown])
    assert "x5" not in str(error.value)
    for words in ({}, {"ids": None, "where": []}):
        with pytest.raises(UsageError, match="nothing says which images"):
            remove(several, **words)
    with pytest.raises(UsageError, match="no metadata column 'size'"):
        remove(several, where="size=M")
    assert remove(several, ids=[]).removed == []
    assert contents(several) == before


def test_everything_can_be_removed(several: Path) -> None:
    assert remove(several, ids=ids_of(several)).images == 0
    assert manifest_of(several).segments == ()
    assert compact(several).segments == 0
    assert len(Gallery.open(several)) == 0
    assert verify(several) == []


def test_removing_what_is_gone(tmp_path: Path) -> None:
    photos, disk, out = (
        folder_of(tmp_path / "photos", 6),
        folder_of(tmp_path / "disk", 3, start=6),
        tmp_path / "x.index",
    )
    build(photos, out)
    build(disk, out)
    assert remove(out, missing=True).removed == []
    (photos / "0001.png").unlink()
    shutil.move(disk, tmp_path / "elsewhere")
    report = remove(out, missing=True, dry_run=True)
    assert (report.removed, report.left, report.images) == (["0001.png"], {str(disk.resolve()): 3}, 8)
    assert remove(out, missing=True, ids=["0000.png", "0001.png"]).removed == ["0001.png"]
    assert remove(out, gone_folders=True).removed == ["0006.png", "0007.png", "0008.png"]
    assert len(Gallery.open(out)) == 5
