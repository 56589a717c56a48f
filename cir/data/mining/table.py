"""The facts of many photos as arrays: which photo states what, and who agrees with whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cir.data.captioned import Captions
from cir.data.mining.facts import Fact, caption_facts, words_of
from cir.data.mining.recipe import Concept, Recipe

Flags = NDArray[np.bool_]
Places = NDArray[np.intp]
OFTEN = 0.2  # share of the photos; words of more photos say nothing


@dataclass(frozen=True)
class FactTable:
    """Photos and their facts.

    Attributes:
        photos: names.
        stated: of each photo, the facts of each caption.
        facts: in a fixed order.
        mentioned: photo x fact, whether any caption states it.
        sure: photo x fact, whether enough captions do.
        close: photo x fact, whether any caption states it or what the same photo may be called as well.
        weights: of the facts, larger for rare ones.
        kinds: of the facts, the first word of their slots.
        slots: slot -> its facts.
        close_by_fact: `close`, transposed.
        wording: photo x word, unit vectors of the rarer words of all captions.
    """

    photos: tuple[str, ...]
    stated: tuple[tuple[frozenset[Fact], ...], ...]
    facts: tuple[Fact, ...]
    mentioned: Flags
    sure: Flags
    close: Flags
    weights: NDArray[np.float32]
    kinds: NDArray[np.str_]
    slots: dict[str, list[int]]
    close_by_fact: Flags
    wording: NDArray[np.float32]

    def like(self, fact: int, recipe: Recipe) -> list[int]:
        """The fact and those that mean about the same."""
        names = {self.facts[fact].value} | like_names(self.facts[fact], recipe)
        return [other for other in self.slots[self.facts[fact].slot] if self.facts[other].value in names]


def fact_table(captions: Captions, recipe: Recipe) -> FactTable:
    """The facts of photos."""
    stated = tuple(tuple(caption_facts(text, recipe) for text in texts) for texts in captions.values())
    counted = [Counter(fact for facts in photo for fact in facts) for photo in stated]
    facts = tuple(sorted({fact for photo in counted for fact in photo}))
    number = {fact: i for i, fact in enumerate(facts)}
    times = np.zeros((len(counted), len(facts)), np.int16)
    for row, photo in enumerate(counted):
        for fact, n in photo.items():
            times[row, number[fact]] = n
    needed = np.array([2 if len(texts) > 2 else 1 for texts in captions.values()])
    slots: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        slots.setdefault(fact.slot, []).append(i)
    mentioned, sure = times > 0, times >= needed[:, None]
    table = FactTable(
        photos=tuple(captions),
        stated=stated,
        facts=facts,
        mentioned=mentioned,
        sure=sure,
        close=mentioned.copy(),
        weights=np.log((len(counted) + 1) / (1 + sure.sum(axis=0))).astype(np.float32),
        kinds=np.array([kind_of(fact.slot) for fact in facts]),
        slots=slots,
        close_by_fact=np.ascontiguousarray(mentioned.T),
        wording=_wording(captions),
    )
    for i in range(len(facts)):
        table.close[:, i] = mentioned[:, table.like(i, recipe)].any(axis=1)
    table.close_by_fact[:] = table.close.T
    return table


def _wording(captions: Captions) -> NDArray[np.float32]:
    """Unit vectors of the words of each photo's captions, rarer words longer; the very frequent and rare left out."""
    said = [Counter(word for text in texts for word in set(words_of(text))) for texts in captions.values()]
    photos = Counter(word for words in said for word in words)
    most = max(2.0, OFTEN * len(said))
    number = {word: i for i, word in enumerate(sorted(word for word, n in photos.items() if 2 <= n <= most))}
    vectors = np.zeros((len(said), len(number)), np.float32)
    for row, words in enumerate(said):
        for word, n in words.items():
            if word in number:
                vectors[row, number[word]] = np.sqrt(n) * np.log((1 + len(said)) / photos[word])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors


def kind_of(slot: str) -> str:
    """The kind of a slot: "who", "place", "action", "thing", "count", "colour", or "all" for the number of a group."""
    return slot.split(".")[0].split()[0]


def concept_of(fact: Fact, recipe: Recipe) -> Concept | None:
    """The concept that a fact names, None for a number."""
    return recipe.concepts.get((kind_of(fact.slot), fact.value))


def about(slot: str) -> str:
    """The name of the concept whose count or colour a slot is, else ""."""
    return slot.partition(" ")[2]


def like_names(fact: Fact, recipe: Recipe) -> frozenset[str]:
    """Names of the concepts that the same photo may just as well be called."""
    concept = concept_of(fact, recipe)
    return concept.like if concept else frozenset()


def is_vague(fact: Fact, recipe: Recipe) -> bool:
    """Whether a fact is never what changes."""
    concept = concept_of(fact, recipe) or recipe.concepts.get(("who", about(fact.slot)))
    return concept is not None and concept.vague


def slots_of_group(table: FactTable, slot: str, recipe: Recipe) -> Sequence[int]:
    """The facts of a slot, and the colours and counts of what it holds."""
    names = {c.name for c in recipe.concepts.values() if c.slot == slot}
    return [i for i, fact in enumerate(table.facts) if fact.slot == slot or about(fact.slot) in names]
