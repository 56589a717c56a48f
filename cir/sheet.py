"""A contact sheet: reference, caption and hits as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from cir.conditions import Condition
from cir.errors import DataError, ImageDecodeError, MissingImageError
from cir.files import write_atomically
from cir.images import upright
from cir.types import SearchResult

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

TILE = 208
MIN_SIDE = 2 * TILE  # as large as pictures are needed
GAP = 20
CAPTION = 40
PER_ROW = 5
LINES = 8
INK, QUIET, PAPER, CARD, ACCENT = "#1d1d1f", "#75757a", "#f6f5f3", "#ffffff", "#b3412e"

Pictures = Callable[[Any], Image.Image]


def draw_sheet(result: SearchResult, picture: Pictures) -> Image.Image:
    """Draw one result.

    Args:
        result: the query and its hits.
        picture: reference or gallery id -> decoded picture, such as `Searcher.picture`; a photo that is gone becomes
            an empty tile that says so.
    """
    query = result.query
    left = TILE + 2 * GAP
    columns = min(PER_ROW, max(1, len(result.hits)))
    rows = max(1, -(-len(result.hits) // columns))
    sentence = _sentence(result)
    query_height = GAP + 30 + len(query.references) * (TILE + GAP) + 27 * len(sentence)
    height = max(query_height, GAP + 30 + rows * (TILE + CAPTION + GAP)) + GAP
    sheet = Image.new("RGB", (left + GAP + columns * (TILE + GAP), height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_query(sheet, pen, query.references, sentence, picture)
    pen.line([(left, GAP), (left, height - GAP)], fill="#dcdad6", width=2)
    found = f"{len(result.hits)} of {result.searched:,} images" if result.hits else "nothing found"
    if result.confident is False:
        found = f"not confident · {found}"
    pen.text(
        (left + GAP, GAP), f"{found} · {result.model} · {result.seconds * 1000:.0f} ms", fill=QUIET, font=_font(15)
    )
    for place, hit in enumerate(result.hits):
        x = left + GAP + (place % columns) * (TILE + GAP)
        y = GAP + 30 + (place // columns) * (TILE + CAPTION + GAP)
        _tile(sheet, pen, hit.id, picture, (x, y))
        pen.text((x, y + TILE + 5), f"{hit.rank}", fill=ACCENT, font=_font(17))
        pen.text((x + TILE, y + TILE + 7), f"{hit.score:.3f}", fill=QUIET, font=_font(14), anchor="ra")
        name = Path(hit.id).name
        indent = pen.textlength(f"{hit.rank}", font=_font(17)) + 9
        pen.text((x + indent, y + TILE + 7), _fit(pen, name, TILE - 52 - int(indent)), fill=INK, font=_font(14))
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG or JPEG, by its suffix, complete or not at all. Raises DataError."""
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: a sheet is written as .png, .jpg or .webp; change the name")
    try:
        with write_atomically(path) as temporary:
            sheet.save(temporary, kind)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be written: {error}; choose another format") from None  # too large for it


def _sentence(result: SearchResult) -> list[tuple[str, str]]:
    """Lines of the caption and their colour; a very long caption ends with an ellipsis."""
    text = f"“{result.query.text}”"
    lines = [(line, INK) for line in textwrap.wrap(text, 22, max_lines=LINES, placeholder=" …”")]
    lines = lines if result.query.text else []
    for negative in result.query.negatives:
        lines += [(line, ACCENT) for line in textwrap.wrap(f"not “{negative}”", 22)]
    for condition in result.query.where:
        lines += [(line, QUIET) for line in textwrap.wrap(str(Condition(*condition)), 26)]
    return lines or [("more like this", QUIET)]


def _draw_query(
    sheet: Image.Image, pen: Any, references: tuple[Any, ...], lines: list[tuple[str, str]], picture: Pictures
) -> None:
    heading = "like this" if len(references) == 1 else "like these" if references else "looking for"
    pen.text((GAP, GAP), heading, fill=QUIET, font=_font(15))
    y = GAP + 30
    for reference in references:
        _tile(sheet, pen, reference, picture, (GAP, y))
        y += TILE + GAP
    for line, colour in lines:
        pen.text((GAP, y), line, fill=colour, font=_font(19))
        y += 27


def _tile(sheet: Image.Image, pen: Any, name: Any, picture: Pictures, corner: tuple[int, int]) -> None:
    """A picture, upright and whole, centred on a white card."""
    x, y = corner
    pen.rounded_rectangle([x, y, x + TILE, y + TILE], 6, fill=CARD, outline="#e6e4e0")
    try:
        photo = upright(picture(name))
    except (MissingImageError, ImageDecodeError):
        pen.text((x + TILE / 2, y + TILE / 2), "photo not found", fill=QUIET, font=_font(14), anchor="mm")
        return
    room = TILE - 8
    scale = room / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    shown = photo.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    sheet.paste(shown, (x + 4 + (room - size[0]) // 2, y + 4 + (room - size[1]) // 2), shown)


def _fit(pen: Any, text: str, width: int) -> str:
    while text and pen.textlength(text, font=_font(14)) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text


def _font(size: int) -> FreeTypeFont | Any:
    return ImageFont.load_default(size)
