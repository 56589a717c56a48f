"""The contact sheet: it shows the query and every hit, and is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir import fonts
from cir.errors import DataError, ImageDecodeError, MissingImageError
from cir.images.names import shown
from cir.sheet import PER_ROW, TILE, draw_sheet, save_sheet
from cir.testing.profiles import rgb_profile
from cir.types import Hit, Query, SearchResult


def result(count: int, **query: object) -> SearchResult:
    hits = tuple(Hit(rank, f"folder/{'very' * 9}-long-{rank}.jpg", 1 - rank / 100) for rank in range(1, count + 1))
    return SearchResult(Query(**query), hits, 1234, "tiny-1", 0.01)  # type: ignore[arg-type]


def plain(colour: str, size: tuple[int, int] = (50, 80)) -> Image.Image:
    return Image.new("RGB", size, colour)


def has(sheet: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(sheet).astype(int) - colour).sum(axis=-1) < 12).any())


def test_reference_and_hits_are_shown() -> None:
    sheet = draw_sheet(
        result(7, references=("r",), text="in red"), lambda name: plain("#00ff00" if name == "r" else "#0000ff")
    )
    assert has(sheet, (0, 255, 0))
    assert has(sheet, (0, 0, 255))
    assert sheet.width > (PER_ROW + 1) * TILE


@pytest.mark.parametrize(
    "query",
    [
        {"text": "a caption that goes on and on and on " * 8},
        {"references": ("a",)},
        {"text": "x", "negatives": ("stripes", "dots"), "where": (("season", "Summer"),)},
        {},
    ],
)
@pytest.mark.parametrize("count", [0, 1, 5, 23])
def test_any_query_and_any_count_fit(query: dict[str, object], count: int) -> None:
    sheet = draw_sheet(result(count, **query), lambda name: plain("#0000ff", (300, 10)))
    assert has(sheet, (0, 0, 255)) == (count > 0 or "references" in query)
    bottom = np.asarray(sheet)[-4:]
    assert (bottom == bottom[0, 0]).all()  # nothing is cut off at the bottom


def test_a_missing_photo_becomes_an_empty_tile() -> None:
    def gone(image_id: str) -> Image.Image:
        raise MissingImageError("gone")

    assert draw_sheet(result(2, references=("r",), text="x"), gone).height > TILE


def test_transparency_is_shown_on_the_card() -> None:
    sheet = draw_sheet(result(1, text="x"), lambda name: Image.new("RGBA", (40, 40), (255, 0, 0, 0)))
    assert not has(sheet, (255, 0, 0))


def test_pictures_are_shown_as_the_model_saw_them() -> None:
    turned = plain("#00ff00", (90, 30))
    turned.getexif()[0x0112] = 6
    sixteen = Image.fromarray(np.full((30, 30), 128 * 257, np.uint16))
    floats = Image.fromarray(np.full((30, 30), 0.5, np.float32))
    foreign = plain("#704040")
    foreign.info["icc_profile"] = rgb_profile("ProPhoto RGB")
    assert has(draw_sheet(result(1, text="x"), lambda name: sixteen), (128, 128, 128))
    assert has(draw_sheet(result(1, text="x"), lambda name: floats), (128, 128, 128))
    assert not has(draw_sheet(result(1, text="x"), lambda name: foreign), (0x70, 0x40, 0x40))
    rows = (np.asarray(draw_sheet(result(1, text="x"), lambda name: turned)) == (0, 255, 0)).all(axis=-1).any(axis=1)
    assert rows.sum() > TILE - 20  # upright, so it is as high as the tile


def test_a_photo_that_cannot_be_read_is_named_so() -> None:
    def unreadable(image_id: str) -> Image.Image:
        raise ImageDecodeError("broken")

    numbers = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    assert draw_sheet(result(1, text="x"), unreadable).height > TILE
    assert draw_sheet(result(1, text="x"), lambda name: numbers).height > TILE


NAMES = [
    "new\nline",
    "bell\x07",
    "\u202etxt",
    "\udcff",
    "裙子",
    "платье",
    "é" * 500,
    "\u0301",
    "\U0010ffff",
    "a\tb",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_breaks_a_sheet(name: str) -> None:
    hits = (Hit(1, f"folder/{name}", 0.5),)
    text = name.replace("\udcff", "")  # a query's text is Unicode; names of files need not be
    query = Query((), text, negatives=(text,), where=(("a", text),))
    sheet = draw_sheet(SearchResult(query, hits, 10, name, 0.01), lambda name: plain("#0000ff"))
    right = np.asarray(sheet)[:, -4:]
    assert (right == right[0, 0]).all()  # nothing is cut off


def test_control_characters_are_escaped() -> None:
    assert shown("a\nb\x07\u202e\udcff\u2028") == r"a\nb\x07\u202e\udcff\u2028"
    assert shown("裙子 é \u200d") == "裙子 é \u200d"


def test_letters_without_a_font_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(fonts, "_installed", tuple)
    fonts._home.cache_clear()
    try:
        assert fonts.missing_letters("red 裙子裙") == "裙子"
        draw_sheet(result(1, text="красное платье"), lambda name: plain("#0000ff"))
        assert "no font here has the letters" in caplog.text
        caplog.clear()
        draw_sheet(result(1, text="a “navy” dress · 1 of 10…"), lambda name: plain("#0000ff"))
        assert caplog.text == ""
    finally:
        fonts._home.cache_clear()


def test_installed_fonts_fill_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each letter is drawn with the first font that has it."""
    monkeypatch.setattr(fonts, "_installed", lambda: ("Other.ttf",))
    monkeypatch.setattr(fonts, "_has", lambda name, letter: letter.isascii() == (name == ""))
    monkeypatch.setattr(fonts, "_font", lambda name, size: fonts.ImageFont.load_default(size))
    fonts._home.cache_clear()
    try:
        assert list(fonts._runs("in 红色 now")) == [("", "in "), ("Other.ttf", "红色 "), ("", "now")]
        assert fonts.missing_letters("红色") == ""
        assert fonts.text_width("红色", 20) > 0
    finally:
        fonts._home.cache_clear()


def test_lines_fit_in_any_script() -> None:
    for text in ("a caption of words", "红色" * 40, "x" * 200, ""):
        lines = fonts.wrap(text, 19, TILE)
        assert all(fonts.text_width(line, 19) <= TILE for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert fonts.text_width(fonts.shorten(text, 14, 100), 14) <= 100


def test_a_sheet_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    save_sheet(plain("white"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert written.format == "PNG"
    with pytest.raises(DataError, match="change the name"):
        save_sheet(plain("white"), tmp_path / "a.txt")
    with pytest.raises(DataError, match="cannot be written"):
        save_sheet(plain("white"), tmp_path / "a.png" / "b.png")  # below a file
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    save_sheet(plain("white"), tmp_path / "new" / "a.jpg")
    with Image.open(tmp_path / "new" / "a.jpg") as written:
        assert written.format == "JPEG"


def test_a_picture_too_large_for_its_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.webp.*(cannot be written|choose another)"):
        save_sheet(Image.new("RGB", (20_000, 2)), tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []
