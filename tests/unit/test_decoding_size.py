"""How large pictures are decoded, and in how much memory."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.errors import ImageDecodeError
from cir.images import Preprocess, decode, memory
from cir.images import decode as decode_function
from cir.testing.pictures import saved, shades

OURS = Preprocess(size=32, flatten=True, target_ratio=1.0, fill=255, srgb=True, mean=(0, 0, 0), std=(1, 1, 1))


def decode_module() -> object:
    return sys.modules[decode_function.__module__]


def test_a_photo_is_decoded_as_large_as_it_is_needed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(shades(1600, 1200), "JPEG", exif=exif)
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
    data = saved(shades(800, 600), "JPEG")
    with pytest.raises(ImageDecodeError, match="800 x 600 pixels is too large"):
        decode(data, "a.jpg")
    assert decode(data, "a.jpg", 64).size == (100, 75)
    monkeypatch.setattr(decode_module(), "MAX_JPEG_PIXELS", 400_000)
    with pytest.raises(ImageDecodeError, match="too large"):
        decode(data, "a.jpg", 64)
    with pytest.raises(ImageDecodeError, match="too large"):  # what cannot be decoded small
        decode(saved(shades(800, 600)), "a.png", 64)


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
        image = Image.fromarray(np.asarray(shades(400, 300).convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = shades(400, 300).quantize(64)
    else:
        image = shades(400, 300).convert(mode)
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
    with pytest.raises(ImageDecodeError, match=r"a\.png: needs 288 MB of memory and 50 MB are free"):
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
