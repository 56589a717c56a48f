"""Reading is bounded, names have one form, and a scan finds again or lists whatever it sees."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from cir.data.annotations import find_pictures
from cir.data.products import image_source
from cir.errors import DataError, ImageDecodeError, MissingImageError
from cir.images import ImageFile, decode, file_at, locate, scan, scanning, zips
from cir.images.names import shown
from cir.testing.fakes import FakeEncoder, build, paint

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
NFC, NFD = unicodedata.normalize("NFC", "été.png"), unicodedata.normalize("NFD", "été.png")


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path: Path, *names: str, method: int = zipfile.ZIP_STORED) -> Path:
    """A zip whose members are different pictures, under names as they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name), png(number), method)
    return path


def file(path: Path) -> ImageFile:
    return ImageFile(path.name, str(path.parent), str(path))


# Reading


@pytest.mark.parametrize("name", ["pipe.jpg", "zero.jpg", "folder.jpg", "huge.jpg", "pipe.zip"])
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name == "zero.jpg":
        path.symlink_to("/dev/zero")
    elif name == "folder.jpg":
        path.mkdir()
    else:
        with path.open("wb") as sparse:
            sparse.truncate(3_000_000_000)
    with pytest.raises(ImageDecodeError, match=r"not a regular file|larger than 256 MB"):
        file(path).read()
    paint(tmp_path / "good.png", 0)
    report = build(tmp_path, tmp_path.parent / "an.index")
    assert report.total == 1
    assert [skipped for skipped, _ in report.skipped] == ([] if name == "folder.jpg" else [name])
    listed = (tmp_path.parent / "an.index" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == [skipped for skipped, _ in report.skipped]


def test_a_file_that_grows_while_it_is_read_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 5000)
    sizes = iter([100, 10**9])
    real = os.fstat

    def smaller(handle: int) -> os.stat_result:
        state = list(real(handle))
        state[6] = next(sizes)
        return os.stat_result(state)

    with monkeypatch.context() as patch:
        patch.setattr("cir.files.stat.S_ISREG", lambda mode: True)
        patch.setattr("cir.files.os.fstat", lambda handle: smaller(handle) if real(handle).st_size == 5000 else None)
        sizes = iter([0, 100])
        with pytest.raises(ImageDecodeError, match="larger than"):
            file(path).read(limit=1000)
        sizes = iter([0, 100])
        assert len(file(path).read(limit=5000)) == 5000


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_zip_bomb_costs_the_limit_and_no_more(tmp_path: Path, method: int) -> None:
    """What a member says of its size is not asked; bzip2 and LZMA would unpack it whole from one block."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("bomb.jpg", bytes(30_000_000))
        archive.writestr("good.png", png())
    bomb, good = scan(tmp_path / "a.zip")
    tracemalloc.start()
    with pytest.raises(ImageDecodeError, match="larger than 1 MB"):
        bomb.read(limit=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000  # of which LZMA's dictionary takes 8
    assert decode(good.read(), "good").size == (4, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_pack_is_unpacked(tmp_path: Path, method: int) -> None:
    content = os.urandom(70_000) + bytes(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", content)
        archive.writestr("empty.png", b"")
    first, second = scan(tmp_path / "a.zip")
    assert (first.read(), second.read()) == (content, b"")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1", "encrypted"),
        (b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x63\0", "method 99"),
        (b"PK\3\4", b"PK\3\5", "damaged"),
        (b"IDAT", b"IDAX", "checksum differs"),
    ],
    ids=["encrypted", "unknown method", "no header", "checksum"],
)
def test_members_that_cannot_be_unpacked_say_why(tmp_path: Path, old: bytes, new: bytes, reason: str) -> None:
    path = zipped(tmp_path / "a.zip", "a.png")
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ImageDecodeError, match=rf"a\.png: cannot be read: .*{reason}"):
        scan(path)[0].read()


def test_a_zip_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "a.png")
    assert [image.id for image in scan(path)] == ["a.png"]
    zipped(path, "b.png", "longer-name.png")
    assert [image.id for image in scan(path)] == ["b.png", "longer-name.png"]


def test_too_little_memory_is_a_reason_to_skip_and_no_end(tmp_path: Path) -> None:
    """A real shortage: the process may take 250 MB more than it has."""
    Image.new("L", (9000, 9000)).save(tmp_path / "large.png")
    paint(tmp_path / "good.png", 0)
    code = f"""
import resource
from cir.testing.fakes import build
from pathlib import Path
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000,) * 2)
report = build(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}) / "an.index", workers=1)
print(report.total, report.skipped)
"""
    if sys.platform != "linux" or resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("limits of memory are Linux's")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 [('large.png', 'large.png: not enough memory"), done.stdout


# Names


@pytest.mark.parametrize(
    ("member", "image_id"),
    [
        ("./a.png", "a.png"),
        ("d//b.png", "d/b.png"),
        ("x/./b.png", "x/b.png"),
        (f"d/{NFD}", f"d/{NFC}"),
        ("back\\slash.png", "back\\slash.png"),
        ("new\nline.png", "new\nline.png"),
        (f"{'long' * 100}.png", f"{'long' * 100}.png"),
        ("/abs.png", None),
        ("../../evil.png", None),
        ("in/../../evil.png", None),
    ],
)
def test_zip_members_have_canonical_names_or_are_listed(tmp_path: Path, member: str, image_id: str | None) -> None:
    zipped(tmp_path / "photos" / "a.zip", member, "good.png")
    found = scan(tmp_path / "photos")
    assert [image.id for image in found] == sorted(["a.zip/good.png", *([f"a.zip/{image_id}"] if image_id else [])])
    assert [name for name, _ in found.unusable] == ([] if image_id else [f"a.zip/{member}"])
    for image in found:
        assert locate(image.root, image.id) == image
        assert file_at(f"{tmp_path}/photos/{image.id}").read() == image.read()


def test_members_of_the_same_name_are_one_image_and_a_line(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped(tmp_path / "a.zip", "a.png", "./a.png", "a.png", NFD, NFC)
    found = scan(tmp_path / "a.zip")
    assert [image.id for image in found] == ["a.png", NFC]
    assert decode(found[0].read(), "a").getpixel((0, 0)) == 0  # the first
    assert sorted(name for name, _ in found.unusable) == sorted(["./a.png", "a.png", NFC])


def test_one_name_in_two_unicode_forms(tmp_path: Path) -> None:
    """Linux holds both; the one in the form of ids is the image, the other is listed. Each alone is found by its id."""
    for name, shade in ((NFD, 10), (NFC, 200)):
        (tmp_path / "both" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "both" / name).write_bytes(png(shade))
    if len(os.listdir(tmp_path / "both")) == 1:
        pytest.skip("this file system holds one of the two")
    found = scan(tmp_path / "both")
    assert [image.id for image in found] == [NFC]
    assert decode(found[0].read(), "a").getpixel((0, 0)) == 200
    assert [name for name, _ in found.unusable] == [NFD]
    assert build(tmp_path / "both", tmp_path / "an.index").total == 1

    deep = tmp_path / "other" / unicodedata.normalize("NFD", "é")
    (deep / NFD).parent.mkdir(parents=True)
    (deep / NFD).write_bytes(png())
    zipped(deep / unicodedata.normalize("NFD", "ü.zip"), NFD)
    (tmp_path / "other" / "é").mkdir()  # where the image is not, although the name fits better
    for image in scan(tmp_path / "other"):
        assert unicodedata.is_normalized("NFC", image.id)
        assert locate(image.root, image.id) == image
        assert len(image.read()) > 0


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "./a.png", "a//a.png", "", NFD])
def test_an_id_does_not_lead_out_of_its_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    for place in ("secret.png", "root/a.png", "root/a/a.png", f"root/{NFD}"):
        (tmp_path / place).write_bytes(png())
    with pytest.raises(MissingImageError):
        locate(str(tmp_path / "root"), name)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "a/" * 3000 + "a.png", "\udcff.png"])
def test_names_that_no_file_can_have_are_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingImageError):
        locate(str(tmp_path), name)
    with pytest.raises(MissingImageError):
        file_at(f"{tmp_path}/{name}")


def test_names_that_are_not_text_are_images_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in (b"\xff\xfe.png", b"new\nline.png", b"bell\x07.png"):
        Path(os.fsdecode(bytes(tmp_path / "photos") + b"/" + name)).write_bytes(png(len(name)))
    found = scan(tmp_path / "photos")
    assert len(found) == 3
    assert all(locate(image.root, image.id) == image for image in found)
    assert build(tmp_path / "photos", tmp_path / "an.index").total == 3
    assert [shown(image.id) for image in found] == ["bell\\x07.png", "new\\nline.png", "\\udcff\\udcfe.png"]


def test_a_path_into_a_zip_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "folder" / "photos.ZIP", "in/a.png")
    paint(tmp_path / "b.png", 0)
    monkeypatch.chdir(tmp_path)
    image = file_at("folder/photos.ZIP/in/a.png")
    assert (image.id, image.member) == ("folder/photos.ZIP/in/a.png", "in/a.png")
    assert image.read() == png()
    assert file_at("b.png").read() == file_at(tmp_path / "b.png").read() == (tmp_path / "b.png").read_bytes()
    for name in ("folder", "folder/photos.ZIP/in/c.png", "folder/photos.ZIP/../b.png", "b.png/a.png", "c.png", ""):
        with pytest.raises(MissingImageError):
            file_at(name)
    (tmp_path / "broken.zip").write_bytes(b"junk")
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        file_at("broken.zip/a.png")


# Scans


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
        "zips inside zips": 1,
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
        ("nothing", ["a.gif", "a.zip/c.png", "in/b.png"]),
    ],
)
def test_patterns_leave_out_files_folders_and_members(tmp_path: Path, glob: str, left: list[str]) -> None:
    for name in ("a.gif", "in/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    zipped(tmp_path / "a.zip", "c.png")
    found = scan(tmp_path, exclude=[glob])
    assert [image.id for image in found] == left
    assert sum(found.passed_over.values()) == 3 - len(left)
    assert scan(tmp_path, exclude=glob) == found  # one pattern may stand alone


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
        os.write(handle, png())
        os.close(handle)
    finally:
        os.close(here)
    (image,) = scan(tmp_path)
    assert locate(image.root, image.id).read() == png()
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
