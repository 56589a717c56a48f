"""The picture of an explanation: heat lies where the map says, every part is told, and nothing is cut off."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cir.errors import ImageDecodeError, MissingImageError
from cir.explain import Explanation, HeatMap, Measured, Part, draw_explanation, heat_image
from cir.explain.drawing import HEAT, TILE
from cir.explain.wording import lines_of, percent
from cir.types import Query


def heat(row: int = 0, column: int = 0, side: int = 7) -> HeatMap:
    values = np.zeros((side, side), np.float32)
    values[row, column] = 1
    return HeatMap(values, 0.1, "occlusion", 0.5)


def explanation(query: Query, *, image_id: str = "a/hit.jpg", notes: tuple[str, ...] = ()) -> Explanation:
    parts = [Part("text", 0, Measured(0.25, 0.5), Measured(0.125, 0.25), 0.25)] if query.text else []
    parts += [Part("negative", n, Measured(0.75, 0.75), None, -0.25) for n in range(len(query.negatives))]
    several = len(query.references) if len(query.references) > 1 else 0
    parts += [Part("reference", n, Measured(0.4, 0.5), Measured(0.3, 0.5), 0.1) for n in range(several)]
    return Explanation(
        query=query,
        id=image_id,
        measured=Measured(0.5, 0.999),
        model="small-3",
        made_by="small-3",
        references=tuple(heat() if number < 4 else None for number in range(len(query.references))),
        hit=heat(6, 6),
        words=heat(3, 3) if query.references and query.text else None,
        parts=tuple(parts),
        notes=notes,
        seconds=0.1,
    )


def white(name: object) -> Image.Image:
    return Image.new("RGB", (90, 90), "white")


def orange(sheet: Image.Image) -> np.ndarray:
    """Where heat is strong."""
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    return (pixels[..., 0] - pixels[..., 2] > 120) & (pixels[..., 0] > 200)


@pytest.mark.parametrize(
    "query",
    [
        Query("r", "in red"),
        Query("r"),
        Query(text="a caption that goes on and on and on " * 20, negatives=("stripes", "dots " * 60)),
        Query(("a", "b", "c", "d", "e"), "x", negatives=("y",)),
        Query("r", "裙子 \u202e"),
    ],
    ids=range(5),
)
@pytest.mark.parametrize("count", [1, 3])
def test_any_query_and_any_number_of_hits_fit(query: Query, count: int) -> None:
    notes = ("something is missing, for a reason that takes more than one line to tell " * 4,)
    sheet = draw_explanation([explanation(query, notes=notes) for _ in range(count)], white)
    pixels = np.asarray(sheet)
    for edge in (pixels[-4:], pixels[:, -4:], pixels[:4], pixels[:, :4]):
        assert (edge == edge[0, 0]).all()  # nothing is cut off
    assert sheet.width > TILE * (1 + len(query.references))


def test_heat_lies_where_the_map_says() -> None:
    overlay = np.asarray(heat_image(heat(0, 6), (140, 70)))
    assert overlay.shape == (70, 140, 4)
    opacity = overlay[..., 3].astype(int)
    rows, columns = np.nonzero(opacity > 150)
    assert rows.mean() < 10
    assert columns.mean() > 120
    assert opacity[40:, :90].max() == 0
    assert (overlay[2, 137, :3] == HEAT).all()


def test_a_map_that_is_strong_everywhere_has_no_line() -> None:
    overlay = np.asarray(heat_image(HeatMap(np.ones((3, 3), np.float32), 1.0, "occlusion", 0.5), (60, 60)))
    assert (overlay[..., :3] == HEAT).all()


@pytest.mark.parametrize("ground", ["white", "black", "#808080", "#e85d04"])
def test_heat_stands_out_from_any_photo(ground: str) -> None:
    """Also from a photo of its own colour, which is drawn in grey."""
    sheet = draw_explanation(explanation(Query(text="red")), lambda name: Image.new("RGB", (60, 60), ground))
    tile = np.asarray(sheet).astype(int)[90:360, 30:300]
    cold = tile[20:40, 20:40].mean(axis=(0, 1))
    assert np.abs(tile[150:, 150:] - cold).sum(axis=-1).max() > 140


@pytest.mark.parametrize("error", [MissingImageError, ImageDecodeError])
def test_a_photo_that_is_gone_is_an_empty_tile(error: type[Exception]) -> None:
    def gone(name: object) -> Image.Image:
        raise error("gone")

    sheet = draw_explanation(explanation(Query("r", "x")), gone)
    assert not orange(sheet.crop((0, 0, sheet.width, sheet.height - 90))).any()


def test_numbers_in_words() -> None:
    lines = lines_of(explanation(Query("r", "in red", negatives=("a\nb",))))
    assert [(line.label, line.change) for line in lines] == [
        ("without the words", "-0.250"),
        ("without not “a b”", "+0.250"),
    ]
    three = lines_of(explanation(Query(("r", "s"), "in red", negatives=("stripes",))))
    assert [line.label for line in three] == [
        "without the words",
        "the words alone",
        "without not “stripes”",
        "without reference 1",
        "reference 1 alone",
        "without reference 2",
        "reference 2 alone",
    ]


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100 %"), (0.9999, "99.9 %"), (0.5, "50.0 %"), (0, "0.0 %"), (0.29, "29.0 %")]
)
def test_only_all_is_all(share: float, text: str) -> None:
    assert percent(share) == text
