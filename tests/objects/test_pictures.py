"""Pictures and zips in a store are what they are in a folder: the same ids, the same index, the same skipped ones."""

from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path

import pytest

import cir
from cir.errors import DataError, ImageDecodeError, MissingImageError, StoreError, UsageError
from cir.images import ImageFile, file_at, locate
from cir.images.files import is_there
from cir.indexer.reading.gallery import Gallery
from cir.known import is_known, known_roots
from cir.objects import open_store
from cir.testing.fakes import FakeEncoder, answer, build, folder_of, paint
from cir.testing.store_server import SpoiltLine

NFD = unicodedata.normalize("NFD", "é/ü.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, zips, and all that is passed over or cannot be read."""
    folder = folder_of(tmp_path / "photos", 4)
    (folder / "sub").mkdir()
    paint(folder / "sub" / "a.png", 50)
    (folder / NFD).parent.mkdir()
    paint(folder / NFD, 51)
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.write(paint(tmp_path / "in.png", 60 + number), f"in/{number}.png")
        archive.writestr("note.txt", "no picture")
        archive.writestr("in/empty.png", b"")
        archive.writestr("../out.png", b"x")
    (folder / "broken.zip").write_bytes(b"PK no zip")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "readme.txt").write_bytes(b"no picture")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_bytes(b"x")
    (folder / "thumbs").mkdir()
    paint(folder / "thumbs" / "a.png", 52)
    return folder


@pytest.fixture
def stored(folder: Path, bucket: str) -> str:
    """The same in a store."""
    store = open_store(f"{bucket}/photos")
    for path in folder.rglob("*"):
        if path.is_file():
            store.upload(path.relative_to(folder).as_posix(), path)
    return f"{bucket}/photos"


def test_a_scan_finds_the_same(folder: Path, stored: str) -> None:
    there, here = cir.scan(f"{stored}/", exclude="thumbs"), cir.scan(folder, exclude="thumbs")
    assert [(image.id, image.member) for image in there] == [(image.id, image.member) for image in here]
    assert there.passed_over == here.passed_over
    assert there.unusable == here.unusable
    assert {image.root for image in there} == {stored}
    assert [image.read() for image in there] == [image.read() for image in here]


def test_an_index_is_the_same(folder: Path, stored: str, index: str, out: Path) -> None:
    report, local = build(Path(stored), Path(index)), build(folder, out)
    assert (report.added, report.skipped) == (local.added, local.skipped)
    assert answer(Path(index)) == answer(out)
    gallery = Gallery.open(index)
    image = gallery.image("more.zip/in/1.png")
    assert image.read() == gallery.image("more.zip/in/1.png").file.read()
    assert image.file.path == f"{stored}/more.zip"
    assert gallery.image("é/ü.png").read() == (folder / NFD).read_bytes()
    encoder = FakeEncoder()
    again = build(Path(stored), Path(index), encoder)
    assert (again.added, encoder.encoded) == ([], 0)


def test_one_picture_and_several_places(folder: Path, stored: str, bucket: str) -> None:
    assert [image.id for image in cir.scan(f"{stored}/0001.png")] == ["0001.png"]
    assert [image.id for image in cir.scan(f"{stored}/more.zip")][:3] == ["in/0.png", "in/1.png", "in/2.png"]
    both = cir.scan([f"{stored}/sub", f"{stored}/more.zip", folder / "0001.png"])
    assert [image.id for image in both][-1] == "sub/a.png"
    assert {image.id.split("/")[0] for image in both} == {"0001.png", "more.zip", "sub"}
    for place, words in ((f"{stored}/none", "there is nothing at"), (f"{stored}/readme.txt", "neither an image")):
        with pytest.raises(DataError, match=words):
            cir.scan(place)
    with pytest.raises(UsageError, match="a whole bucket is indexed alone"):
        cir.scan([bucket, f"{stored}/sub"])
    assert cir.scan(bucket)[0].id.startswith("photos/")


def test_photos_are_found_again(folder: Path, stored: str) -> None:
    for name in ("sub/a.png", "more.zip/in/2.png", "é/ü.png"):
        found = locate(stored, name)
        assert is_there(found)
        assert found.read() == cir.scan(folder)[[image.id for image in cir.scan(folder)].index(name)].read()
        assert file_at(f"{stored}/{name}").read() == found.read()
    for name in ("sub/none.png", "more.zip/in/9.png", "none.zip/a.png", "ö.png"):
        assert not is_there(locate(stored, name))
        with pytest.raises(MissingImageError):
            locate(stored, name).read()
        with pytest.raises(MissingImageError):
            file_at(f"{stored}/{name}")
    with pytest.raises(ImageDecodeError, match="larger than"):
        ImageFile("a", stored, f"{stored}/sub/a.png").read(10)


def test_only_what_was_indexed_is_read(stored: str, index: str, bucket: str) -> None:
    assert not is_known(stored, known_roots())
    build(Path(stored), Path(index))
    known = known_roots()
    assert is_known(stored, known)
    assert is_known(f"{stored}/sub", known)
    assert not is_known(f"{stored}-other", known)
    assert not is_known(bucket, known)


def test_photos_that_are_gone(stored: str, index: str, bucket: str) -> None:
    build(Path(stored), Path(index))
    open_store(stored).delete(["sub/a.png", "more.zip"])
    report = cir.remove(index, missing=True)
    assert report.removed == ["more.zip/in/0.png", "more.zip/in/1.png", "more.zip/in/2.png", "sub/a.png"]
    open_store(stored).delete([info.key for info in open_store(stored).listed()])
    report = cir.remove(index, missing=True)
    assert report.removed == []
    assert list(report.left) == [stored]


def test_a_store_that_fails_is_no_skipped_picture(line: SpoiltLine, stored: str, out: Path) -> None:
    images = cir.scan(stored)
    line.cut_after = line.sent + 4000  # some pictures later
    with pytest.raises(StoreError, match="run the same command again"):
        cir.build_index(images, out, FakeEncoder(), options=cir.BuildOptions(workers=1, batch_size=2, part_rows=2))
    assert not (out / "CURRENT").exists()
    line.mend()
    report = cir.build_index(images, out, FakeEncoder())
    assert len(report.added) == 10
    assert [name for name, _ in report.skipped if "empty" not in name] == ["broken.zip", "more.zip/../out.png"]
    assert report.resumed > 0
