"""Mining: what captions say, which photos make a question, and how its change is said."""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir.data.captioned import Captions, read_captions, select
from cir.data.jsonl import parse_query
from cir.data.mining import KINDS, LOOSE, STRICT, MinedChange, change_text, mine, to_lines, to_queries
from cir.data.mining.changes import OFTEN
from cir.data.mining.facts import caption_facts
from cir.data.mining.recipe import recipe
from cir.data.mining.table import fact_table
from cir.data.mining.wording import article
from cir.errors import DataError
from cir.testing.captioned import made_up

CHANGE = MinedChange("a", ("b",), "place", "beach", "snow", "", "dog", False, ("x", "y"), ("c",), 0.9)


@pytest.fixture(scope="module")
def captions() -> Captions:
    return made_up(400)


@pytest.fixture(scope="module")
def changes(captions: Captions) -> list[MinedChange]:
    return mine(captions)


def said(caption: str) -> set[str]:
    return {f"{slot}={value}" for slot, value in caption_facts(caption, recipe())}


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        (
            "Two brown dogs run through the snow .",
            {"who.animals=dog", "count dog=2", "all who.animals=2", "colour dog=brown", "action.doing=running"}
            | {"place.where=snow"},
        ),
        (
            "A black dog chases another dog",
            {"who.animals=dog", "count dog=2", "all who.animals=2", "colour dog=black", "action.doing=chasing"},
        ),
        (
            "a man in a red shirt and a woman",
            {"who.people=man", "who.people=woman", "count man=1", "count woman=1", "all who.people=2"}
            | {"thing.clothes=shirt", "colour shirt=red"},
        ),
        ("A blonde girl smiles at the camera .", {"who.people=girl", "action.doing=smiling"}),
        ("A group of children", {"who.people=child", "count child=5", "all who.people=5"}),
        (
            "A black and white dog",
            {"who.animals=dog", "count dog=1", "all who.animals=1", "colour dog=black and white"},
        ),
        ("The dog toy", {"thing.carried=toy"}),
        ("Children play", {"who.people=child", "action.doing=playing"}),
        ("", set()),
    ],
)
def test_what_a_caption_says(caption: str, facts: set[str]) -> None:
    assert said(caption) - {"count girl=1", "all who.people=1"} == facts


def test_the_recipe_is_sound() -> None:
    words = recipe()
    names = {(kind, name) for kind, name in words.concepts}
    for concept in words.concepts.values():
        assert concept.words or concept.plurals, concept.name
        assert concept.say, concept.name
        assert all((concept.kind, other) in names for other in concept.like), concept.name
        assert concept.name not in concept.like
    assert set(words.said_counts) == set(words.counts.values())


def test_a_question_is_about_one_change(captions: Captions, changes: list[MinedChange]) -> None:
    assert {change.kind for change in changes} >= {"place", "action", "count", "colour", "with", "without", "thing"}
    table = fact_table(captions, recipe())
    row = {photo: i for i, photo in enumerate(table.photos)}
    for change in changes:
        assert change.kind in KINDS
        assert change.reference not in change.targets
        assert len(set(change.targets)) == len(change.targets) > 0
        assert not {change.reference, *change.targets} & set(change.negatives)
        assert change.captions[0] in captions[change.reference]
        assert change.captions[1] in captions[change.targets[0]]
        before, after = (
            {fact.value for fact, of in zip(table.facts, table.sure[row[photo]], strict=True) if of}
            for photo in (change.reference, change.targets[0])
        )
        assert not change.old or change.old in before
        assert not change.new or change.new in after


def test_the_change_alone_does_not_tell_the_targets(captions: Captions, changes: list[MinedChange]) -> None:
    for change in changes:
        assert len(change.negatives) >= STRICT.negatives
        assert len(change.targets) <= STRICT.most_targets
    assert max(Counter(change.reference for change in changes).values()) <= STRICT.per_reference
    assert max(Counter(change.targets[0] for change in changes).values()) <= STRICT.per_target
    assert max(Counter((change.kind, change.old, change.new) for change in changes).values()) <= STRICT.per_change


def test_the_same_captions_give_the_same_questions(captions: Captions, changes: list[MinedChange]) -> None:
    assert mine(captions) == changes
    assert mine(captions, seed=1) != changes


def test_what_is_left_out_is_counted(captions: Captions, changes: list[MinedChange]) -> None:
    left_out: Counter[str] = Counter()
    assert mine(captions, left_out=left_out) == changes
    assert left_out[OFTEN] > 0


def test_a_limit_is_drawn_evenly(captions: Captions, changes: list[MinedChange]) -> None:
    few = mine(captions, limit=14)
    assert len(few) == 14
    assert max(Counter(change.kind for change in few).values()) <= 3
    assert set(few) <= set(changes)


def test_loose_gives_more(captions: Captions, changes: list[MinedChange]) -> None:
    assert len(mine(captions, strictness=LOOSE)) > 2 * len(changes)


def test_pictures_that_are_nearly_the_same_make_no_question(captions: Captions) -> None:
    vectors = {photo: np.array([1, 0, 0], np.float32) for photo in captions}
    assert mine(captions, vectors=vectors) == []
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(len(captions), 8))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    some = mine(captions, vectors=dict(zip(captions, drawn, strict=True)))
    assert some
    place = {photo: i for i, photo in enumerate(captions)}
    assert all(drawn[place[c.reference]] @ drawn[place[c.targets[0]]] < 0.94 for c in some)


SENTENCES = st.lists(
    st.sampled_from(sorted({text for texts in made_up(60).values() for text in texts})), min_size=1, max_size=5
)


@settings(max_examples=30, deadline=None)
@given(st.lists(SENTENCES, min_size=1, max_size=30))
def test_any_captions_can_be_mined(texts: list[list[str]]) -> None:
    photos = {f"{i}.jpg": tuple(of) for i, of in enumerate(texts)}
    for change in mine(photos, strictness=LOOSE):
        assert change.reference not in change.targets
        assert {change.reference, *change.targets, *change.negatives} <= set(photos)
        assert change_text(change, random.Random(0), phrasing="train")


def test_no_captions_give_no_questions() -> None:
    assert mine({}) == []
    assert mine({"a.jpg": ("nothing that is known",), "b.jpg": ("",)}, strictness=LOOSE) == []


@pytest.mark.parametrize("phrasing", ["train", "val"])
def test_every_change_is_said_in_many_ways(changes: list[MinedChange], phrasing: str) -> None:
    texts: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for change in changes:
        for seed in range(20):
            text = change_text(change, random.Random(seed), phrasing=phrasing)
            assert text.strip() == text
            assert not set(text) & set("{}_")
            assert "  " not in text
            texts[change.kind].add(text)
    assert all(len(said) >= 8 for kind, said in texts.items() if said), {kind: len(of) for kind, of in texts.items()}


def test_the_phrasings_share_no_template() -> None:
    from cir.data.mining.wording import _templates

    train, val = _templates()["train"], _templates()["val"]
    assert set(train) == set(val)
    for kind, templates in train.items():
        assert not set(templates) & set(val[kind])
        for template in (*templates, *val[kind]):
            string.Formatter().parse(template)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({}, {"in the snow instead", "show the dog in the snow", "in the snow"}),
        ({"kind": "count", "old": "1", "new": "2", "of": "dog"}, {"two dogs", "two dogs, not one dog"}),
        ({"kind": "colour", "old": "white", "new": "orange", "of": "dog"}, {"an orange dog", "make the dog orange"}),
        (
            {"kind": "thing", "old": "hat", "new": "sunglasses", "subject": "girl"},
            {"wearing sunglasses", "put sunglasses on her"},
        ),
        ({"kind": "without", "old": "man", "new": ""}, {"without the man", "no man", "just the dog, no man"}),
        ({"kind": "with", "old": "", "new": "umbrella"}, {"with an umbrella", "the dog and an umbrella"}),
        (
            {"kind": "who", "old": "man", "new": "woman", "subject": "woman", "several": True},
            {"women", "replace the men with women"},
        ),
        (
            {"kind": "action", "old": "sitting", "new": "running", "several": True},
            {"the dogs should be running", "show them running"},
        ),
    ],
)
def test_what_is_said_is_grammatical(values: dict[str, str], texts: set[str]) -> None:
    change = replace(CHANGE, **values)  # type: ignore[arg-type]
    assert texts <= {change_text(change, random.Random(seed), phrasing="train") for seed in range(400)}


def test_articles() -> None:
    assert [article(noun) for noun in ("umbrella", "unicycle", "orange ball", "dog")] == [
        "an umbrella",
        "a unicycle",
        "an orange ball",
        "a dog",
    ]


def test_questions_as_judged_queries_and_lines(changes: list[MinedChange]) -> None:
    queries = to_queries(changes)
    assert len({query.id for query in queries}) == len(changes)
    lines = list(to_lines(changes))
    for change, query, line in zip(changes, queries, lines, strict=True):
        assert query.changes == ((change.kind, change.old, change.new),)
        assert query.first_target == change.targets[0]
        read = parse_query(line, "here")
        assert (read.id, read.reference, read.caption) == (query.id, query.reference, query.caption)
        assert (read.targets, read.groups) == (query.targets, (change.kind,))
        assert json.loads(line)["negatives"] == list(change.negatives)


def test_photos_are_chosen_by_a_list(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,A dog .\nb.jpg,A cat .\n")
    (tmp_path / "some.txt").write_text("b.jpg\n")
    known = read_captions(tmp_path / "captions.csv")
    assert select(known, tmp_path / "some.txt", "captions.csv") == {"b.jpg": ("A cat .",)}
    (tmp_path / "some.txt").write_text("c.jpg\n")
    with pytest.raises(DataError, match=r"some\.txt:1: 'c\.jpg' has no captions in captions\.csv"):
        select(known, tmp_path / "some.txt", "captions.csv")
