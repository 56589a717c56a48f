"""Which pictures are decoded, how large, and in which colours."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cir.errors import ImageDecodeError
from cir.images import Preprocess, as_seen, containers, decode, memory, upright
from cir.images import decode as decode_function
from cir.images.colour import to_srgb
from cir.testing.profiles import SPACES, rgb_profile

ROOT = Path(__file__).parents[2]
OURS = Preprocess(size=32, flatten=True, target_ratio=1.0, fill=255, srgb=True, mean=(0, 0, 0), std=(1, 1, 1))


def picture(width: int = 90, height: int = 60) -> Image.Image:
    """Smooth colours, the same at every size."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return data[:33] + chunk(kind, body) + data[33:]


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))


# Formats


@pytest.mark.parametrize("kind", ["EPS", "PCX", "PSD", "SGI", "DDS", "XBM"])
def test_no_other_format_is_decoded_whatever_its_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS would start Ghostscript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: pytest.fail("a program was started"))
    image = picture().convert("1") if kind == "XBM" else picture()
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
    assert decode(saved(picture(64, 64), kind, **options), "a.jpg").size == (64, 64)


def test_targa_has_no_signature_and_is_told_by_its_name() -> None:
    data = saved(picture(), "TGA")
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
    heif.from_pillow(picture(64, 48)).save(buffer)
    assert decode(buffer.getvalue(), "a.jpg").size == (64, 48)
    with pytest.raises(ImageDecodeError, match=r"a\.jpg: broken"):
        decode(head, "a.jpg")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\xef\xbb\xbf" + saved(picture(), "JPEG"), "not an image"),
        (saved(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "no pixel has a value"),
        (saved(picture().quantize(8)).replace(b"PLTE", b"PLXE"), "no palette"),
        (saved(picture(), "JPEG", progressive=True)[:900], "truncated"),
    ],
    ids=["empty", "web page", "byte order mark", "not a number", "no palette", "truncated"],
)
def test_every_refusal_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason):
        OURS(decode(data, "a.jpg"))


# Metadata


def test_a_png_is_not_refused_for_its_metadata() -> None:
    plain, text = saved(picture()), PngImagePlugin.PngInfo()
    for number in range(80):
        text.add_text(f"k{number}", "z" * (1 << 20), zip=True)
    bad_checksum = bytearray(with_chunk(plain, b"tEXt", b"Comment\0hello"))
    bad_checksum[33 + 8 + 13] ^= 0xFF
    for data in (
        saved(picture(), pnginfo=text),
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
        assert same(seen(data), picture())


def seen(data: bytes) -> Image.Image:
    return as_seen(decode(data, "a.png"))


def test_damage_to_the_pixels_is_not_passed_over() -> None:
    data = bytearray(saved(picture()))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    with pytest.raises(ImageDecodeError):
        decode(bytes(data), "a.png")


def test_a_jpeg_is_not_refused_or_slowed_by_its_metadata() -> None:
    plain = saved(picture(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0" + bytes(59_994)
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    broken_parts = b"\xff\xe2" + struct.pack(">H", 10) + b"MPF\0junk"
    for parts in (segment * 300, comment * 300, broken_parts, b"\xff\xed\0\x08Photos"):
        data = plain[:2] + parts + plain[2:]
        assert same(decode(data, "a.jpg"), decode(plain, "a.jpg"))
        assert len(containers.plain_jpeg(data)) < 1_200_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(picture())[:33] + chunk(b"tEXt", b"") * 200_001, "too many chunks"),
        (b"\xff\xd8\xff\xfe\0\2" + b"\xff\xfe\0\2" * 200_001, "too many segments"),
        (saved(picture(), "JPEG", progressive=True) + b"\xff\xda" * 300, "too many passes"),
    ],
    ids=["chunks", "segments", "passes"],
)
def test_files_made_to_take_for_ever_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason):
        decode(data, "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_survives(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.asarray(upright(decode(saved(picture(), "JPEG", exif=exif, quality=95), "a.jpg")), np.int16)
    turned = upright(decode(saved(picture(), kind, exif=exif, quality=95), "a"))
    assert np.abs(np.asarray(turned.convert("RGB"), np.int16) - expected).mean() < 6
    assert upright(turned) is turned  # once is enough


def test_orientation_in_the_texts_of_a_png() -> None:
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    assert upright(decode(saved(picture(), pnginfo=xmp), "a.png")).size == (60, 90)


# Size


def test_a_photo_is_decoded_as_large_as_it_is_needed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(1600, 1200), "JPEG", exif=exif)
    small = decode(data, "a.jpg", 2 * 32)
    assert min(small.size) >= 64
    assert small.size == (200, 150)
    assert decode(data, "a.jpg").size == (1600, 1200)
    assert decode(data, "a.jpg", 700).size == (1600, 1200)  # never below what is needed
    assert np.abs(OURS(small) - OURS(decode(data, "a.jpg"))).mean() < 0.01


def test_only_models_that_see_as_people_do_take_reduced_pictures() -> None:
    assert OURS.min_side == 64
    assert Preprocess().min_side is None


def test_a_telephone_of_200_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module(), "MAX_PIXELS", 100_000)
    data = saved(picture(800, 600), "JPEG")
    with pytest.raises(ImageDecodeError, match="800 x 600 pixels is too large"):
        decode(data, "a.jpg")
    assert decode(data, "a.jpg", 64).size == (100, 75)
    monkeypatch.setattr(decode_module(), "MAX_JPEG_PIXELS", 400_000)
    with pytest.raises(ImageDecodeError, match="too large"):
        decode(data, "a.jpg", 64)
    with pytest.raises(ImageDecodeError, match="too large"):  # what cannot be decoded small
        decode(saved(picture(800, 600)), "a.png", 64)


def decode_module() -> object:
    return sys.modules[decode_function.__module__]


@pytest.mark.slow
def test_a_real_photo_of_200_megapixels() -> None:
    data = saved(Image.new("RGB", (16320, 12240), "#4080c0"), "JPEG")
    assert decode(data, "a.jpg", 448).size == (2040, 1530)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "F"])
def test_large_pictures_are_averaged_in_any_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module(), "LARGE", 1000)
    exif = Image.Exif()
    exif[0x0112] = 6
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture(400, 300).convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = picture(400, 300).quantize(64)
    else:
        image = picture(400, 300).convert(mode)
    data = saved(image, "PNG" if mode in ("P", "RGBA", "LA") else "TIFF", exif=exif)
    reduced = decode(data, "a", 64)
    assert reduced.size == (75, 100)
    difference = np.abs(OURS(reduced) - OURS(decode(data, "a"))).mean()
    assert difference < (0.1 if mode == "1" else 0.02)


def test_large_pictures_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def large() -> None:
        nonlocal inside, most
        for _ in range(200):
            with memory.room_for(memory.LARGE):
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    monkeypatch.setattr(memory, "free_memory", lambda: None)
    threads = [threading.Thread(target=large) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_picture_larger_than_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 50_000_000)
    with pytest.raises(ImageDecodeError, match=r"a\.png: needs 144 MB of memory and 50 MB are free"):
        decode(saved(Image.new("L", (6000, 6000))), "a.png")
    assert decode(saved(Image.new("L", (600, 600))), "a.png").size == (600, 600)


def test_workers_are_as_many_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, reduced, expected in (
        (None, True, 8),
        (10**11, True, 8),
        (10**9, True, 3),
        (10**9, False, 1),
        (0, True, 1),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert memory.affordable_workers(8, reduced=reduced) == expected


def test_free_memory_is_the_least_that_the_system_and_the_group_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 2 kB\n")
    paths = {"/sys/fs/cgroup": tmp_path, "/proc/meminfo": tmp_path / "meminfo"}
    monkeypatch.setattr(memory, "Path", lambda path: paths.get(path, tmp_path / "nothing"))
    assert memory.free_memory() == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() == 2048
    (tmp_path / "meminfo").unlink()
    assert memory.free_memory() is None


# Colours


def error_of(image: Image.Image, expected: Image.Image) -> float:
    return float(np.abs(np.asarray(image.convert("RGB"), np.int16) - np.asarray(expected, np.int16)).mean())


@pytest.mark.parametrize("name", ["ProPhoto RGB", "Adobe RGB", "Display P3"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_are_converted_where_they_change_colours(name: str, kind: str) -> None:
    profile = rgb_profile(name)
    muted = Image.blend(picture(), Image.new("RGB", (90, 60), "grey"), 0.5)  # in every space
    foreign = in_space(muted, profile)
    image = decode(saved(foreign, kind, icc_profile=profile, quality=98), "a")
    assert error_of(image, muted) > 5
    assert error_of(as_seen(image), muted) < 4
    assert same(as_seen(image, srgb=False), image)
    assert not np.array_equal(OURS(image), Preprocess(**{**OURS.__dict__, "srgb": False})(image))


def in_space(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target)
    assert converted is not None
    return converted


def test_srgb_and_broken_profiles_change_nothing() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    broken = rgb_profile("ProPhoto RGB")
    for profile in (srgb, broken[:300], broken.replace(b"rXYZ", b"xXYZ"), b"junk", bytes(200), other, bytes(17 << 20)):
        image = picture()
        image.info["icc_profile"] = profile
        assert to_srgb(image) is image


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "YCbCr"])
def test_a_profile_never_stops_a_picture(mode: str) -> None:
    image = picture().quantize(16) if mode == "P" else picture().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    for name in SPACES:
        image.info["icc_profile"] = rgb_profile(name)
        assert as_seen(image).size == image.size
        assert np.isfinite(OURS(image)).all()


def test_transparency_is_kept_by_the_conversion() -> None:
    image = picture().convert("RGBA")
    image.putalpha(0)
    image.info["icc_profile"] = rgb_profile("ProPhoto RGB")
    assert np.asarray(as_seen(image)).min() == 255


def test_the_conversion_is_part_of_what_a_model_is() -> None:
    assert Preprocess(srgb=True).sha256 != Preprocess().sha256
    assert Preprocess.from_json({"srgb": True}) == Preprocess(srgb=True)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 65535, 900).astype(np.uint16),
        np.linspace(0, 1, 900).astype(np.float32),
        np.linspace(0, 255, 900).astype(np.int32),
        np.linspace(0, 2**31 - 1, 900).astype(np.int32),
        np.concatenate([[np.nan, np.inf, -np.inf], np.linspace(0, 1, 897)]).astype(np.float32),
    ],
    ids=["16 bits", "floats", "small integers", "large integers", "partly not numbers"],
)
def test_pictures_of_more_bits_keep_their_shades(values: np.ndarray) -> None:
    image = decode(saved(Image.fromarray(values.reshape(30, 30)), "TIFF"), "a.tif")
    assert 100 < np.asarray(as_seen(image)).mean() < 155


def test_lab_is_colour() -> None:
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(picture(), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert image is not None
    assert error_of(as_seen(decode(saved(image, "TIFF"), "a.tif")), picture()) < 4


# Anything


@pytest.mark.parametrize("image", [Image.new("RGB", (1, 100_000)), Image.new("P", (30_000, 2))], ids=["high", "wide"])
def test_strips(image: Image.Image) -> None:
    assert OURS(decode(saved(image), "a.png", OURS.min_side)).shape == (3, 32, 32)


def test_an_animation_is_its_first_picture() -> None:
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
    command = [sys.executable, str(ROOT / "bench" / "mutated_pictures.py"), "--count", "600", "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
