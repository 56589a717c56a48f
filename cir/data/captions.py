"""Captions for queries and items that are known by their attributes: the templates and words of `captions.json`.

Training, the benchmarks `products` and `wardrobe`, and judged questions from metadata share them. Templates of the
phrasing "val" are never used in training. A template is a clause with slots: {new} and {old} are words for the values
before and after, {a_new} and {a_old} the same with an article if the word takes one, {possessive} a form such as
"men's".
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from cir.data.judged_query import AttributeChange, JudgedQuery

TYPO_RATE = 0.35  # share of training captions with a typo


@cache
def _content() -> dict[str, Any]:
    text = files("cir.data").joinpath("captions.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def templates(phrasing: str) -> Mapping[str, Sequence[str]]:
    """Kind of change -> its templates; also "joined", which joins two clauses, and "same", which changes nothing.

    Args:
        phrasing: "train" or "val".
    """
    by_kind: dict[str, list[str]] = _content()[phrasing]
    return by_kind


def shades() -> Mapping[str, Sequence[str]]:
    """ "darker", "lighter", "brighter" and "calmer" -> the colours that are."""
    by_shade: dict[str, list[str]] = _content()["shades"]
    return by_shade


def synonyms(kind: str, value: str) -> list[str]:
    """Words for an attribute value, the plainest first; for an unlisted value itself, lower case and singular."""
    listed: list[str] | None = _content()["words"].get(kind, {}).get(value)
    return listed or [_singular(value.lower()) if kind == "type" else value.lower()]


def draw_synonym(kind: str, value: str, rng: random.Random) -> str:
    """A word for an attribute value as people choose it: the plainest half of the time."""
    words = synonyms(kind, value)
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def change_caption(
    changes: Sequence[AttributeChange], rng: random.Random, *, phrasing: str, varied: bool = True
) -> str:
    """A relative caption for one or more changes.

    Args:
        changes: (kind, old value, new value); an unknown value is "". The kind has templates: an attribute ("colour"),
            or a condition on an attribute ("not colour", "darker colour").
        rng: source of the choices.
        phrasing: "train" or "val".
        varied: use synonyms of the values; otherwise the plainest word.
    """
    clauses = []
    for kind, old, new in changes:
        choices = templates(phrasing)[kind]
        template = rng.choice(choices if old else [choice for choice in choices if "old}" not in choice])
        clauses.append(_fill(template, kind.split()[-1], old, new, rng, varied))
    if len(clauses) > 1:
        rng.shuffle(clauses)
    caption = clauses[0]
    for clause in clauses[1:]:
        caption = rng.choice(templates(phrasing)["joined"]).format(a=caption, b=clause)
    return caption


def with_captions(queries: Iterable[JudgedQuery], rng: random.Random, *, phrasing: str) -> list[JudgedQuery]:
    """Judged queries with captions that state their changes, drawn in order.

    Args:
        queries: with `changes`.
        rng: source of the choices.
        phrasing: "train" or "val"; a query with a kind of change that has no "val" templates gets "train" ones.
    """
    captioned = []
    for query in queries:
        known = all(kind in templates(phrasing) for kind, _, _ in query.changes)
        caption = change_caption(query.changes, rng, phrasing=phrasing if known else "train")
        captioned.append(replace(query, caption=caption))
    return captioned


def description(attributes: Mapping[str, str], rng: random.Random) -> str:
    """A caption that describes an item outright, "men's navy blue t-shirt": teaches queries without a reference.

    Args:
        attributes: kind -> value; "" and "none" are left out. With a gender the item is described as a product, else
            as a rendered garment.
        rng: source of the choices.
    """
    words = {kind: draw_synonym(kind, value, rng) for kind, value in attributes.items() if value and value != "none"}
    if "gender" in attributes:
        return _product_description(attributes, words, rng)
    details = [words[kind] for kind in ("sleeves", "neckline") if kind in words]
    rng.shuffle(details)
    named = details[: rng.randint(0, len(details))]
    plain = " ".join([words["colour"], words["pattern"], words["type"]])
    return plain + (f" with {' and '.join(named)}" if named else "")


def _product_description(attributes: Mapping[str, str], words: dict[str, str], rng: random.Random) -> str:
    for kind in ("material", "pattern"):
        if kind in words and rng.random() < 0.5:
            words["type"] = f"{synonyms(kind, attributes[kind])[0]} {words['type']}"
    template: str = rng.choice(_content()["descriptions"]["train"])
    possessive = draw_synonym("possessive", attributes["gender"], rng)
    articles = {"a_type": _article(words["type"]), "a_colour": _article(words["colour"])}
    text = template.format(**words, **articles, possessive=possessive)
    return f"{text} {words['usage']}" if "usage" in words and rng.random() < 0.2 else text


def augment(caption: str, rng: random.Random) -> str:
    """The caption as somebody might type it: politely, as a telegram, with a typo; most often unchanged."""
    if rng.random() < 0.2:
        caption = rng.choice(_content()["wrapped"]["train"]).format(caption=caption)
    if rng.random() < 0.1:
        caption = " ".join(word for word in caption.split() if word not in ("a", "an", "the", "is", "it"))
    return with_typo(caption, rng) if rng.random() < TYPO_RATE else caption


def with_typo(caption: str, rng: random.Random) -> str:
    """The caption with one typo in one of its longer words."""
    words = caption.split(" ")
    places = [place for place, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not places:
        return caption
    place = rng.choice(places)
    word = words[place]
    # The first letter is seldom the wrong one.
    i = rng.randrange(1, len(word) - 1)
    words[place] = rng.choice(
        [
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + rng.choice("aeioustrnl") + word[i + 1 :],
        ]
    )
    return " ".join(words)


def value_in_name(kind: str, name: str) -> str:
    """The value of an attribute that a product's name contains ("Striped Polo": pattern "striped"), or ""."""
    plain = f" {' '.join(name.lower().replace(',', ' ').split())} "
    for value, words in _content()["named"].get(kind, {}).items():
        if any(f" {word} " in plain for word in words):
            return str(value)
    return ""


def _fill(template: str, kind: str, old: str, new: str, rng: random.Random, varied: bool) -> str:
    def word(of: str, value: str) -> str:
        return draw_synonym(of, value, rng) if varied else synonyms(of, value)[0]

    before, after = word(kind, old) if old else "", word(kind, new) if new else ""
    possessive = word("possessive", new) if kind == "gender" else after
    return template.format(new=after, old=before, a_new=_article(after), a_old=_article(before), possessive=possessive)


def _article(noun: str) -> str:
    if not noun:
        return ""
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _singular(name: str) -> str:
    for suffix in ("shoes", "pants", "jeans", "shorts", "leggings", "glasses", "socks", "capris", "jeggings", "gloves"):
        if name.endswith(suffix):
            return name
    if name.endswith("ies"):
        return name[:-1] if name in ("ties", "booties") else name[:-3] + "y"
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name
