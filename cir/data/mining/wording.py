"""How a mined change is said: the templates of `phrasings.toml`, filled."""

from __future__ import annotations

import json
import random
import string
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files

from cir.data.judged_query import JudgedQuery
from cir.data.mining.changes import MinedChange
from cir.data.mining.recipe import Concept, recipe

PLAINEST = 0.5  # share of captions with the plainest word
WORN = ("thing.headwear", "thing.clothes")
_HER, _HIM = ("woman", "girl"), ("man", "boy")
_PEOPLE = "who.people"


@cache
def _templates() -> Mapping[str, Mapping[str, Sequence[str]]]:
    return tomllib.loads(files("cir.data.mining").joinpath("phrasings.toml").read_text(encoding="utf-8"))


def change_text(change: MinedChange, rng: random.Random, *, phrasing: str) -> str:
    """A relative caption that states a change, grammatical for its kind.

    Args:
        change: what changes.
        rng: source of the choices.
        phrasing: "train" or "val".
    """
    slots = _slots(change, rng)
    kind = change.kind
    if kind == "thing" and _concept(kind, change.new).slot in WORN:
        kind = "worn"
    fitting = [
        template for template in _templates()[phrasing][kind] if all(slots.get(name) for name in _names(template))
    ]
    return rng.choice(fitting).format(**slots)


def to_queries(changes: Iterable[MinedChange], *, phrasing: str = "val", seed: int = 0) -> list[JudgedQuery]:
    """Judged queries of changes, each with one caption, reported by kind of change as well."""
    rng = random.Random(seed)
    return [
        JudgedQuery(
            id=f"m{number:05d}",
            reference=change.reference,
            caption=change_text(change, rng, phrasing=phrasing),
            targets=frozenset(change.targets),
            changes=((change.kind, change.old, change.new),),
            groups=(change.kind,),
            first_target=change.targets[0],
        )
        for number, change in enumerate(changes)
    ]


def to_lines(changes: Sequence[MinedChange], *, phrasing: str = "val", seed: int = 0) -> Iterator[str]:
    """The judged queries of changes as lines of JSON, as `cir.data.jsonl` reads them."""
    for change, query in zip(changes, to_queries(changes, phrasing=phrasing, seed=seed), strict=True):
        line = {
            "id": query.id,
            "reference": query.reference,
            "caption": query.caption,
            "targets": list(change.targets),
            "kind": change.kind,
            "negatives": list(change.negatives),
        }
        yield json.dumps(line, ensure_ascii=False)


@cache
def _names(template: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name)


def _slots(change: MinedChange, rng: random.Random) -> dict[str, str]:
    """Slot -> its words, "" if it has none."""
    slots: dict[str, str] = {}
    kind = change.kind
    several = change.several and kind == "who"
    if kind == "count":
        for slot, number in (("number", change.new), ("old_number", change.old)):
            of = _concept("who", change.of)
            said = _draw(recipe().said_counts[int(number)], rng)
            slots[slot] = said.format(one=of.say[0], many=_plural(of))
    elif kind in ("place", "action"):
        slots |= {"new": _draw(_concept(kind, change.new).say, rng), "old": _concept(kind, change.old).say[0]}
    elif kind == "colour":
        slots |= _colours(change, rng)
    else:
        for slot, name in (("new", change.new), ("old", change.old)):
            if name:
                concept = _named(kind, name)
                said = _draw(concept.say, rng)
                many = several or said in concept.plurals
                noun = (_plural(concept) if said == concept.say[0] else _s(said)) if several else said
                slots |= {slot: noun, f"a_{slot}": noun if many else article(noun), f"the_{slot}": f"the {noun}"}
    if change.subject and kind != "who":
        concept = _concept("who", change.subject)
        subject = _plural(concept) if change.several else concept.say[0]
        one = "her" if concept.name in _HER else "him" if concept.name in _HIM else "them"
        slots |= {
            "subject": subject,
            "the_subject": f"the {subject}",
            "it": "them" if change.several else one if concept.slot == _PEOPLE else "it",
            "is": "are" if change.several else "is",
            "wears": "wear" if change.several else "wears",
        }
    return slots


def _colours(change: MinedChange, rng: random.Random) -> dict[str, str]:
    concept = _concept("thing", change.of) or _concept("who", change.of)
    several = change.several and change.of == change.subject
    noun = _plural(concept) if several else concept.say[0]
    many = several or noun in concept.plurals
    slots = {"of": noun, "the_of": f"the {noun}", "is_of": "are" if many else "is"}
    for slot, value in (("new", change.new), ("old", change.old)):
        said = _draw(_concept("colour", value).say, rng)
        slots |= {
            slot: said,
            f"a_{slot}_of": f"{said} {noun}" if many else article(f"{said} {noun}"),
            f"the_{slot}_of": f"the {said} {noun}",
        }
    return slots


def article(noun: str) -> str:
    """A noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeio' or noun.startswith('um') else 'a'} {noun}"


def _draw(words: Sequence[str], rng: random.Random) -> str:
    return words[0] if rng.random() < PLAINEST else rng.choice(words)


def _named(kind: str, name: str) -> Concept:
    if kind == "who":
        return _concept("who", name)
    return recipe().concepts.get(("thing", name)) or _concept("who", name)


def _concept(kind: str, name: str) -> Concept:
    return recipe().concepts.get((kind, name))  # type: ignore[return-value]


def _plural(concept: Concept) -> str:
    return concept.plurals[0] if concept.plurals else _s(concept.say[0])


def _s(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeou":
        return f"{noun[:-1]}ies"
    return noun if noun.endswith("s") else f"{noun}s"
