"""Which pictures are decoded, and that nothing but pixels decides it."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cir.errors import ImageDecodeError
from cir.images import Preprocess, as_seen, containers, decode, upright
from cir.images import decode as decode_function
from cir.testing.pictures import saved, shades

ROOT = Path(__file__).parents[2]
OURS = Preprocess(size=32, flatten=True, target_ratio=1.0, fill=255, srgb=True, mean=(0, 0, 0), std=(1, 1, 1))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return data[:33] + chunk(kind, body) + data[33:]


def scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last pass."""
    data = saved(shades(), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))


def decode_module() -> object:
    return sys.modules[decode_function.__module__]


@pytest.mark.parametrize("kind", ["EPS", "PCX", "PSD", "SGI", "DDS", "XBM"])
def test_no_other_format_is_decoded_whatever_its_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS would start Ghostscript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: pytest.fail("a program was started"))
    image = shades().convert("1") if kind == "XBM" else shades()
    data = b"8BPS\0\1" + bytes(60) if kind == "PSD" else saved(image, kind)
    for name in ("a.jpg", "a.png", "a.eps"):
        with pytest.raises(ImageDecodeError, match=f"{name}: not an image that can be read"):
            decode(data, name)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("AVIF", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {})),
        *(("JPEG2000", {}), ("PPM", {}), ("ICO", {}), ("MPO", {"save_all": True}), ("TIFF", {"big_tiff": True})),
    ],
)
def test_a_format_is_told_by_its_bytes(kind: str, options: dict[str, object]) -> None:
    assert decode(saved(shades(64, 64), kind, **options), "a.jpg").size == (64, 64)


def test_targa_has_no_signature_and_is_told_by_its_name() -> None:
    data = saved(shades(), "TGA")
    assert decode(data, "folder/A.TGA").size == (90, 60)
    with pytest.raises(ImageDecodeError, match="not an image"):
        decode(data, "a.jpg")


def test_heic_is_read_with_its_library_and_named_without(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(ImageDecodeError, match=r"pip install 'cir-engine\[heic\]'"):
            decode(head, "a.jpg")
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(shades(64, 48)).save(buffer)
    assert decode(buffer.getvalue(), "a.jpg").size == (64, 48)
    with pytest.raises(ImageDecodeError, match=r"a\.jpg: broken"):
        decode(head, "a.jpg")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\xef\xbb\xbf" + saved(shades(), "JPEG"), "not an image"),
        (saved(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "no pixel has a value"),
        (saved(shades().quantize(8)).replace(b"PLTE", b"PLXE"), "no palette"),
        (saved(shades(), "JPEG", progressive=True)[:900], "truncated"),
    ],
    ids=["empty", "web page", "byte order mark", "not a number", "no palette", "truncated"],
)
def test_every_refusal_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason):
        OURS(decode(data, "a.jpg"))


# Metadata


def test_a_png_is_not_refused_for_its_metadata() -> None:
    plain, text = saved(shades()), PngImagePlugin.PngInfo()
    for number in range(66):
        text.add_text(f"k{number}", "z" * (1 << 20), zip=True)
    bad_checksum = bytearray(with_chunk(plain, b"tEXt", b"Comment\0hello"))
    bad_checksum[33 + 8 + 13] ^= 0xFF
    for data in (
        saved(shades(), pnginfo=text),
        with_chunk(plain, b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * (3 << 20))),
        with_chunk(plain, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"y" * (2 << 20))),
        with_chunk(plain, b"tEXt", b"workflow\0" + b"x" * (3 << 20)),
        with_chunk(plain, b"iCCP", b"icc\0\0" + zlib.compress(os.urandom(100) + bytes(2 << 20))),
        with_chunk(plain, b"iCCP", b"icc\0\0" + zlib.compress(bytes(40 << 20))),
        with_chunk(plain, b"iCCP", b"icc\0\0no stream"),
        with_chunk(plain, b"eXIf", b"nonsense"),
        with_chunk(plain, b"gAMA", b""),
        bytes(bad_checksum),
        plain[:-12],  # without its end
    ):
        assert same(seen(data), shades())


def seen(data: bytes) -> Image.Image:
    return as_seen(decode(data, "a.png"))


def test_damage_to_the_pixels_is_not_passed_over() -> None:
    data = bytearray(saved(shades()))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    with pytest.raises(ImageDecodeError):
        decode(bytes(data), "a.png")


def test_a_jpeg_is_not_refused_or_slowed_by_its_metadata() -> None:
    plain = saved(shades(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0" + bytes(59_994)
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    broken_parts = b"\xff\xe2" + struct.pack(">H", 10) + b"MPF\0junk"
    for parts in (segment * 300, comment * 300, broken_parts, b"\xff\xed\0\x08Photos"):
        data = plain[:2] + parts + plain[2:]
        assert same(decode(data, "a.jpg"), decode(plain, "a.jpg"))
        assert len(containers.plain_jpeg(data)[0]) < 1_200_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(shades())[:33] + chunk(b"tEXt", b"") * 200_001, "too many chunks"),
        (b"\xff\xd8\xff\xfe\0\2" + b"\xff\xfe\0\2" * 200_001, "too many segments"),
    ],
    ids=["chunks", "segments"],
)
def test_files_made_to_take_for_ever_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason):
        decode(data, "a.jpg")


def test_a_jpeg_may_not_be_gone_over_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module(), "MAX_JPEG_WORK", 90 * 60 * 100)
    assert decode(scans(50), "a.jpg").size == (90, 60)
    with pytest.raises(ImageDecodeError, match="too many passes"):
        decode(scans(150), "a.jpg")


def test_what_follows_a_photo_is_not_looked_at() -> None:
    """Telephones append a video, in which any bytes occur."""
    plain = saved(shades(), "JPEG", progressive=True)
    assert same(decode(plain + b"\xff\xda" * 10**6, "a.jpg"), decode(plain, "a.jpg"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_survives(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.asarray(upright(decode(saved(shades(), "JPEG", exif=exif, quality=95), "a.jpg")), np.int16)
    turned = upright(decode(saved(shades(), kind, exif=exif, quality=95), "a"))
    assert np.abs(np.asarray(turned.convert("RGB"), np.int16) - expected).mean() < 6
    assert upright(turned) is turned  # once is enough


def test_orientation_in_the_texts_of_a_png() -> None:
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    assert upright(decode(saved(shades(), pnginfo=xmp), "a.png")).size == (60, 90)


@pytest.mark.parametrize("image", [Image.new("RGB", (1, 100_000)), Image.new("P", (30_000, 2))], ids=["high", "wide"])
def test_strips(image: Image.Image) -> None:
    assert OURS(decode(saved(image), "a.png", OURS.min_side)).shape == (3, 32, 32)


def test_an_animation_is_its_first_shades() -> None:
    frames = [Image.new("P", (1, 1), number % 2) for number in range(3000)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert OURS(decode(data, "a.gif")).shape == (3, 32, 32)


def test_random_bytes_after_every_signature() -> None:
    rng = random.Random(0)
    for start in (
        b"\xff\xd8\xff",
        containers.PNG,
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"\0\0\1\0",
        b"P6\n",
        b"RIFF\0\0\0\0WEBP",
    ):
        for _ in range(20):
            with pytest.raises(ImageDecodeError) as error:
                OURS(decode(start + rng.randbytes(200), "a.jpg"))
            assert "\n" not in str(error.value)


def test_mutated_pictures_raise_nothing_else() -> None:
    """The short form of `bench/mutated_pictures.py`, in a process of its own: a crash counts too."""
    command = [sys.executable, str(ROOT / "bench" / "mutated_pictures.py"), "--count", "300", "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
