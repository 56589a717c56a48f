"""Colours, shades and transparency of pictures, as people see them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from cir.images import Preprocess, as_seen, decode
from cir.images.colour import to_srgb
from cir.testing.pictures import saved, shades
from cir.testing.profiles import SPACES, rgb_profile
from cir.typed_json import from_json

OURS = Preprocess(size=32, flatten=True, target_ratio=1.0, fill=255, srgb=True, mean=(0, 0, 0), std=(1, 1, 1))


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))


def error_of(image: Image.Image, expected: Image.Image) -> float:
    return float(np.abs(np.asarray(image.convert("RGB"), np.int16) - np.asarray(expected, np.int16)).mean())


@pytest.mark.parametrize("name", ["ProPhoto RGB", "Adobe RGB", "Display P3"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_are_converted_where_they_change_colours(name: str, kind: str) -> None:
    profile = rgb_profile(name)
    muted = Image.blend(shades(), Image.new("RGB", (90, 60), "grey"), 0.5)  # in every space
    foreign = in_space(muted, profile)
    image = decode(saved(foreign, kind, icc_profile=profile, quality=98), "a")
    assert error_of(image, muted) > 5
    assert error_of(as_seen(image), muted) < 4
    assert same(as_seen(image, srgb=False), image)
    assert not np.array_equal(OURS(image), Preprocess(**{**OURS.__dict__, "srgb": False})(image))


def in_space(image: Image.Image, profile: bytes) -> Image.Image:
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target)
    assert converted is not None
    return converted


def test_srgb_and_broken_profiles_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    broken = rgb_profile("ProPhoto RGB")
    for profile in (srgb, broken[:300], broken.replace(b"rXYZ", b"xXYZ"), b"junk", bytes(200), other, bytes(17 << 20)):
        image = shades()
        image.info["icc_profile"] = profile
        assert to_srgb(image) is image


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "YCbCr"])
def test_a_profile_never_stops_a_shades(mode: str) -> None:
    image = shades().quantize(16) if mode == "P" else shades().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    for name in SPACES:
        image.info["icc_profile"] = rgb_profile(name)
        assert as_seen(image).size == image.size
        assert np.isfinite(OURS(image)).all()


def test_transparency_is_kept_by_the_conversion() -> None:
    image = shades().convert("RGBA")
    image.putalpha(0)
    image.info["icc_profile"] = rgb_profile("ProPhoto RGB")
    assert np.asarray(as_seen(image)).min() == 255


def test_the_conversion_is_part_of_what_a_model_is() -> None:
    assert Preprocess(srgb=True).sha256 != Preprocess().sha256
    assert from_json(Preprocess, {"srgb": True}) == Preprocess(srgb=True)


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
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(shades(), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert image is not None
    assert error_of(as_seen(decode(saved(image, "TIFF"), "a.tif")), shades()) < 4
