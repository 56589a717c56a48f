"""A contact sheet: reference, caption and hits as one picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageDraw

from cir.errors import DataError, ImageDecodeError, MissingImageError
from cir.files import write_atomically
from cir.fonts import draw_text, missing_letters, shorten, text_width, wrap
from cir.images import as_seen
from cir.images.names import shown
from cir.types import SearchResult

log = logging.getLogger(__name__)

TILE = 208
MIN_SIDE = 2 * TILE  # as large as pictures are needed
GAP = 20
CAPTION = 40
PER_ROW = 5
LINES = 8
INK, QUIET, PAPER, CARD, ACCENT = "#1d1d1f", "#75757a", "#f6f5f3", "#ffffff", "#b3412e"

Pictures = Callable[[Any], Image.Image]


def draw_sheet(result: SearchResult, picture: Pictures, *, scores: bool = True) -> Image.Image:
    """Draw one result. Letters that no installed font has become boxes, and the sheet says so.

    Args:
        result: the query and its hits.
        picture: reference or gallery id -> decoded picture, such as `Searcher.picture`; a photo that is gone becomes
            an empty tile that says so.
        scores: whether scores, the model and its time are shown; a judge of two models' hits must not see them.
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
    names = [shown(PurePosixPath(hit.id).name) for hit in result.hits]
    missing = missing_letters("".join([*names, *(line for line, _ in sentence)]))
    heading = _heading(result, missing, scores=scores)
    draw_text(pen, (left + GAP, GAP), shorten(heading, 15, sheet.width - left - 2 * GAP), 15, QUIET)
    for place, (hit, name) in enumerate(zip(result.hits, names, strict=True)):
        x = left + GAP + (place % columns) * (TILE + GAP)
        y = GAP + 30 + (place // columns) * (TILE + CAPTION + GAP)
        draw_tile(sheet, pen, hit.id, picture, (x, y))
        draw_text(pen, (x, y + TILE + 5), f"{hit.rank}", 17, ACCENT)
        if scores:
            draw_text(pen, (x + TILE, y + TILE + 7), f"{hit.score:.3f}", 14, QUIET, from_right=True)
        indent = text_width(f"{hit.rank}", 17) + 9
        draw_text(pen, (x + indent, y + TILE + 7), shorten(name, 14, TILE - 52 - indent), 14, INK)
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


def _heading(result: SearchResult, missing: str, *, scores: bool) -> str:
    found = f"{len(result.hits)} of {result.searched:,} images" if result.hits else "nothing found"
    parts = [found, result.model, f"{result.seconds * 1000:.0f} ms"] if scores else [f"{len(result.hits)} to judge"]
    if result.confident is False:
        parts.insert(0, "not confident")
    if missing:
        log.warning("no font here has the letters %s; install one, such as Noto Sans CJK", missing[:20])
        parts.insert(0, "letters without a font")
    return " · ".join(map(shown, parts))


def _sentence(result: SearchResult) -> list[tuple[str, str]]:
    """Lines of the caption and their colour; a very long caption ends with an ellipsis."""
    lines: list[tuple[str, str]] = []
    if result.query.text:
        whole = _lines(f"“{result.query.text}”")
        shortened = [*whole[: LINES - 1], f"{whole[LINES - 1]} …”"] if len(whole) > LINES else whole
        lines += [(line, INK) for line in shortened]
    for negative in result.query.negatives:
        lines += [(line, ACCENT) for line in _lines(f"not “{negative}”")]
    for condition in result.query.where:
        lines += [(line, QUIET) for line in _lines(str(condition))]
    return lines or [("more like this", QUIET)]


def _lines(text: str) -> list[str]:
    return wrap(shown(" ".join(text.split())), 19, TILE)


def _draw_query(
    sheet: Image.Image, pen: Any, references: tuple[Any, ...], lines: list[tuple[str, str]], picture: Pictures
) -> None:
    heading = "like this" if len(references) == 1 else "like these" if references else "looking for"
    draw_text(pen, (GAP, GAP), heading, 15, QUIET)
    y = GAP + 30
    for reference in references:
        draw_tile(sheet, pen, reference, picture, (GAP, y))
        y += TILE + GAP
    for line, colour in lines:
        draw_text(pen, (GAP, y), line, 19, colour)
        y += 27


def draw_tile(
    sheet: Image.Image,
    pen: Any,
    name: Any,
    picture: Pictures,
    corner: tuple[int, int],
    side: int = TILE,
    change: Callable[[Image.Image], Image.Image] = lambda shrunk: shrunk,
) -> None:
    """A picture as the model saw it, whole, centred on a white card; changed before it is laid there."""
    x, y = corner
    pen.rounded_rectangle([x, y, x + side, y + side], 6, fill=CARD, outline="#e6e4e0")
    try:
        photo = as_seen(picture(name))
    except (MissingImageError, ImageDecodeError) as error:
        text = "photo not found" if isinstance(error, MissingImageError) else "photo cannot be read"
        draw_text(pen, (x + (side - text_width(text, 14)) / 2, y + side / 2 - 8), text, 14, QUIET)
        return
    room = side - 8
    scale = room / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    shrunk = change(photo.resize(size, Image.Resampling.LANCZOS))
    sheet.paste(shrunk, (x + 4 + (room - size[0]) // 2, y + 4 + (room - size[1]) // 2))
