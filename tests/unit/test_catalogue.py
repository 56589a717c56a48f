"""Judged queries and captions from attributes; product photos."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path

import pytest

from cir.data import captions, products, wardrobe
from cir.data.image_source import image_source
from cir.data.items import Catalogue, Item
from cir.errors import DataError

KINDS = ("colour", "type")


def items(*rows: tuple[str, str, str]) -> list[Item]:
    return [Item(name, {"colour": colour, "type": kind}) for name, colour, kind in rows]


def test_targets_are_exactly_the_items_with_the_change_applied() -> None:
    catalogue = Catalogue(
        items(("a", "red", "shirt"), ("b", "blue", "shirt"), ("c", "blue", "shirt"), ("d", "blue", "shoe")), KINDS
    )
    query = catalogue.judged_query(catalogue.item("a"), ["colour"], random.Random(0), query_id="q")
    assert query is not None
    assert (query.id, query.reference, query.caption) == ("q", "a", "")
    assert query.targets == {"b", "c"}
    assert query.changes == (("colour", "red", "blue"),)
    both = catalogue.judged_query(catalogue.item("a"), ["type", "colour"], random.Random(0))
    assert both is not None
    assert both.kind == "colour+type"
    assert both.targets == {"d"}
    assert catalogue.judged_query(catalogue.item("a"), ["type"], random.Random(0)) is None


def test_what_is_fixed_never_changes() -> None:
    pair = [Item("a", {"colour": "red", "type": "x"}, "shoes"), Item("b", {"colour": "blue", "type": "x"}, "bags")]
    assert Catalogue(pair, KINDS).judged_queries(5, {("colour",): 1.0}, seed=0) == []
    assert Catalogue([], KINDS).judged_queries(5, {("colour",): 1.0}, seed=0) == []


def test_judged_queries_are_deterministic_and_right() -> None:
    garments = wardrobe.garments(300, seed=9)
    catalogue = Catalogue([Item(f"{i:03d}", garment.attributes) for i, garment in enumerate(garments)], wardrobe.KINDS)
    queries = catalogue.judged_queries(200, wardrobe.CHANGE_WEIGHTS, seed=4)
    assert queries == catalogue.judged_queries(200, wardrobe.CHANGE_WEIGHTS, seed=4)
    assert queries != catalogue.judged_queries(200, wardrobe.CHANGE_WEIGHTS, seed=5)
    assert [query.id for query in queries] == [f"{number:04d}" for number in range(200)]
    for query in queries:
        expected = dict(catalogue.item(query.reference).attributes)
        for kind, old, new in query.changes:
            assert expected[kind] == old
            assert old != new
            expected[kind] = new
        answers = {item.id for item in catalogue.items if dict(item.attributes) == expected}
        assert answers == query.targets
        assert query.reference not in answers


def slots(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_templates_can_be_filled_and_val_is_not_in_train() -> None:
    # The kinds of the benchmarks have phrasings of their own; training has further kinds.
    both = {kind for kinds in (products.KINDS, wardrobe.KINDS) for kind in kinds} | {"joined", "same"}
    assert captions.templates("val").keys() == both
    allowed = {"new", "old", "a_new", "a_old", "possessive"}
    for kind, train in captions.templates("train").items():
        val = captions.templates("val").get(kind, [])
        assert not set(train) & set(val), kind
        assert len(set(train)) == len(train)
        for template in [*train, *val]:
            if kind == "joined":
                assert slots(template) == {"a", "b"}
            else:
                assert slots(template) <= allowed
                # A plain change names the new value; "not colour" may name the old one, "same" neither.
                assert bool(slots(template) & {"new", "a_new", "possessive"}) == (" " not in kind and kind != "same")
        if kind != "joined" and kind not in both:
            assert any("old}" not in template for template in train), "a value may be unknown"


def test_captions_name_the_new_value() -> None:
    rng = random.Random(0)
    for phrasing in ("train", "val"):
        for _ in range(100):
            caption = captions.change_caption([("colour", "Red", "Navy Blue")], rng, phrasing=phrasing)
            assert any(word in caption for word in captions.synonyms("colour", "Navy Blue"))
        two = captions.change_caption(
            [("colour", "Red", "Green"), ("gender", "Men", "Women")], rng, phrasing=phrasing, varied=False
        )
        assert "green" in two
        assert "wom" in two


def test_judged_queries_get_captions_in_order() -> None:
    catalogue = Catalogue(items(("a", "Red", "Shirts"), ("b", "Blue", "Shirts")), KINDS)
    drawn = catalogue.judged_queries(10, {("colour",): 1.0}, seed=0)
    for phrasing in ("train", "val"):
        rng = random.Random(1)
        expected = [captions.change_caption(query.changes, rng, phrasing=phrasing) for query in drawn]
        captioned = captions.with_captions(drawn, random.Random(1), phrasing=phrasing)
        assert [query.caption for query in captioned] == expected
        assert [replace(query, caption="") for query in captioned] == drawn
    unphrased = [replace(drawn[0], changes=(("usage", "Casual", "Formal"),))]  # "val" has no templates for it
    (seen,), (unseen,) = (captions.with_captions(unphrased, random.Random(0), phrasing=p) for p in ("train", "val"))
    assert seen == unseen


def test_a_typo_changes_at_most_one_longer_word() -> None:
    rng = random.Random(0)
    assert captions.with_typo("in red", rng) == "in red"
    for _ in range(50):
        words = captions.with_typo("in bright colours", rng).split(" ")
        assert (words[0], len(words)) == ("in", 3)
        assert words[1] == "bright" or words[2] == "colours"


@pytest.mark.parametrize(
    ("value", "word"),
    [("Tshirts", "t-shirt"), ("Ties", "tie"), ("Jeans", "jeans"), ("Dresses", "dress"), ("Watches", "watch"),
     ("Kurtas", "kurta"), ("Accessories", "accessory"), ("Sports Shoes", "sports shoes")],
)  # fmt: skip
def test_type_names_become_words(value: str, word: str) -> None:
    assert captions.synonyms("type", value)[0] == word


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
        image_source(tmp_path)
    with pytest.raises(DataError, match="no such folder or zip"):
        image_source(tmp_path, "images")
    (tmp_path / "images").mkdir()
    assert image_source(tmp_path) == tmp_path / "images"
