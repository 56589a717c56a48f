"""A scan finds every image once, and counts or lists what it leaves out."""

from __future__ import annotations

import bz2
import lzma
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from cir.data.annotations import find_pictures
from cir.data.image_source import image_source
from cir.errors import DataError, ImageDecodeError, UsageError
from cir.images import locate, scan, scanning, zips
from cir.testing.fakes import FakeEncoder, build, paint
from cir.testing.pictures import small_png, zipped


def test_a_root_is_a_place_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "photos" / "in" / "a.png", 0)
    zipped(tmp_path / "more.zip", "b.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "link.zip").symlink_to(tmp_path / "more.zip")
    (tmp_path / "nameless").write_bytes((tmp_path / "more.zip").read_bytes())
    (tmp_path / "named.zip").symlink_to("nameless")
    monkeypatch.chdir(tmp_path / "photos")
    spellings = [".", "../photos", tmp_path / "photos" / "in" / "..", tmp_path / "link", f"{tmp_path}//photos/"]
    assert {scan(spelling)[0] for spelling in spellings} == {scan(tmp_path / "photos")[0]}
    assert scan(spellings) == scan(tmp_path / "photos")  # one root, given five times
    assert scan(tmp_path / "link.zip") == scan(tmp_path / "more.zip")
    for image in scan([tmp_path / "link", tmp_path / "link.zip"]):
        assert image.root == os.path.realpath(image.root)
        assert locate(image.root, image.id) == image
    (image,) = scan(tmp_path / "named.zip")
    assert locate(image.root, image.id) == image


def test_a_second_build_knows_the_folder_by_another_spelling(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.png", 0)
    (tmp_path / "link").symlink_to("photos")
    build(tmp_path / "photos", tmp_path / "an.index")
    paint(tmp_path / "photos" / "a.png", 1)
    assert build(tmp_path / "link", tmp_path / "an.index").updated == ["a.png"]


def test_what_is_passed_over_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        *("a.png", "b.txt", "c.MOV", "noext", "d.odd suffix", "e.heic", ".hidden/a.png", ".f.png", "._a.png"),
        *("@eaDir/a.png/thumb.jpg", "in/#recycle/a.png", "$RECYCLE.BIN/S-1/a.png", "__MACOSX/a.png", "drafts/a.png"),
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    zipped(tmp_path / "a.zip", "b.png", "c.txt", "d.zip", "__MACOSX/._b.png", ".hidden/b.png", "@eaDir/b.png")
    monkeypatch.setattr(scanning, "find_spec", lambda name: None)
    found = scan(tmp_path, exclude=["drafts"])
    assert [image.id for image in found] == ["a.png", "a.zip/b.png"]
    assert found.passed_over == {
        "._ files of macOS": 1,
        ".mov files": 1,
        ".txt files": 2,
        "HEIC pictures (pip install 'cir-engine[heic]' reads them)": 1,
        "files excluded on request": 1,
        "files in #recycle": 1,
        "files in $RECYCLE.BIN": 1,
        "files in @eaDir": 2,
        "files in __MACOSX": 2,
        "files of other suffixes": 1,
        "files without a suffix": 1,
        "hidden files": 3,
        "archives inside archives": 1,
    }
    with pytest.raises(DataError, match="HEIC pictures"):
        scan(tmp_path / "e.heic")
    monkeypatch.undo()
    monkeypatch.setattr(scanning, "find_spec", lambda name: object())
    assert "e.heic" in [image.id for image in scan(tmp_path)]


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("*.gif", ["a.zip/c.png", "in/b.png"]),
        ("in", ["a.gif", "a.zip/c.png"]),
        ("in/*.png", ["a.gif", "a.zip/c.png"]),
        ("c.*", ["a.gif", "in/b.png"]),
        ("a.zip", ["a.gif", "in/b.png"]),
        ("in/", ["a.gif", "a.zip/c.png"]),  # as the shell completes it
        ("./in", ["a.gif", "a.zip/c.png"]),
        ("nothing", ["a.gif", "a.zip/c.png", "in/b.png"]),
    ],
)
def test_patterns_leave_out_files_folders_and_members(tmp_path: Path, glob: str, left: list[str]) -> None:
    for name in ("a.gif", "in/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(small_png())
    zipped(tmp_path / "a.zip", "c.png")
    found = scan(tmp_path, exclude=[glob])
    assert [image.id for image in found] == left
    assert sum(found.passed_over.values()) == 3 - len(left)
    assert scan(tmp_path, exclude=glob) == found  # one pattern may stand alone


def test_an_empty_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an empty pattern"):
        scan(tmp_path, exclude=["*.gif", "/"])


def test_a_folder_reached_by_links_keeps_its_own_name(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "z" / "real" / "a.png", 0)
    (tmp_path / "photos" / "a-link").symlink_to(tmp_path / "photos" / "z" / "real")
    (tmp_path / "photos" / "z" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "loop.png").symlink_to("loop.png")
    paint(tmp_path / "elsewhere" / "b.png", 1)
    (tmp_path / "photos" / "out").symlink_to(tmp_path / "elsewhere")
    found = scan(tmp_path / "photos")
    assert [image.id for image in found] == ["loop.png", "out/b.png", "z/real/a.png"]
    assert found.passed_over == {"folders reached a second time through a link": 2}
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        found[0].read()


def test_a_folder_may_be_called_like_a_picture_and_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("x.jpg", *["d"] * 1200)
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for part in deep.relative_to(tmp_path).parts:
            os.mkdir(part, dir_fd=here)
            inner = os.open(part, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        handle = os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(handle, small_png())
        os.close(handle)
    finally:
        os.close(here)
    (image,) = scan(tmp_path)
    assert locate(image.root, image.id).read() == small_png()
    subprocess.run(["rm", "-r", tmp_path / "x.jpg"], check=True)  # too deep for Python's own


def test_what_cannot_be_listed_is_named_and_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "photos" / "closed" / "a.png", 0)
    paint(tmp_path / "photos" / "b.png", 1)
    build(tmp_path / "photos", tmp_path / "an.index")
    real_list, real_stat = os.scandir, os.stat
    closed = str(tmp_path / "photos" / "closed")

    def refuse(path: object, *rest: object, **more: object) -> None:
        if isinstance(path, str) and path.startswith(closed):
            raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: refuse(path) or real_list(path))
        patch.setattr(os, "stat", lambda path, **more: refuse(path) or real_stat(path, **more))
        found = scan(tmp_path / "photos")
        assert found.unusable == (("closed/", "this folder cannot be listed: Permission denied"),)
        report = build(tmp_path / "photos", tmp_path / "an.index", prune=True)
    assert (report.total, report.missing) == (2, [])
    assert report.skipped == [("closed/", "this folder cannot be listed: Permission denied")]


def test_nothing_usable_says_what_was_there(tmp_path: Path) -> None:
    zipped(tmp_path / "photos" / "a.zip", "../up.png")
    with pytest.raises(DataError, match=r"none of the 1 images can be used; the first: a\.zip/\.\./up\.png"):
        build(tmp_path / "photos", tmp_path / "an.index")
    assert not (tmp_path / "an.index").exists()


def test_a_plain_list_of_images_builds_as_well(tmp_path: Path) -> None:
    from cir.indexer.writing.build import build_index

    paint(tmp_path / "photos" / "a.png", 0)
    report = build_index(list(scan(tmp_path / "photos")), tmp_path / "an.index", FakeEncoder())
    assert (report.total, report.skipped) == (1, [])


def test_many_members_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scan(zipped(tmp_path / "a.zip", *[f"{number}.png" for number in range(300)]))
    opened = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zips.zipfile, "ZipFile", lambda *args: opened.append(1) or real(*args))
    assert all(image.read() for image in found)
    assert opened == []


def test_official_pictures_are_found_in_any_letter_case(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Png", "c.jpg", "c.JPG"):
        paint(tmp_path / "images" / "x.png", 0).rename(tmp_path / "images" / name)
    found = {image.id: Path(image.path).name for image in find_pictures({n: tmp_path / "images" / n for n in "abcd"})}
    assert found == {"a": "a.JPG", "b": "b.Png", "c": "c.jpg"}
    zipped(tmp_path / "photos.ZIP", "1.png")
    (tmp_path / "images").rename(tmp_path / "other")
    assert image_source(tmp_path) == tmp_path / "photos.ZIP"


def test_decompressors_are_used_as_documented() -> None:
    """The limit of an output holds for one call only if input that is left over is not lost."""
    for decompressor, data in (
        (bz2.BZ2Decompressor(), bz2.compress(bytes(10**6))),
        (lzma.LZMADecompressor(), lzma.compress(bytes(10**6))),
    ):
        assert len(decompressor.decompress(data, 1000)) == 1000
