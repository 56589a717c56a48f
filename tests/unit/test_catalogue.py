"""Composed queries from attributes, and what people say."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from cir.data import captions
from cir.data import products
from cir.data import wardrobe
from cir.data.items import Catalogue, Item
from cir.errors import DataError

KINDS = ("colour", "type")


def items(*rows: tuple[str, str, str]) -> list[Item]:
    return [Item(name, {"colour": colour, "type": kind}) for name, colour, kind in rows]


def test_targets_are_exactly_the_items_with_the_change_applied() -> None:
    catalogue = Catalogue(
        items(("a", "red", "shirt"), ("b", "blue", "shirt"), ("c", "blue", "shirt"), ("d", "blue", "shoe")), KINDS
    )
    change = catalogue.change(catalogue.item("a"), ["colour"], random.Random(0))
    assert change is not None
    assert change.targets == ("b", "c")
    assert change.changes == (("colour", "red", "blue"),)
    both = catalogue.change(catalogue.item("a"), ["type", "colour"], random.Random(0))
    assert both is not None
    assert both.kind == "colour+type"
    assert both.targets == ("d",)
    assert catalogue.change(catalogue.item("a"), ["type"], random.Random(0)) is None


def test_what_is_fixed_never_changes() -> None:
    pair = [Item("a", {"colour": "red", "type": "x"}, "shoes"), Item("b", {"colour": "blue", "type": "x"}, "bags")]
    assert Catalogue(pair, KINDS).changes(5, {("colour",): 1.0}, seed=0) == []


def test_changes_are_deterministic_and_right() -> None:
    garments = wardrobe.garments(300, seed=9)
    catalogue = Catalogue([Item(f"{i:03d}", garment.attributes) for i, garment in enumerate(garments)], wardrobe.KINDS)
    changes = catalogue.changes(200, wardrobe.CHANGE_WEIGHTS, seed=4)
    assert changes == catalogue.changes(200, wardrobe.CHANGE_WEIGHTS, seed=4)
    assert changes != catalogue.changes(200, wardrobe.CHANGE_WEIGHTS, seed=5)
    assert len(changes) == 200
    for change in changes:
        expected = dict(catalogue.item(change.reference).attributes)
        for kind, old, new in change.changes:
            assert expected[kind] == old
            assert old != new
            expected[kind] = new
        answers = {item.id for item in catalogue.items if dict(item.attributes) == expected}
        assert answers == set(change.targets)
        assert change.reference not in answers


def slots(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_the_bank_can_be_filled_and_val_is_not_in_train() -> None:
    bank = captions.bank()
    # What a benchmark asks has phrasings of its own; training asks for more.
    asked = {kind for kinds in (products.KINDS, wardrobe.KINDS) for kind in kinds} | {"joined", "same"}
    assert bank["val"].keys() == asked
    allowed = {"new", "old", "a_new", "a_old", "possessive"}
    for kind in bank["train"]:
        train, val = bank["train"][kind], bank["val"].get(kind, [])
        assert not set(train) & set(val), kind
        assert len(set(train)) == len(train)
        for template in [*train, *val]:
            if kind == "joined":
                assert slots(template) == {"a", "b"}
            else:
                assert slots(template) <= allowed
                # A plain change names the new value; "not colour" may name the old one, "same" neither.
                assert bool(slots(template) & {"new", "a_new", "possessive"}) == (" " not in kind and kind != "same")
        if kind != "joined" and kind not in asked:
            assert any("old}" not in template for template in train), "a value may be unknown"


def test_captions_name_the_new_value() -> None:
    rng = random.Random(0)
    for phrasing in ("train", "val"):
        for _ in range(100):
            caption = captions.change_caption([("colour", "Red", "Navy Blue")], rng, phrasing=phrasing)
            assert any(word in caption for word in captions.words("colour", "Navy Blue"))
        two = captions.change_caption(
            [("colour", "Red", "Green"), ("gender", "Men", "Women")], rng, phrasing=phrasing, varied=False
        )
        assert "green" in two
        assert "wom" in two


@pytest.mark.parametrize(
    ("value", "word"),
    [("Tshirts", "t-shirt"), ("Ties", "tie"), ("Jeans", "jeans"), ("Dresses", "dress"), ("Watches", "watch"),
     ("Kurtas", "kurta"), ("Accessories", "accessory"), ("Sports Shoes", "sports shoes")],
)  # fmt: skip
def test_type_names_become_words(value: str, word: str) -> None:
    assert captions.words("type", value)[0] == word


def test_descriptions_name_the_thing() -> None:
    rng = random.Random(1)
    shirt = {"colour": "Red", "type": "Shirts", "gender": "Men"}
    assert all("shirt" in captions.description(shirt, rng) for _ in range(20))
    garment = wardrobe.Garment("dress", "navy", "striped", "long", "round").attributes
    assert all("dress" in captions.description(garment, rng) for _ in range(20))


def test_splits_are_by_hash() -> None:
    ids = [str(i) for i in range(2000)]
    shares = {split: sum(products.split_of(i) == split for i in ids) / 2000 for split in ("train", "val", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.03)
    assert shares["val"] == pytest.approx(0.1, abs=0.03)
    assert not any(products.held_out(i) and products.split_of(i) != "train" for i in ids)


def test_products_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no styles\.csv"):
        products.read_styles(tmp_path)
    (tmp_path / "styles.csv").write_text("id,gender\n1,Men\n")
    with pytest.raises(DataError, match="no column articleType"):
        products.read_styles(tmp_path)
    with pytest.raises(DataError, match="neither images/ nor a zip"):
        products.image_source(tmp_path)
    with pytest.raises(DataError, match="no such folder or zip"):
        products.image_source(tmp_path, "images")
    (tmp_path / "images").mkdir()
    assert products.image_source(tmp_path) == tmp_path / "images"
