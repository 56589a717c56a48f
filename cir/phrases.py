"""What people say: the bank of caption phrasings, as data in `phrases.json`.

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


@cache
def bank() -> dict[str, Any]:
    """The parsed bank."""
    text = files("cir").joinpath("phrases.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def words(kind: str, value: str) -> list[str]:
    """Words for an attribute value, the plainest first: the bank's, or the value itself in lower case and singular."""
    listed: list[str] | None = bank()["words"].get(kind, {}).get(value)
    return listed or [_singular(value.lower()) if kind == "type" else value.lower()]


def change_caption(
    changes: Sequence[tuple[str, str, str]], rng: random.Random, *, phrasing: str, varied: bool = True
) -> str:
    """A relative caption for one or two changes.

    Args:
        changes: (kind, old value, new value) each.
        rng: source of the choices.
        phrasing: "train" or "val".
        varied: use synonyms of the values; otherwise the plainest word.
    """
    clauses = []
    for kind, old, new in changes:
        template = rng.choice(bank()[phrasing][kind])
        clauses.append(_fill(template, kind, old, new, rng, varied))
    if len(clauses) == 1:
        return clauses[0]
    rng.shuffle(clauses)
    joined: str = rng.choice(bank()[phrasing]["joined"]).format(a=clauses[0], b=clauses[1])
    return joined


def description(attributes: Mapping[str, str], rng: random.Random) -> str:
    """A caption that describes an item outright, "men's navy blue t-shirt": teaches queries without a reference."""
    chosen = {kind: rng.choice(words(kind, value)) for kind, value in attributes.items() if value and value != "none"}
    if "gender" in attributes:
        template = rng.choice(bank()["descriptions"]["train"])
        possessive = rng.choice(words("possessive", attributes["gender"]))
        return str(
            template.format(
                **chosen, a_type=_article(chosen["type"]), a_colour=_article(chosen["colour"]), possessive=possessive
            )
        )
    parts = [chosen["colour"], chosen["pattern"], chosen["type"]]
    with_parts = [chosen[kind] for kind in ("sleeves", "neckline") if kind in chosen]
    rng.shuffle(with_parts)
    kept = with_parts[: rng.randint(0, len(with_parts))]
    return " ".join(parts) + (f" with {' and '.join(kept)}" if kept else "")


def _fill(template: str, kind: str, old: str, new: str, rng: random.Random, varied: bool) -> str:
    def word(of: str, value: str) -> str:
        choices = words(of, value)
        return rng.choice(choices) if varied else choices[0]

    before, after = word(kind, old), word(kind, new)
    possessive = word("possessive", new) if kind == "gender" else after
    return template.format(new=after, old=before, a_new=_article(after), a_old=_article(before), possessive=possessive)


def _article(noun: str) -> str:
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
