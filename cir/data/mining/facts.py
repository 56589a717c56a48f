"""What the captions of a photo say, as facts: who, how many, which colour, where, doing what, with which things."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cir.data.mining.recipe import Concept, Recipe

MANY = 5  # count of "several", "a group of"
PEOPLE = "who.people"
_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_REACH = 5  # words between a count or a colour and its noun


class Fact(NamedTuple):
    """A thing that a caption says.

    Attributes:
        slot: what it is about: "who.people", "place.where", "colour dog", "count dog".
        value: name of a concept, or a number.
    """

    slot: str
    value: str


@dataclass(frozen=True)
class Mention:
    """A concept in a caption: the words from `start` to `end`."""

    concept: Concept
    plural: bool
    start: int
    end: int


def words_of(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    return _WORD.findall(caption.lower())


def mentions(words: Sequence[str], recipe: Recipe) -> Iterator[Mention]:
    """The concepts in a caption, longest phrases first, in order."""
    start = 0
    while start < len(words):
        for end in range(min(len(words), start + recipe.longest), start, -1):
            if (found := recipe.phrases.get(tuple(words[start:end]))) is not None:
                for concept, plural in found:
                    yield Mention(concept, plural, start, end)
                start = end
                break
        else:
            start += 1


def caption_facts(caption: str, recipe: Recipe) -> frozenset[Fact]:
    """The facts that one caption states."""
    words = words_of(caption)
    found = list(mentions(words, recipe))
    colours = {mention.end: mention for mention in found if mention.concept.kind == "colour"}
    facts: set[Fact] = set()
    ones: Counter[str] = Counter()  # who -> how often one of it is named
    numbers: dict[str, int] = {}  # who -> how many, 0 for a plural without a number
    for mention in found:
        concept = mention.concept
        if concept.kind == "colour" or _is_modifier(mention, found):
            continue
        facts.add(Fact(concept.slot, concept.name))
        if concept.kind not in ("who", "thing"):
            continue
        said, number = _modifiers(words, mention.start, colours, recipe)
        if concept.slot != PEOPLE:  # theirs is the colour of their hair
            facts |= {Fact(f"colour {concept.name}", colour) for colour in said}
        if concept.kind == "who" and mention.plural:
            numbers[concept.name] = max(numbers.get(concept.name, 0), number if number > 1 else 0)
        elif concept.kind == "who" and number:
            ones[concept.name] += 1
    for name, number in ones.items():
        numbers[name] = max(numbers.get(name, 0), min(number, MANY))
    facts |= {Fact(f"count {name}", str(number)) for name, number in numbers.items() if number}
    for group in recipe.who_groups:
        named = {fact.value for fact in facts if fact.slot == group}
        if named and all(numbers.get(name) for name in named):
            facts.add(Fact(f"all {group}", str(min(sum(numbers[name] for name in named), MANY))))
    return frozenset(facts)


def _modifiers(
    words: Sequence[str], start: int, colours: Mapping[int, Mention], recipe: Recipe
) -> tuple[list[str], int]:
    """The colours and the number that stand before a noun; 0 for none."""
    said = []
    place = start
    while place > 0 and start - place < _REACH:
        if place in colours:
            said.append(colours[place].concept.name)
            place = colours[place].start
            continue
        if number := _count_before(words, place, recipe):
            return said, number
        if words[place - 1] not in recipe.between:
            break
        place -= 1
    return said, 0


def _count_before(words: Sequence[str], place: int, recipe: Recipe) -> int:
    for start in range(max(0, place - 2), place):
        if number := recipe.counts.get(tuple(words[start:place])):
            return number
    return 0


def _is_modifier(mention: Mention, found: Sequence[Mention]) -> bool:
    """Whether it is the first part of a compound, such as the dog of "dog toy"."""
    if mention.concept.kind not in ("who", "thing") or mention.plural:
        return False
    return any(other.start == mention.end and other.concept.kind in ("thing", "who") for other in found)
