"""What people say: the bank of caption phrasings, as data in `captions.json`.

The bank is shared by training and by the benchmarks `products` and `wardrobe`. Phrasings under "val" are never used in
training. A template is a clause with slots: {new} and {old} are words for the values before and after, {a_new} and
{a_old} the same with an article where one belongs, {possessive} a form such as "men's".
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

# Share of training captions with a slip of the fingers.
SLIPS = 0.35


@cache
def bank() -> dict[str, Any]:
    """The parsed bank."""
    text = files("cir.data").joinpath("captions.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def words(kind: str, value: str) -> list[str]:
    """Words for an attribute value, the plainest first: the bank's, or the value itself in lower case and singular."""
    listed: list[str] | None = bank()["words"].get(kind, {}).get(value)
    return listed or [_singular(value.lower()) if kind == "type" else value.lower()]


def spoken(kind: str, value: str, rng: random.Random) -> str:
    """A word for an attribute value as people choose it: the plainest half of the time."""
    choices = words(kind, value)
    return choices[0] if rng.random() < 0.5 else rng.choice(choices)


def change_caption(
    changes: Sequence[tuple[str, str, str]], rng: random.Random, *, phrasing: str, varied: bool = True
) -> str:
    """A relative caption for one or more changes.

    Args:
        changes: (kind, old value, new value) each; an unknown value is "". The kind is a name in the bank: an
            attribute ("colour"), or what is asked of one ("not colour", "darker colour").
        rng: source of the choices.
        phrasing: "train" or "val".
        varied: use synonyms of the values; otherwise the plainest word.
    """
    clauses = []
    for kind, old, new in changes:
        templates = bank()[phrasing][kind]
        template = rng.choice(templates if old else [one for one in templates if "old}" not in one])
        clauses.append(_fill(template, kind.split()[-1], old, new, rng, varied))
    if len(clauses) > 1:
        rng.shuffle(clauses)
    caption = clauses[0]
    for clause in clauses[1:]:
        caption = rng.choice(bank()[phrasing]["joined"]).format(a=caption, b=clause)
    return caption


def description(attributes: Mapping[str, str], rng: random.Random) -> str:
    """A caption that describes an item outright, "men's navy blue t-shirt": teaches queries without a reference.

    Args:
        attributes: kind -> value; "" and "none" are left out. With a gender it is described as a product, else as a
            rendered garment.
        rng: source of the choices.
    """
    chosen = {kind: spoken(kind, value, rng) for kind, value in attributes.items() if value and value != "none"}
    if "gender" in attributes:
        for kind in ("material", "pattern"):
            if kind in chosen and rng.random() < 0.5:
                chosen["type"] = f"{words(kind, attributes[kind])[0]} {chosen['type']}"
        template = rng.choice(bank()["descriptions"]["train"])
        possessive = spoken("possessive", attributes["gender"], rng)
        told = str(
            template.format(
                **chosen, a_type=_article(chosen["type"]), a_colour=_article(chosen["colour"]), possessive=possessive
            )
        )
        return f"{told} {chosen['usage']}" if "usage" in chosen and rng.random() < 0.2 else told
    parts = [chosen["colour"], chosen["pattern"], chosen["type"]]
    with_parts = [chosen[kind] for kind in ("sleeves", "neckline") if kind in chosen]
    rng.shuffle(with_parts)
    kept = with_parts[: rng.randint(0, len(with_parts))]
    return " ".join(parts) + (f" with {' and '.join(kept)}" if kept else "")


def as_typed(caption: str, rng: random.Random) -> str:
    """The caption as somebody might type it: politely, as a telegram, with a slip; most often as it is."""
    if rng.random() < 0.2:
        caption = rng.choice(bank()["wrapped"]["train"]).format(caption=caption)
    if rng.random() < 0.1:
        caption = " ".join(word for word in caption.split() if word not in ("a", "an", "the", "is", "it"))
    return misspelt(caption, rng) if rng.random() < SLIPS else caption


def misspelt(caption: str, rng: random.Random) -> str:
    """The caption with one slip of the fingers in one of its longer words."""
    parts = caption.split(" ")
    places = [place for place, part in enumerate(parts) if len(part) > 3 and part.isalpha()]
    if not places:
        return caption
    place = rng.choice(places)
    word = parts[place]
    # The first letter is seldom the wrong one.
    i = rng.randrange(1, len(word) - 1)
    parts[place] = rng.choice(
        [
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + rng.choice("aeioustrnl") + word[i + 1 :],
        ]
    )
    return " ".join(parts)


def named(kind: str, name: str) -> str:
    """The value of an attribute that a product's name tells ("Striped Polo": pattern "striped"), or ""."""
    plain = f" {' '.join(name.lower().replace(',', ' ').split())} "
    for value, told in bank()["named"].get(kind, {}).items():
        if any(f" {word} " in plain for word in told):
            return str(value)
    return ""


def _fill(template: str, kind: str, old: str, new: str, rng: random.Random, varied: bool) -> str:
    def word(of: str, value: str) -> str:
        return spoken(of, value, rng) if varied else words(of, value)[0]

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
