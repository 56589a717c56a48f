"""The contact sheet: it shows the query and every hit, and is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.errors import DataError, MissingImageError
from cir.sheet import PER_ROW, TILE, draw_sheet, save_sheet
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
