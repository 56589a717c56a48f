"""Sampled triplets: what changes, what stays, and which other items answer as well."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cir.data import captions, wardrobe
from cir.training.triplet_sampling import AttributeTable, SampledTriplet

GARMENTS = wardrobe.garments(400, seed=5)


@pytest.fixture(scope="module")
def garments() -> AttributeTable:
    """A wardrobe as a table."""
    return AttributeTable("wardrobe", [garment.attributes for garment in GARMENTS], wardrobe.KINDS)


def sample(table: AttributeTable, kinds: tuple[str, ...], count: int) -> list[SampledTriplet]:
    rng, everything, triplets = random.Random(1), np.ones(len(table.items), bool), list[SampledTriplet]()
    for _ in range(3000):
        triplet = table.sample(rng.randrange(len(table.items)), kinds, everything, rng)
        triplets += [triplet] if triplet is not None else []
        if len(triplets) == count:
            return triplets
    raise AssertionError(f"{kinds} is hardly ever sampled")


@pytest.mark.parametrize("kinds", [("colour",), ("pattern",), ("sleeves",), ("colour", "pattern"), ("same",)])
def test_a_change_changes_what_it_names_and_keeps_the_rest(garments: AttributeTable, kinds: tuple[str, ...]) -> None:
    for triplet in sample(garments, kinds, 30):
        before, after = garments.items[triplet.reference], garments.items[triplet.target]
        changed = {kind for kind in wardrobe.KINDS if before[kind] != after[kind]}
        assert changed == set(kinds) - {"same"}
        answered = triplet.answered_by(np.arange(len(garments.items)))
        assert answered[triplet.target]
        query = triplet.query
        assert (query.reference, query.targets) == (str(triplet.reference), {str(triplet.target)})
        assert query.kind == "+".join(kinds)
        assert query.caption
        assert answered[triplet.reference] == (kinds == ("same",))
        for row in np.flatnonzero(answered).tolist():
            assert garments.items[row] == after


def test_a_negation_accepts_everything_else(garments: AttributeTable) -> None:
    for triplet in sample(garments, ("not colour",), 30):
        before = garments.items[triplet.reference]
        for row in np.flatnonzero(triplet.answered_by(np.arange(len(garments.items)))).tolist():
            assert garments.items[row]["colour"] != before["colour"]
            assert garments.items[row]["type"] == before["type"]


@pytest.mark.parametrize(("kind", "shade"), [("darker colour", "darker"), ("lighter colour", "lighter")])
def test_a_reference_does_not_have_the_shade_already(garments: AttributeTable, kind: str, shade: str) -> None:
    shades = captions.shades()[shade]
    for triplet in sample(garments, (kind,), 20):
        assert garments.items[triplet.reference]["colour"] not in shades
        assert garments.items[triplet.target]["colour"] in shades


def test_a_described_target_does_not_depend_on_the_reference(garments: AttributeTable) -> None:
    triplets = sample(garments, ("described",), 60)
    assert len({garments.items[triplet.target]["type"] for triplet in triplets}) > 4
    for triplet in triplets[:10]:
        for row in np.flatnonzero(triplet.answered_by(np.arange(len(garments.items)))).tolist():
            assert garments.items[row] == garments.items[triplet.target]


def test_an_unknown_value_is_never_called_wrong() -> None:
    looks = [("red", "striped"), ("red", ""), ("red", "plain"), ("blue", "")]
    known = [{"colour": colour, "pattern": pattern, "type": "dress", "gender": "Women"} for colour, pattern in looks]
    table = AttributeTable("some", known, ("colour",))
    (triplet, *_) = sample(table, ("pattern",), 1)
    pattern = table.items[triplet.target]["pattern"]
    answered = triplet.answered_by(np.arange(4))
    assert pattern in ("striped", "plain")
    assert answered[1]
    assert answered[triplet.target]
    assert not answered[{"striped": 2, "plain": 0}[pattern]]
