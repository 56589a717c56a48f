"""Scanning, decoding and preprocessing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.errors import DataError, ImageDecodeError, MissingImageError, UsageError
from cir.images import ImageFile, Preprocess, decode, locate, scan, upright
from cir.typed_json import from_json


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def as_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def opened(path: Path) -> Image.Image:
    """The picture in a file, as the indexer opens it."""
    return decode(ImageFile(path.name, str(path.parent), str(path)).read(), path.name)


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of about 100 kB that claims 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/er/c d.webp", ".hidden/x.png"):
        picture().save(root / name)
    (root / "notes.txt").write_text("not an image")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("in/z.png", as_bytes(picture()))
        archive.writestr("__MACOSX/in/._z.png", b"junk")
    return root


def test_scan_finds_images_in_folders_and_zips_and_nothing_else(folder: Path) -> None:
    assert [image.id for image in scan([folder])] == ["a.PNG", "b.jpg", "deep/er/c d.webp", "more.zip/in/z.png"]


def test_ids_are_prefixed_only_when_there_are_several_roots(folder: Path) -> None:
    assert [image.id for image in scan([folder / "deep"])] == ["er/c d.webp"]
    both = [image.id for image in scan([folder / "deep", folder / "more.zip"])]
    assert both == ["deep/er/c d.webp", "more.zip/in/z.png"]
    assert [image.id for image in scan([folder / "a.PNG", folder / "b.jpg"])] == ["a.PNG", "b.jpg"]


def test_every_scanned_image_is_read_and_located_again(folder: Path) -> None:
    for roots in ([folder], [folder / "more.zip"], [folder / "b.jpg"], [folder / "deep", folder / "more.zip"]):
        for image in scan(roots):
            decode(image.read(), image.id)
            assert locate(image.root, image.id).read() == image.read()


def test_scan_refuses_what_is_not_there_or_ambiguous(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images given"):
        scan([])
    with pytest.raises(DataError, match="no such file or folder"):
        scan([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="neither an image"):
        scan([folder / "notes.txt"])
    (tmp_path / "other" / "photos").mkdir(parents=True)
    picture().save(tmp_path / "other" / "photos" / "b.jpg")
    with pytest.raises(UsageError, match=r"two images would have the id photos/b\.jpg"):
        scan([folder, tmp_path / "other" / "photos"])
    (folder / "broken.zip").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="not a readable zip"):
        scan([folder / "broken.zip"])
    found = scan([folder])  # one bad file stops nothing
    assert len(found) == 4
    assert [name for name, reason in found.unusable if "not a readable zip" in reason] == ["broken.zip"]


def test_missing_photos_are_named(folder: Path) -> None:
    image = scan([folder])[0]
    os.remove(image.path)
    with pytest.raises(MissingImageError, match="no longer at"):
        image.read()
    with pytest.raises(MissingImageError, match="no longer under"):
        locate(image.root, image.id)
    assert isinstance(MissingImageError("x"), FileNotFoundError)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just text in a file called .jpg", "not an image"),
        (b"", "an empty file"),
        (as_bytes(picture((200, 200)), "JPEG")[:3000], "truncated"),
        (as_bytes(picture((200, 200)))[:3000], "truncated"),
        (bomb(), "too large"),
    ],
    ids=["text", "empty", "truncated jpeg", "truncated png", "bomb"],
)
def test_broken_images_are_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason) as error:
        decode(data, "some.jpg")
    assert "some.jpg" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_broken_zip_member_is_a_decode_error(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", as_bytes(picture()))
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # inside the member's bytes: the checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        scan([path])[0].read()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 7), (224, 224), (640, 480)])
def test_any_mode_and_size_becomes_pixels(mode: str, size: tuple[int, int]) -> None:
    image = Image.new("I;16", size) if mode == "I;16" else picture(size, mode)
    for settings in (Preprocess(), Preprocess(target_ratio=1.0, fill=255, flatten=True)):
        pixels = settings(image)
        assert pixels.shape == (3, 224, 224)
        assert pixels.dtype == np.float32
        assert np.isfinite(pixels).all()


def test_sixteen_bits_keep_their_shades() -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    pixels = Preprocess(size=64, flatten=True, mean=(0, 0, 0), std=(1, 1, 1))(ramp)
    assert pixels[0, 32].mean() == pytest.approx(0.5, abs=0.02)
    floats = Image.fromarray(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64))
    assert Preprocess(size=64, flatten=True, mean=(0, 0, 0), std=(1, 1, 1))(floats)[0, 32].mean() > 0.4


def test_a_long_strip_takes_little_memory_or_is_refused() -> None:
    strip = Image.new("RGB", (2, 40_000), "red")
    assert Preprocess(flatten=True, target_ratio=1.0)(strip).shape == (3, 224, 224)
    with pytest.raises(ImageDecodeError, match="too long and thin"):
        Preprocess()(strip)


def test_exif_turns_and_broken_exif_does_not() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.new("RGB", (30, 10)).save(buffer, "JPEG", exif=exif)
    assert upright(decode(buffer.getvalue(), "a")).size == (10, 30)
    buffer = io.BytesIO()
    Image.new("RGB", (30, 10)).save(buffer, "PNG", exif=b"Exif\0\0garbage-not-tiff")
    broken = decode(buffer.getvalue(), "b")
    assert upright(broken).size == (30, 10)
    assert Preprocess(flatten=True)(broken).shape == (3, 224, 224)


def test_links_are_followed_once_and_dead_ones_named(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    picture().save(other / "d.png")
    (folder / "linked").symlink_to(other)
    (folder / "round").symlink_to(folder)
    (folder / "dead.png").symlink_to(tmp_path / "nowhere.png")
    ids = [image.id for image in scan([folder])]
    assert "linked/d.png" in ids
    assert not any(name.startswith("round/") for name in ids)
    with pytest.raises(MissingImageError):
        next(image for image in scan([folder]) if image.id == "dead.png").read()


def test_pipes_are_named_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.zip"):
        os.mkfifo(tmp_path / name)
    for image in scan([tmp_path]):
        with pytest.raises(ImageDecodeError, match="cannot be read: a pipe, device or folder"):
            image.read()
    with pytest.raises(DataError, match="not a readable zip: a pipe, device or folder"):
        scan([tmp_path / "b.zip"])


def test_one_path_may_be_scanned(folder: Path) -> None:
    assert scan(folder) == scan(str(folder)) == scan([folder])


def test_an_id_leads_to_its_own_file_even_in_nested_namesakes(tmp_path: Path) -> None:
    for name, shade in (("images/a.png", 10), ("images/images/a.png", 200), ("more/a.png", 90)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), shade).save(tmp_path / name)
    for image in scan([tmp_path / "images", tmp_path / "more"]):
        assert locate(image.root, image.id).path == image.path


def test_a_zip_that_broke_is_named(folder: Path) -> None:
    image = next(image for image in scan([folder]) if image.member)
    (folder / "more.zip").write_bytes(b"junk")
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        locate(image.root, image.id)


def test_a_zip_whose_names_are_not_utf_8_stops_nothing(folder: Path) -> None:
    path = folder / "names.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ü.png", as_bytes(picture()))
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match="not a readable zip"):
        scan([path])
    ((name, reason),) = scan([folder]).unusable
    assert name == "names.zip"
    assert "not a readable zip" in reason


def test_flatten_lays_transparency_on_white() -> None:
    settings = Preprocess(size=8, flatten=True, mean=(0, 0, 0), std=(1, 1, 1))
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert settings(clear).min() == 1
    assert Preprocess(size=8, mean=(0, 0, 0), std=(1, 1, 1))(clear)[1].max() == 0


def test_padding_keeps_the_whole_picture() -> None:
    tall = Image.new("RGB", (20, 80), "black")
    pixels = Preprocess(size=80, target_ratio=1.0, fill=255, mean=(0, 0, 0), std=(1, 1, 1))(tall)
    assert pixels[:, :, 40].max() == 0
    assert pixels[:, :, 2].min() == 1


def test_other_settings_are_another_digest() -> None:
    assert Preprocess().sha256 != Preprocess(fill=1).sha256
    assert from_json(Preprocess, {"size": 8, "mean": [0, 0, 0]}) == Preprocess(size=8, mean=(0, 0, 0))


def test_preprocessing_is_bit_exact_with_the_official_code() -> None:
    folder = Path(__file__).parents[1] / "golden" / "data" / "preprocessing"
    # SHA-256 of the official code's float32 tensors, of pictures of odd sizes and modes.
    digests = json.loads((folder / "digests.json").read_text())
    assert len(digests) == 12
    for name, digest in digests.items():
        assert hashlib.sha256(Preprocess()(opened(folder / name)).tobytes()).hexdigest() == digest, name


def test_the_committed_digests_are_the_oracle(shared: Path) -> None:
    folder = Path(__file__).parents[1] / "golden" / "data" / "preprocessing"
    digests = json.loads((folder / "digests.json").read_text())
    expected = np.load(shared / "oracles" / "sprc-eval" / "preprocessed.npz")
    assert {name: hashlib.sha256(expected[name].tobytes()).hexdigest() for name in expected.files} == digests


def test_a_file_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(MissingImageError, match=r"gone\.png: no longer at"):
        opened(tmp_path / "gone.png")
    assert ImageFile("a", "r", "p").member is None


def test_a_root_may_be_the_photo_itself(tmp_path: Path) -> None:
    photo = tmp_path / "000000000042.jpg"
    Image.new("RGB", (8, 8)).save(photo)
    assert locate(str(photo), "42").read() == photo.read_bytes()
