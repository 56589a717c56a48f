"""Queries for a study without judged questions: images, texts and both, about images of the index.

Texts are those that users might ask. An index keeps no texts of its users, so they are made: from metadata with the
caption templates where a column holds a kind of attribute that those know, else from metadata values, else from plain
words. Which of them is right is not known, and not needed: a re-index's answers are what counts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Mask, Rows
from cir.data import captions
from cir.data.judged_query import JudgedQuery
from cir.replacement.photos import StoredPhoto

QUERIES = 200  # of each kind, and as many again to fit and calibrate on
MAX_VALUES = 200  # a column with more values is names or numbers, and says little about pictures
LONGEST = 40  # characters of a value that is taken for words
KINDS = ("colour", "type", "gender", "pattern", "sleeves", "neckline", "usage", "season", "material")
WORDS = (
    *("red", "blue", "green", "white", "black", "yellow", "small", "large", "old", "new", "round", "striped"),
    *("person", "face", "dog", "cat", "bird", "flower", "tree", "food", "car", "house", "chair", "shoe", "shirt"),
    *("dress", "bag", "watch", "street", "beach", "mountain", "water", "sky", "night", "wood", "metal", "outdoors"),
)


@dataclass(frozen=True)
class MadeQueries:
    """Queries about a sample of images.

    Attributes:
        queries: without targets.
        fit_mask: (Q,) those that fits may see.
        source: what their texts were made from, for people.
    """

    queries: Sequence[JudgedQuery]
    fit_mask: Mask
    source: str


def make_queries(photos: Sequence[StoredPhoto], held_out: Mask, seed: int) -> MadeQueries:
    """Queries of all three kinds.

    Args:
        photos: N images of the sample.
        held_out: (N,) those that fits do not see: the references of the queries that are measured.
        seed: of the random choices.
    """
    rng = random.Random(seed)
    texts = _Texts.of([photo.metadata for photo in photos])
    queries: list[JudgedQuery] = []
    fit: list[bool] = []
    seen: set[str] = set()
    for apart in (True, False):
        rows = np.flatnonzero(held_out == apart)
        order = np.random.default_rng(seed).permutation(len(rows))[:QUERIES]
        number = f"{'measured' if apart else 'fit'}"
        made = [JudgedQuery(f"image-{number}-{row}", photos[row].id, "", frozenset()) for row in rows[order]]
        for row in rows[order]:
            caption = texts.change(photos[row].metadata, rng)
            made.append(JudgedQuery(f"composed-{number}-{row}", photos[row].id, caption, frozenset()))
        for text in _distinct(texts, rows, photos, rng, seen):
            made.append(JudgedQuery(f"text-{len(seen)}-{text}", "", text, frozenset()))
        queries += made
        fit += [not apart] * len(made)
    return MadeQueries(queries, np.array(fit, np.bool_), texts.source)


def _distinct(
    texts: _Texts, rows: Rows, photos: Sequence[StoredPhoto], rng: random.Random, seen: set[str]
) -> list[str]:
    """At most `QUERIES` texts that were not made before; fewer where metadata say little."""
    made = []
    for _ in range(4 * QUERIES):
        text = texts.description(photos[rng.choice(rows)].metadata, rng)
        if text and text not in seen:
            seen.add(text)
            made.append(text)
        if len(made) == QUERIES:
            break
    return made


@dataclass(frozen=True)
class _Texts:
    """Where texts come from.

    Attributes:
        kinds: column -> the kind of attribute that it holds, of those that have caption templates.
        values: column -> its values, for all columns of words.
    """

    kinds: Mapping[str, str]
    values: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, metadata: Sequence[Mapping[str, str]]) -> _Texts:
        columns = sorted({column for row in metadata for column in row})
        values = {column: sorted({row[column] for row in metadata if row.get(column)}) for column in columns}
        values = {column: found for column, found in values.items() if _is_words(found)}
        kinds: dict[str, str] = {}
        for kind in KINDS:
            fitting = [column for column in values if _kind_of(column) == kind]
            if fitting:
                kinds[min(fitting, key=len)] = kind
        return cls(kinds, values)

    @property
    def source(self) -> str:
        if self.kinds:
            return f"caption templates for {', '.join(f'{kind} ({name})' for name, kind in self.kinds.items())}"
        return f"values of {', '.join(self.values)}" if self.values else f"{len(WORDS)} plain words"

    def description(self, row: Mapping[str, str], rng: random.Random) -> str:
        """What an image is, in words: some of its values; "" where it has none."""
        if not self.values:
            return " ".join(rng.sample(WORDS, rng.randint(1, 2)))
        named = [column for column in (self.kinds or self.values) if row.get(column)]
        chosen = rng.sample(named, min(len(named), rng.randint(1, 3)))
        return " ".join(
            captions.draw_synonym(self.kinds[name], row[name], rng) if name in self.kinds else row[name].lower()
            for name in named
            if name in chosen
        )

    def change(self, row: Mapping[str, str], rng: random.Random) -> str:
        """How another image differs: another value of one column, in the caption's words."""
        if not self.values:
            return rng.choice(WORDS)
        column = rng.choice(list(self.kinds or self.values))
        others = [value for value in self.values[column] if value != row.get(column)]
        value = rng.choice(others or self.values[column])
        if column not in self.kinds:
            return value.lower()
        kind = self.kinds[column]
        phrasing = "val" if kind in captions.templates("val") else "train"
        return captions.change_caption([(kind, row.get(column, ""), value)], rng, phrasing=phrasing)


def _is_words(values: Sequence[str]) -> bool:
    """Whether values of a column are words that tell images apart."""
    words = sum(any(letter.isalpha() for letter in value) and len(value) <= LONGEST for value in values)
    return 2 <= len(values) <= MAX_VALUES and words >= 0.9 * len(values)


def _kind_of(column: str) -> str:
    """The kind of attribute that a column's name ends in: "baseColour" is a colour; "" for others."""
    name = column.casefold().replace("color", "colour")
    return next((kind for kind in KINDS if name.endswith(kind)), "")
