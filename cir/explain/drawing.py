"""An explanation as a picture: heat over reference and hit, and what the parts of the query do, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cir.explain.explanation import Explanation, HeatMap
from cir.explain.wording import HONEST, lines_of, percent
from cir.fonts import draw_text, shorten, text_width, wrap
from cir.images.names import shown
from cir.sheet import ACCENT, GAP, INK, PAPER, QUIET, draw_tile

TILE = 288
MIN_SIDE = 2 * TILE  # as large as pictures are needed
LABEL = 26  # height of the line above a tile
TABLE = 400  # width of the numbers
ROW = 25
# One hue, and light and dark that grow with the value: it stands out from black cloth and from a white table, and from
# grey also for those who see red and green alike.
HEAT = (232, 93, 4)
OPACITY = 0.78
COLOUR_KEPT = 0.2  # of the photo below, so that no colour of its own passes for heat
HALF = 0.5  # where a line is drawn

Pictures = Callable[[Any], Image.Image]


def heat_image(heat: HeatMap, size: tuple[int, int]) -> Image.Image:
    """A map as an RGBA picture of a size, to be laid over the photo: transparent where the score does not react.

    A line surrounds what is above half of the strongest reaction.
    """
    values = np.asarray(Image.fromarray(heat.values).resize(size, Image.Resampling.BICUBIC), np.float32).clip(0, 1)
    drawn = np.empty((*values.shape, 4), np.uint8)
    drawn[..., :3] = HEAT
    drawn[..., 3] = (255 * OPACITY * values).round()
    inside = np.pad(values >= HALF, 1, mode="edge")
    whole = inside[1:-1, :-2] & inside[1:-1, 2:] & inside[:-2, 1:-1] & inside[2:, 1:-1]
    drawn[inside[1:-1, 1:-1] & ~whole] = (29, 29, 31, 230)
    return Image.fromarray(drawn)


def draw_explanation(explanations: Explanation | Sequence[Explanation], picture: Pictures) -> Image.Image:
    """Draw why one image, or several, are hits of one query.

    Args:
        explanations: of the same query; a row each.
        picture: reference or gallery id -> decoded picture, such as `Searcher.picture`; a photo that is gone becomes an
            empty tile that says so.
    """
    rows = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    columns = [list(_columns(each)) for each in rows]
    width = GAP + max(len(tiles) * (TILE + GAP) for tiles in columns) + TABLE + GAP
    heads = [
        *_sentence(rows[0], width - 2 * GAP),
        (f"{shown(rows[0].model)} · {rows[0].method or 'no map'}", 14, QUIET),
    ]
    feet = list(_footnotes(rows, width - 2 * GAP))
    top = GAP + sum(size + 8 for _, size, _ in heads) + 6
    heights = [max(LABEL + TILE, LABEL + ROW * (4 + len(lines_of(each)))) + GAP for each in rows]
    height = top + sum(heights) + 34 + 21 * len(feet) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    y = GAP
    for line, size, colour in heads:
        draw_text(pen, (GAP, y), line, size, colour)
        y += size + 8
    y = top
    for each, tiles, high in zip(rows, columns, heights, strict=True):
        for place, (label, name, heat) in enumerate(tiles):
            _tile(sheet, pen, (GAP + place * (TILE + GAP), y), label, name, heat, picture)
        _numbers(pen, (GAP + len(tiles) * (TILE + GAP), y), each)
        y += high
    _legend(sheet, pen, (GAP, y))
    for number, (line, colour) in enumerate(feet):
        draw_text(pen, (GAP, y + 34 + 21 * number), line, 14, colour)
    return sheet


def _columns(each: Explanation) -> Iterator[tuple[str, Any, HeatMap | None]]:
    """Label, what is shown, and the map over it."""
    several = len(each.query.references) > 1
    for number, (reference, heat) in enumerate(zip(each.query.references, each.references, strict=True)):
        yield f"reference {number + 1}" if several else "the reference", reference, heat
    yield f"the hit: {shown(PurePosixPath(each.id).name)}", each.id, each.hit
    if each.words is not None:
        yield "the hit, for the words alone", each.id, each.words


def _sentence(each: Explanation, width: int) -> Iterator[tuple[str, int, str]]:
    """Lines of the query, each with its size and colour."""
    query = each.query
    for line in wrap(shown(" ".join(query.text.split())), 19, width - 20)[:3] if query.text.strip() else ():
        yield f"“{line}”", 19, INK
    for negative in query.negatives:
        yield shorten(f"not “{shown(' '.join(negative.split()))}”", 19, width), 19, ACCENT
    if not query.text.strip() and not query.negatives:
        yield "more like this", 19, QUIET


def _footnotes(rows: Sequence[Explanation], width: int) -> Iterator[tuple[str, str]]:
    """Lines below, each with its colour."""
    yield HONEST, QUIET
    for note in dict.fromkeys(note for each in rows for note in each.notes):
        for line in wrap(shown(note), 14, width):
            yield line, ACCENT


def _tile(
    sheet: Image.Image,
    pen: Any,
    corner: tuple[int, int],
    label: str,
    name: Any,
    heat: HeatMap | None,
    picture: Pictures,
) -> None:
    """A label, and a picture with its heat, whole, centred on a white card."""
    x, y = corner
    draw_text(pen, (x, y), shorten(label, 15, TILE), 15, INK)
    draw_tile(sheet, pen, name, picture, (x, y + LABEL), TILE, lambda it: it if heat is None else _heated(it, heat))


def _heated(shrunk: Image.Image, heat: HeatMap) -> Image.Image:
    """A picture in faint colours below its heat."""
    faint = Image.blend(shrunk.convert("L").convert("RGB"), shrunk, COLOUR_KEPT)
    overlay = heat_image(heat, shrunk.size)
    faint.paste(overlay, (0, 0), overlay)
    return faint


def _numbers(pen: Any, corner: tuple[int, int], each: Explanation) -> None:
    """The score, and those with parts left out."""
    x, y = corner
    y += LABEL
    draw_text(pen, (x, y), f"{each.measured.score:.3f}", 30, ACCENT)
    beside = x + text_width(f"{each.measured.score:.3f}", 30) + 12
    draw_text(pen, (beside, y + 13), f"above {percent(each.measured.above)} of the gallery", 15, INK)
    y += 2 * ROW
    lines = lines_of(each)
    rows = [(line.label, f"{line.measured.score:.3f}", line.change, percent(line.measured.above)) for line in lines]
    for label, *values in [("", "score", "change", "above"), *rows] if rows else ():
        draw_text(pen, (x, y), shorten(label, 15, 185), 15, INK)
        for right, text in zip((240, 310, TABLE - GAP), values, strict=True):
            colour = INK if label and right == 240 else QUIET
            draw_text(pen, (x + right, y), text.replace("-", "−"), 15, colour, from_right=True)
        y += ROW


def _legend(sheet: Image.Image, pen: Any, corner: tuple[int, int]) -> None:
    x, y = corner
    ramp = HeatMap(np.linspace(0, 1, 64, dtype=np.float32)[None], 1.0, "", 0.0)
    bar = Image.new("RGB", (160, 16), "#b9b9bc")
    overlay = heat_image(ramp, bar.size)
    bar.paste(overlay, (0, 0), overlay)
    draw_text(pen, (x, y), "what the score reacts to:  not", 14, QUIET)
    x += round(text_width("what the score reacts to:  not", 14)) + 10
    sheet.paste(bar, (x, y + 1))
    draw_text(pen, (x + 170, y), "most; the line is at half", 14, QUIET)
