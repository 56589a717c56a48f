"""The crops of GeneCIS's attribute tasks: boxes and pixels against values computed by hand, and crops in an index."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.data.genecis import dilated
from cir.errors import ImageDecodeError, MissingImageError
from cir.images import ImageFile, locate
from cir.images.crops import Box, split_box, square_crop, with_box
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import build_index
from cir.known import is_known, known_roots, remember_roots
from cir.search.searcher import Searcher
from cir.testing.fakes import FakeEncoder
from cir.testing.pictures import saved, shades
from cir.types import Query

# instance_bbox, size of the picture -> sides of the crop, size of the square, where the crop lies in it
BY_HAND = [
    # 14 to the left and 28 up; from there 34 and 68 long, so that right and bottom are those of the box itself.
    ((100, 100, 20, 40), (300, 300), (86, 72, 120, 140), 68, (17, 0)),
    # Left meets the edge after 5 of 14: the crop then reaches 9 past the box on the right.
    ((5, 100, 20, 40), (300, 300), (0, 72, 34, 140), 68, (17, 0)),
    # The same above.
    ((100, 7, 20, 40), (300, 300), (86, 0, 120, 68), 68, (17, 0)),
    # Right and bottom are cut at the picture: of 34 wide 30 are left, of 68 high 66.
    ((84, 98, 20, 40), (100, 136), (70, 70, 100, 136), 66, (18, 0)),
    # A box that is the picture.
    ((0, 0, 50, 30), (50, 30), (0, 0, 50, 30), 50, (0, 10)),
    # Sides at 96.5, 99.3, 105.0 and 109.5, rounded to even: 9 wide, 11 high.
    ((100, 103.5, 5, 6), (300, 300), (96, 99, 105, 110), 11, (1, 0)),
    # A strip across.
    ((40, 200, 200, 10), (300, 300), (0, 193, 300, 210), 300, (0, 141)),
]


@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
@pytest.mark.parametrize(("box", "size", "sides", "side", "place"), BY_HAND)
def test_crops_by_hand(
    box: tuple[float, ...], size: tuple[int, int], sides: tuple[int, ...], side: int, place: tuple[int, int], grey: bool
) -> None:
    picture = shades(*size).convert("L" if grey else "RGB")
    crop = Image.open(io.BytesIO(square_crop(saved(picture), "a.png", dilated(box))))
    assert (crop.mode, crop.size) == (picture.mode, (side, side))
    expected = np.zeros((side, side, *([] if grey else [3])), np.uint8)
    left, top, right, bottom = sides
    x, y = place
    expected[y : y + bottom - top, x : x + right - left] = np.asarray(picture)[top:bottom, left:right]
    np.testing.assert_array_equal(np.asarray(crop), expected)


def test_a_box_holds_pixels_of_the_picture() -> None:
    for box in ((400, 0, 20, 20), (0, 400, 20, 20), (10, 10, 0, 20), (10.0, 10.0, 0.1, 20.0)):
        with pytest.raises(ImageDecodeError, match=r"a\.png: the box .* holds none of its 90 x 60 pixels; correct"):
            square_crop(saved(shades()), "a.png", dilated(box))
    with pytest.raises(ImageDecodeError, match=r"a\.png: not an image"):
        square_crop(b"something", "a.png", Box(0, 0, 1, 1))


def test_other_modes_become_rgb_and_stored_pixels_are_not_turned() -> None:
    for mode in ("CMYK", "P", "RGBA"):
        kind = "TIFF" if mode == "CMYK" else "PNG"
        crop = Image.open(io.BytesIO(square_crop(saved(shades().convert(mode), kind), "a", Box(0, 0, 8, 4))))
        assert (crop.mode, crop.size, crop.getpixel((0, 0))) == ("RGB", (8, 8), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    crop = Image.open(io.BytesIO(square_crop(saved(shades(), exif=exif), "a", Box(0, 0, 90, 30))))
    np.testing.assert_array_equal(np.asarray(crop)[30:60], np.asarray(shades())[:30])
    assert not crop.getexif()


@pytest.mark.parametrize("box", [Box(0, 0, 1, 1), Box(0.25, 17, 210.5, 170.333333), Box(-3, 0, 1, 1e6)])
def test_a_path_and_a_box_as_one_text(box: Box) -> None:
    for path in ("/a/1.jpg", "/a#crop=1,2,3,4/b c.jpg"):
        assert split_box(with_box(path, box)) == (path, box)


@pytest.mark.parametrize("text", ["/a/1.jpg", "/a/1.jpg#crop=1,2,3", "/a/1.jpg#crop=1,2,3,x", "#crop=1,2,3,4", ""])
def test_other_texts_have_no_box(text: str) -> None:
    assert split_box(text) is None


def test_crops_of_one_file_in_an_index(tmp_path: Path) -> None:
    """Two crops of one picture and the picture itself are three images, and each is found again as what it is."""
    path = tmp_path / "1.png"
    path.write_bytes(saved(shades()))
    boxes = {"1@0,0,9,9": Box(0, 0, 9, 9), "1@70,40,9,9": Box(64, 34, 79, 49)}
    images = [ImageFile("1", str(path), str(path))]
    images += [ImageFile(name, with_box(str(path), box), str(path), box=box) for name, box in boxes.items()]
    encoder = FakeEncoder(tokens=0)
    build_index(images, tmp_path / "my.index", encoder)
    gallery = Gallery.open(tmp_path / "my.index")
    assert len(gallery) == 3
    searcher = Searcher(gallery, lambda card: encoder)
    for image in images:
        assert gallery.image(image.id).read() == image.read()
        assert locate(image.root, image.id) == image
        hits = searcher.search(Query(image.read(), k=2)).hits
        assert image.id not in {hit.id for hit in hits}  # it is the reference, by content
    (whole,) = {hit.path for hit in searcher.search(Query(text="x", k=3)).hits}
    assert whole == str(path)
    path.unlink()
    with pytest.raises(MissingImageError, match="no longer under"):
        locate(images[1].root, images[1].id)


def test_a_crop_is_trusted_as_its_file_is(tmp_path: Path) -> None:
    """A link in a known folder leads no crop to a file elsewhere; a folder with such a name is a folder."""
    known, other = tmp_path / "known", tmp_path / "other"
    for folder in (known, other):
        folder.mkdir()
        (folder / "1.png").write_bytes(saved(shades()))
    (known / "link.png").symlink_to(other / "1.png")
    roots = frozenset([str(known)])
    box = Box(0, 0, 9, 9)
    assert is_known(with_box(str(known / "1.png"), box), roots)
    for path in (known / "link.png", other / "1.png"):
        assert not is_known(with_box(str(path), box), roots)
    odd = tmp_path / "known#crop=0,0,9,9"
    odd.mkdir()
    assert not is_known(str(odd), roots)
    remember_roots([with_box(str(other / "1.png"), box), with_box(str(other / "1.png"), Box(1, 1, 9, 9)), str(odd)])
    assert known_roots() >= {str(other / "1.png"), str(odd)}
    assert not any("1.png#crop" in root for root in known_roots())


def test_a_file_whose_name_looks_like_a_crop(tmp_path: Path) -> None:
    """A picture of that very name is itself."""
    odd = tmp_path / "1.png#crop=0,0,4,4.png"
    odd.write_bytes(saved(shades()))
    assert locate(str(odd), "x").box is None
