"""Building: what is skipped or refused, and what is left alone then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cir import ImportOptions, compact
from cir.errors import (
    CorruptIndexError,
    DataError,
    IndexFormatError,
    IndexLockedError,
    SpaceMismatchError,
    UsageError,
)
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.writer import writing
from cir.indexer.writing.build import BuildOptions, build_index
from cir.testing.fakes import FakeEncoder, answer, build, contents, paint


@pytest.mark.parametrize("columns", [{"": "x"}, {"a\0": "x"}, {"a": "\0"}, {"a": 1}, {"a": None}, {None: "x"}])
def test_metadata_that_cannot_be_stored(photos: Path, out: Path, columns: Any) -> None:
    with pytest.raises(UsageError, match=r"metadata of 0000\.png"):
        build(photos, out, metadata={"0000.png": columns})
    assert not out.exists()


def test_metadata_of_no_image_is_reported(photos: Path, out: Path) -> None:
    (photos / "0001.png").write_bytes(b"broken")
    report = build(photos, out, metadata={name: {"a": "x"} for name in ("nope", "0000.png", "0001.png")})
    assert (report.unmatched, [name for name, _ in report.skipped]) == (["nope"], ["0001.png"])


def test_unreadable_images_are_skipped_with_a_reason(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "broken.png").write_bytes(b"not an image")
    shutil.copy(photos / "broken.png", photos / "broken twin.png")
    data = (photos / "0000.png").read_bytes()
    (photos / "0001.png").write_bytes(data[: len(data) // 2])
    (photos / "gone.png").symlink_to(photos / "0002.png")
    images = scan([photos])
    (photos / "gone.png").unlink()
    report = build_index(images, out, FakeEncoder(), options=BuildOptions(workers=2, batch_size=4))
    assert [image_id for image_id, _ in report.skipped] == ["0001.png", "broken twin.png", "broken.png", "gone.png"]
    assert report.total == 19
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in rows] == report.skipped
    assert {row["root"] for row in rows} == {str(photos.resolve())}


def test_an_indexed_image_that_breaks_is_kept_as_it_was(photos: Path, out: Path) -> None:
    build(photos, out)
    before = answer(out)
    (photos / "0004.png").write_bytes(b"broken")
    report = build(photos, out, prune=True)
    assert [image_id for image_id, _ in report.skipped] == ["0004.png"]
    assert (report.missing, report.total, report.generation) == ([], 20, 1)
    assert answer(out) == before


def test_nothing_usable_leaves_no_index(tmp_path: Path, out: Path) -> None:
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


def test_a_place_that_is_something_else_is_left_alone(photos: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("precious")
    with pytest.raises(IndexFormatError, match=r"is not an index: it holds thesis\.tex"):
        build(photos, home)
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]
    with pytest.raises(IndexFormatError, match="is not an index but a file"):
        build(photos, home / "thesis.tex")


def test_what_a_kill_left_of_the_first_pointer_is_no_foreign_file(photos: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (out / ".tmp-0123456789ab-CURRENT").write_text("000001.json 00")
    assert len(build(photos, out).added) > 0
    assert not list(out.rglob(".tmp-*"))


def test_another_model_is_refused(photos: Path, out: Path) -> None:
    build(photos, out)
    before = contents(out)
    with pytest.raises(SpaceMismatchError, match=r"was made by model fake-1 .*, not fake-2 .*--model YOUR_MODEL"):
        build(photos, out, FakeEncoder("fake-2"))
    assert contents(out) == before


def test_tokens_are_the_index_s_choice(photos: Path, out: Path, tmp_path: Path) -> None:
    build(photos, out, tokens=False)
    assert not Gallery.open(out).layout.tokens
    paint(photos / "new.png", 60)
    build(photos, out)
    assert not Gallery.open(out).layout.tokens
    with_tokens = tmp_path / "tokens.index"
    build(photos, with_tokens)
    with pytest.raises(UsageError, match="holds tokens; keep them"):
        build(photos, with_tokens, tokens=False)
    with pytest.raises(UsageError, match="nothing but tokens"):
        build(photos, tmp_path / "none.index", FakeEncoder(vector=False), tokens=False)


@pytest.mark.parametrize("change", [{"workers": 0}, {"batch_size": 0}, {"part_rows": -1}])
def test_numbers_below_one(photos: Path, out: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give at least 1"):
        build(photos, out, **change)


def test_two_images_of_one_id(photos: Path, out: Path) -> None:
    images = scan([photos])
    with pytest.raises(UsageError, match=r"two images have the id 0000\.png"):
        build_index([*images, images[0]], out, FakeEncoder())


def test_a_dry_run_writes_nothing(photos: Path, out: Path) -> None:
    encoder = FakeEncoder()
    report = build(photos, out, encoder, dry_run=True)
    assert (len(report.added), report.total, report.generation, report.dry_run) == (20, 20, 0, True)
    assert not out.parent.exists()
    build(photos, out)
    before = contents(out)
    paint(photos / "new.png", 61)
    (photos / "0000.png").unlink()
    report = build(photos, out, encoder, dry_run=True, prune=True)
    assert (report.added, report.missing, report.total, encoder.encoded) == (["new.png"], ["0000.png"], 20, 0)
    assert contents(out) == before


def test_one_build_at_a_time(photos: Path, out: Path) -> None:
    build(photos, out)
    with writer_lock(IndexFolder(out)), pytest.raises(IndexLockedError):
        build(photos, out)


def test_temporaries_and_orphans_of_killed_builds_go(photos: Path, out: Path) -> None:
    build(photos, out)
    (out / ".tmp-1-CURRENT").touch()
    (out / "manifests" / ".tmp-2-x").touch()
    (IndexFolder(out).segments / "000007").mkdir()
    paint(photos / "new.png", 62)
    build(photos, out)
    assert not list(out.rglob(".tmp-*"))
    assert sorted(path.name for path in (IndexFolder(out).segments).iterdir()) == ["000001", "000002"]


def test_each_of_several_broken_photos_of_the_same_bytes_is_named(photos: Path, out: Path) -> None:
    for name in ("one.png", "two.png"):
        (photos / name).write_bytes(b"no picture")
    skipped = dict(build(photos, out).skipped)
    assert skipped.keys() == {"one.png", "two.png"}
    assert all(reason.startswith(f"{name}: ") for name, reason in skipped.items())


@pytest.mark.parametrize("keep", [10_001, 2**63, 10**30])
@pytest.mark.parametrize(
    "step", [compact, lambda _, keep: BuildOptions(keep=keep), lambda _, keep: ImportOptions(keep=keep)]
)
def test_more_generations_than_an_index_keeps(out: Path, photos: Path, step: Any, keep: int) -> None:
    build(photos, out)
    before = contents(out)
    with pytest.raises(UsageError, match="give at most 10,000"):
        step(out, keep=keep)
    assert contents(out) == before


def test_what_nobody_could_read_is_not_published(out: Path, photos: Path) -> None:
    build(photos, out)
    before = contents(out)
    with writing(IndexFolder(out)) as writer, pytest.raises(CorruptIndexError, match="is not a manifest"):
        writer.publish(read_manifest(IndexFolder(out)).succeed(keep=10**30))
    assert {**contents(out), "LOCK": b""} == {**before, "LOCK": b""}
