"""Letters of any script: text is drawn with the first installed font that has each letter."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# File names of common fonts on Linux, macOS and Windows, which Pillow looks for in the system's folders. The built-in
# font has the Latin letters; the first ones here add Cyrillic, Greek, Arabic and Hebrew, the others the CJK scripts.
_NAMES = (
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans-Regular.ttc", "wqy-microhei.ttc"),
    *("wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "unifont.otf", "unifont.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "STHeiti Medium.ttc"),
    *("msyh.ttc", "meiryo.ttc", "malgun.ttf", "simsun.ttc", "segoeui.ttf", "seguiemj.ttf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
    *("NotoSansThai-Regular.ttf", "FreeSans.ttf", "FreeSerif.ttf", "Symbola.ttf"),
)
_NO_LETTER = "\U0010ffff"  # drawn as what a font draws for a letter that it lacks


def draw_text(
    pen: ImageDraw, place: tuple[float, float], text: str, size: int, fill: str, *, from_right: bool = False
) -> None:
    """Draw a line of text.

    Args:
        pen: draws on the picture.
        place: top left corner; top right with `from_right`.
        text: without line breaks.
        size: of the letters, in pixels.
        fill: colour.
        from_right: whether `place` is where the text ends.
    """
    x, y = place
    x -= text_width(text, size) if from_right else 0
    base = y + _font("", size).getmetrics()[0]
    for name, run in _runs(text):
        pen.text((x, base), run, fill=fill, font=_font(name, size), anchor="ls")
        x += _font(name, size).getlength(run)


def text_width(text: str, size: int) -> float:
    """Width of a line of text, in pixels."""
    return float(sum(_font(name, size).getlength(run) for name, run in _runs(text)))


def wrap(text: str, size: int, width: float) -> list[str]:
    """Text as lines that fit a width; words longer than a line are broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if text_width(joined, size) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def shorten(text: str, size: int, width: float) -> str:
    """Text that fits a width; a longer one ends with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)  # the longest beginning that fits, by halving: a name may be very long
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle] + "…", size) <= width else (low, middle - 1)
    return text[:low] + "…"


def missing_letters(text: str) -> str:
    """The letters of a text that no font here has; they are drawn as boxes."""
    return "".join(letter for letter in dict.fromkeys(text) if _home(letter) is None)


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """(font, part) of a text; marks and joiners stay with their letter."""
    homes: list[str] = []
    for letter in text:
        alone = unicodedata.category(letter) not in ("Mn", "Mc", "Me", "Cf", "Zs")
        homes.append((_home(letter) or "") if alone or not homes else homes[-1])
    for name, run in groupby(zip(homes, text, strict=True), key=lambda pair: pair[0]):
        yield name, "".join(letter for _, letter in run)


@lru_cache(maxsize=4096)
def _home(letter: str) -> str | None:
    """The first font that has a letter: "" for the built-in one, None if there is none."""
    if letter.isspace() or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return ""
    return next((name for name in ("", *_installed()) if _has(name, letter)), None)


def _has(name: str, letter: str) -> bool:
    font = _font(name, 16)
    drawn, absent = font.getmask(letter), font.getmask(_NO_LETTER)
    return drawn.getbbox() is not None and (drawn.size, bytes(drawn)) != (absent.size, bytes(absent))


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    found = []
    for name in _NAMES:
        try:
            ImageFont.truetype(name, 16)
        except (OSError, ValueError):  # not installed, or not a font that can be read
            continue
        found.append(name)
    return tuple(found)


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Any:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
