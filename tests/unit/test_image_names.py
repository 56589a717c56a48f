"""Names of images have one form, and lead back to their image or nowhere."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from cir.errors import ImageDecodeError, MissingImageError
from cir.images import decode, file_at, locate, scan
from cir.images.names import shown
from cir.testing.fakes import build, paint
from cir.testing.pictures import small_png, zipped

NFC, NFD = unicodedata.normalize("NFC", "été.png"), unicodedata.normalize("NFD", "été.png")


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
        (tmp_path / "both" / name).write_bytes(small_png(shade))
    if len(os.listdir(tmp_path / "both")) == 1:
        pytest.skip("this file system holds one of the two")
    found = scan(tmp_path / "both")
    assert [image.id for image in found] == [NFC]
    assert decode(found[0].read(), "a").getpixel((0, 0)) == 200
    assert [name for name, _ in found.unusable] == [NFD]
    assert build(tmp_path / "both", tmp_path / "an.index").total == 1

    deep = tmp_path / "other" / unicodedata.normalize("NFD", "é")
    (deep / NFD).parent.mkdir(parents=True)
    (deep / NFD).write_bytes(small_png())
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
        (tmp_path / place).write_bytes(small_png())
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
        Path(os.fsdecode(bytes(tmp_path / "photos") + b"/" + name)).write_bytes(small_png(len(name)))
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
    assert image.read() == small_png()
    assert file_at("b.png").read() == file_at(tmp_path / "b.png").read() == (tmp_path / "b.png").read_bytes()
    for name in ("folder", "folder/photos.ZIP/in/c.png", "folder/photos.ZIP/../b.png", "b.png/a.png", "c.png", ""):
        with pytest.raises(MissingImageError):
            file_at(name)
    (tmp_path / "broken.zip").write_bytes(b"junk")
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        file_at("broken.zip/a.png")
