"""The rendered wardrobe: what can be drawn, that it is repeatable, and that it looks as it is called."""

import csv
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir.data.wardrobe import ATTRIBUTES, COLOURS, Garment, draw, garments, possible, seed_of, where, write

SHIRT = Garment("t-shirt", "navy", "striped", "short", "round")


def all_garments() -> list[Garment]:
    combinations = (dict(zip(ATTRIBUTES, values, strict=True)) for values in product(*ATTRIBUTES.values()))
    return [Garment(**attributes) for attributes in combinations if possible(attributes)]


def pixels(garment: Garment, seed: int = 0, size: int = 96) -> np.ndarray:
    return np.asarray(draw(garment, seed=seed, size=size), dtype=float)


def test_every_value_belongs_to_a_possible_garment() -> None:
    seen = {(kind, value) for garment in all_garments() for kind, value in garment.attributes.items()}
    assert seen == {(kind, value) for kind, values in ATTRIBUTES.items() for value in values}


@pytest.mark.parametrize(
    "attributes",
    [
        ("skirt", "red", "plain", "short", "none"),
        ("shirt", "red", "plain", "short", "v-neck"),
        ("hoodie", "red", "plain", "long", "none"),
        ("t-shirt", "crimson", "plain", "short", "round"),
        ("sock", "red", "plain", "none", "none"),
    ],
)
def test_impossible_garments_are_refused(attributes: tuple[str, ...]) -> None:
    assert not possible(dict(zip(ATTRIBUTES, attributes, strict=True)))
    with pytest.raises(ValueError, match="no such garment"):
        Garment(*attributes)


def test_unknown_or_missing_kinds_are_not_possible() -> None:
    assert not possible({"type": "skirt"})
    assert not possible({**SHIRT.attributes, "fit": "slim"})


def test_every_cut_and_pattern_can_be_drawn() -> None:
    cuts = {(g.type, g.sleeves, g.neckline): g for g in all_garments()}
    patterns = [Garment("dress", "green", p, "short", "round") for p in ATTRIBUTES["pattern"]]
    for garment in [*cuts.values(), *patterns]:
        picture = pixels(garment, size=64)
        assert picture[:1].min() > 190, garment  # the background stays light and the garment inside
        assert picture.std() > 5, garment


@pytest.mark.parametrize("size", [64, 97, 224])
def test_size_and_mode(size: int) -> None:
    picture = draw(SHIRT, seed=1, size=size)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"


def test_the_same_seed_draws_the_same_picture_and_another_does_not() -> None:
    assert np.array_equal(pixels(SHIRT, 1), pixels(SHIRT, 1))
    assert not np.array_equal(pixels(SHIRT, 1), pixels(SHIRT, 2))


@pytest.mark.parametrize("colour", ATTRIBUTES["colour"])
@pytest.mark.parametrize("pattern", ATTRIBUTES["pattern"])
def test_the_named_colour_dominates(colour: str, pattern: str) -> None:
    picture = pixels(Garment("t-shirt", colour, pattern, "short", "round"), seed=3, size=224)
    body = picture[80:165, 75:150].reshape(-1, 3)
    distances = {name: np.abs(body - rgb).sum(axis=1) for name, rgb in COLOURS.items()}
    nearest = Counter(np.array(list(distances))[np.argmin(list(distances.values()), axis=0)])
    assert nearest.most_common(1)[0][0] == colour


def test_patterns_differ_in_the_direction_they_vary() -> None:
    def variation(pattern: str) -> tuple[float, float]:
        body = pixels(Garment("t-shirt", "navy", pattern, "short", "round"), seed=3, size=224)[80:170, 75:150]
        grey = body.mean(axis=2)
        return float(np.abs(np.diff(grey, axis=0)).mean()), float(np.abs(np.diff(grey, axis=1)).mean())

    down, across = variation("striped")
    assert down > 3 * across
    for pattern in ("checked", "dotted", "floral"):
        down, across = variation(pattern)
        assert 0.5 < down / across < 2
    assert max(variation("plain")) < min(variation("checked"))


def test_longer_sleeves_cover_more() -> None:
    cover = [
        (np.abs(pixels(Garment("t-shirt", "red", "plain", s, "round"), seed=4)[:, :, 1]) < 120)[
            :, [14, 18, 78, 82]
        ].sum()
        for s in ("sleeveless", "long")
    ]
    assert cover[0] < cover[1]


def test_a_catalogue_is_repeatable_balanced_and_full_of_neighbours() -> None:
    catalogue = garments(200, seed=7)
    assert catalogue == garments(200, seed=7)
    assert catalogue != garments(200, seed=8)
    assert set(Counter(g.type for g in catalogue).values()) == {20}
    distinct = set(catalogue)
    with_target = sum(
        any(
            sum(a != b for a, b in zip(g.attributes.values(), o.attributes.values(), strict=True)) == 1
            for o in distinct
        )
        for g in catalogue
    )
    assert with_target > 150


def test_small_catalogues() -> None:
    assert garments(0, seed=1) == []
    assert garments(3, seed=1) == garments(30, seed=1)[:3]


def test_write(tmp_path: Path) -> None:
    written = write(tmp_path / "shop", 6, seed=5)
    assert [garment for _, garment in written] == garments(6, seed=5)
    with (tmp_path / "shop" / "wardrobe.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row.pop("id"), Garment(**row)) for row in rows] == written
    for name, _ in written:
        with Image.open(tmp_path / "shop" / name) as picture:
            assert (picture.format, picture.size) == ("JPEG", (224, 224))
    before = (tmp_path / "shop" / written[0][0]).read_bytes()
    write(tmp_path / "again", 6, seed=5)
    assert (tmp_path / "again" / written[0][0]).read_bytes() == before


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("garment", [g for g in all_garments() if (g.colour, g.pattern) == ("red", "plain")][::3])
def test_parts_are_where_they_are_drawn(garment: Garment, size: int) -> None:
    """What changes from one garment to another of the same seed lies within the parts that differ."""
    whole = where(garment, seed=4, size=size)
    assert whole.shape == (size, size)
    assert (whole.min(), whole.max()) == (0, 1)
    picture = pixels(garment, seed=4, size=size)
    reds = picture[..., 0] - picture[..., 1]
    assert reds[whole == 0].mean() < 20
    assert reds[whole == 1].mean() > 60
    for attribute in ("sleeves", "neckline"):
        part = where(garment, attribute, seed=4, size=size)
        assert (part <= whole + 1e-6).all()
        assert part.any() == (getattr(garment, attribute) not in ("none", "sleeveless"))
        assert part.mean() < 0.6 * whole.mean()


def test_sleeves_are_at_the_sides_and_the_neckline_is_above() -> None:
    shirt = Garment("shirt", "blue", "striped", "long", "collar")
    rows, columns = np.mgrid[:224, :224] / 224
    sleeves, neckline = (where(shirt, attribute, seed=1) for attribute in ("sleeves", "neckline"))
    assert (np.abs(columns - 0.5) * sleeves).sum() / sleeves.sum() > 0.25
    assert (rows * neckline).sum() / neckline.sum() < 0.3
    assert not (sleeves * neckline > 0.5).any()


def test_the_seed_of_a_picture_of_a_catalogue(tmp_path: Path) -> None:
    name, garment = write(tmp_path, 3, seed=9)[2]
    with Image.open(tmp_path / name) as written:
        difference = np.abs(np.asarray(written, float) - pixels(garment, seed_of(9, 2), 224))
    assert difference.mean() < 5  # it is stored as a JPEG
