"""The words of mining: what captions mention (`recipe.toml`), read into concepts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
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
    entries = [
        (name, kind, group, entry)
        for kind in KINDS
        for group, named in content[kind].items()
        for name, entry in named.items()
    ]
    entries += [(name, "colour", "colour", entry) for name, entry in content["colours"].items()]
    concepts = _symmetric(_concept(*entry) for entry in entries)
    phrases: dict[tuple[str, ...], tuple[tuple[Concept, bool], ...]] = {}
    for concept in concepts.values():
        for forms, plural in ((concept.words, False), (concept.plurals, True)):
            for form in dict.fromkeys(forms):
                key = tuple(form.split())
                phrases[key] = (*phrases.get(key, ()), (concept, plural))
    for phrase in _words(content["ignored"]):
        phrases[tuple(phrase.split())] = ()
    counts = {tuple(word.split()): int(number) for number, words in content["counts"].items() for word in _words(words)}
    return Recipe(
        concepts=concepts,
        phrases=phrases,
        counts=counts,
        between=frozenset(content["between"].split()),
        said_counts={int(number): tuple(said) for number, said in content["said_counts"].items()},
        longest=max(map(len, phrases)),
        who_groups=tuple(f"who.{group}" for group in content["who"]),
    )


def _concept(name: str, kind: str, group: str, entry: Mapping[str, Any]) -> Concept:
    words, plurals = _words(entry["words"]), _words(entry.get("plural", ""))
    return Concept(
        name=_spaced(name),
        kind=kind,
        group=group,
        words=words,
        plurals=plurals,
        say=tuple(entry.get("say") or words[:1] or plurals[:1]),
        like=frozenset(map(_spaced, entry.get("like", ()))),
        vague=entry.get("vague", False),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(map(_spaced, text.split()))


def _spaced(word: str) -> str:
    return word.replace("_", " ")


def _symmetric(concepts: Iterable[Concept]) -> dict[tuple[str, str], Concept]:
    """(kind, name) -> concept, with `like` in both directions."""
    like: dict[tuple[str, str], set[str]] = {}
    by_name = {(concept.kind, concept.name): concept for concept in concepts}
    for (kind, name), concept in by_name.items():
        for other in concept.like:
            like.setdefault((kind, name), set()).add(other)
            like.setdefault((kind, other), set()).add(name)
    return {key: replace(concept, like=frozenset(like.get(key, ()))) for key, concept in by_name.items()}
