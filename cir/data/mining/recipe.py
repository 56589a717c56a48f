"""The words of mining: what captions mention (`recipe.toml`), read into concepts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

KINDS = ("who", "place", "action", "thing")


@dataclass(frozen=True)
class Concept:
    """Something that captions mention.

    Attributes:
        name: unique within its kind.
        kind: "who", "place", "action", "thing" or "colour".
        group: what can stand in its stead, within its kind.
        words: singular forms.
        plurals: plural forms.
        say: how a question names it, the plainest first.
        like: names of concepts that the same photo may just as well be called.
        vague: never what changes.
    """

    name: str
    kind: str
    group: str
    words: tuple[str, ...]
    plurals: tuple[str, ...]
    say: tuple[str, ...]
    like: frozenset[str]
    vague: bool

    @property
    def slot(self) -> str:
        """Kind and group."""
        return f"{self.kind}.{self.group}"


@dataclass(frozen=True)
class Recipe:
    """What captions mention.

    Attributes:
        concepts: (kind, name) -> concept.
        phrases: tuple of words -> (concept, whether it is the plural), several if they mean several things.
        counts: word or words -> number, 5 for more than four.
        between: words that may stand between a count or colour and its noun.
        said_counts: number -> how a question says it.
        longest: number of words of the longest phrase.
        who_groups: slots of people and animals.
    """

    concepts: Mapping[tuple[str, str], Concept]
    phrases: Mapping[tuple[str, ...], tuple[tuple[Concept, bool], ...]]
    counts: Mapping[tuple[str, ...], int]
    between: frozenset[str]
    said_counts: Mapping[int, tuple[str, ...]]
    longest: int
    who_groups: tuple[str, ...]


@cache
def recipe() -> Recipe:
    """The words in `recipe.toml`."""
    content = tomllib.loads(files("cir.data.mining").joinpath("recipe.toml").read_text(encoding="utf-8"))
    concepts = {}
    for kind in KINDS:
        for group, entries in content[kind].items():
            for name, entry in entries.items():
                concepts[kind, name] = _concept(name, kind, group, entry)
    for name, entry in content["colours"].items():
        concepts["colour", name] = _concept(name, "colour", "colour", entry)
    phrases: dict[tuple[str, ...], tuple[tuple[Concept, bool], ...]] = {}
    for concept in _symmetric(concepts).values():
        for forms, plural in ((concept.words, False), (concept.plurals, True)):
            for form in dict.fromkeys(forms):
                key = tuple(form.split())
                phrases[key] = (*phrases.get(key, ()), (concept, plural))
    counts = {
        tuple(word.replace("_", " ").split()): int(number)
        for number, words in content["counts"].items()
        for word in words.split()
    }
    for phrase in content["ignored"].split():
        phrases[tuple(phrase.split("_"))] = ()
    return Recipe(
        concepts=_symmetric(concepts),
        phrases=phrases,
        counts=counts,
        between=frozenset(content["between"].split()),
        said_counts={int(number): tuple(said) for number, said in content["said_counts"].items()},
        longest=max(map(len, phrases)),
        who_groups=tuple(f"who.{group}" for group in content["who"]),
    )


def _concept(name: str, kind: str, group: str, entry: Mapping[str, Any]) -> Concept:
    words = tuple(word.replace("_", " ") for word in entry["words"].split())
    plurals = tuple(word.replace("_", " ") for word in entry.get("plural", "").split())
    say = tuple(entry.get("say") or words[:1] or plurals[:1])
    return Concept(
        name.replace("_", " "),
        kind,
        group,
        words,
        plurals,
        say,
        frozenset(entry.get("like", ())),
        entry.get("vague", False),
    )


def _symmetric(concepts: Mapping[tuple[str, str], Concept]) -> dict[tuple[str, str], Concept]:
    """The concepts with `like` in both directions."""
    like: dict[tuple[str, str], set[str]] = {}
    by_name = {(c.kind, c.name): c for c in concepts.values()}
    for (kind, name), concept in by_name.items():
        for other in concept.like:
            other = other.replace("_", " ")
            like.setdefault((kind, name), set()).add(other)
            like.setdefault((kind, other), set()).add(name)
    return {key: replace(c, like=frozenset(like.get(key, ()))) for key, c in by_name.items()}
