"""Training triplets sampled from items with attributes: reference, caption, target, and all items that answer as well.

Some attributes are known for some items only: a product's name may or may not mention its pattern. An item whose value
is unknown is never treated as a wrong answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cir.arrays import Mask, Rows
from cir.data import captions
from cir.data.judged_query import AttributeChange, JudgedQuery

UNKNOWN = -1  # code of an unknown value
# The kind of change whose caption describes the target outright; only the reference's category stays.
DESCRIBED = "described"
# Kinds of changes that name a shade. The reference must not have it already; a calmer colour needs a bright reference.
SHADES = {
    "darker colour": "darker",
    "lighter colour": "lighter",
    "brighter colour": "brighter",
    "calmer colour": "calmer",
}

AllowedValues = dict[str, Mask]  # attribute -> for each of its values whether an answer may have it


class ItemTable(Protocol):
    """Items to train on, each a row."""

    @property
    def name(self) -> str:
        """Of the table."""

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """Attribute -> its values, which are classes of a simplex."""

    def labels(self, kind: str, classes: Sequence[str]) -> Rows:
        """(rows, M) places among the classes of the values that each row has, filled up with `UNKNOWN`."""

    def sample(
        self, reference: int, kinds: Sequence[str], candidates: Mask, rng: random.Random
    ) -> SampledTriplet | None:
        """A random triplet of a reference; None if there is none."""


@dataclass(frozen=True)
class SampledTriplet:
    """A judged query with one target, and its place in a table of items.

    Attributes:
        query: reference, caption, target and changes. Triplets with the same id are equal.
        table: the items.
        reference, target: rows of the table.
        description: a caption that describes the target without the reference.
        allowed: the values that an answer may have.
    """

    query: JudgedQuery
    table: ItemTable
    reference: int
    target: int
    description: str
    allowed: AllowedValues

    def answered_by(self, rows: Rows) -> Mask:
        """(N,) rows of the same table -> (N,) bool: which of them answer, or may answer."""
        assert isinstance(self.table, AttributeTable)
        return self.table.match(self.allowed, rows)

    def described_by(self, rows: Rows) -> Mask:
        """(N,) rows of the same table -> (N,) bool: which of them equal the target in all core attributes."""
        assert isinstance(self.table, AttributeTable)
        codes = self.table.codes
        return np.logical_and.reduce([codes[kind][rows] == codes[kind][self.target] for kind in self.table.core])


class AttributeTable:
    """Items and their attributes as arrays.

    Args:
        name: "products" or "wardrobe".
        items: attributes of each item; "" is unknown.
        core: attributes that are always known, and equal the reference's unless the caption changes them.
        ids: the id of each item; its row number if not given.
        fixed: a value per item that no change may alter.
        names: a seller's name for each item, if known.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Mapping[str, str]],
        core: Sequence[str],
        *,
        ids: Sequence[str] = (),
        fixed: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.name, self.items, self.core, self.names = name, items, tuple(core), names
        self.ids = ids or [str(row) for row in range(len(items))]
        columns = {kind: [item[kind] for item in items] for kind in items[0]}
        if fixed:
            columns["fixed"] = list(fixed)
        self.values = {kind: sorted(set(column) - {""}) for kind, column in columns.items()}
        self.codes = {kind: self._encode(kind, column) for kind, column in columns.items()}
        self._kept = (*self.core, "fixed") if fixed else self.core

    def _encode(self, kind: str, column: Iterable[str]) -> Rows:
        places = {value: place for place, value in enumerate(self.values[kind])}
        return np.array([places.get(value, UNKNOWN) for value in column])

    def labels(self, kind: str, classes: Sequence[str]) -> Rows:
        """(rows, 1) place of each row's value among the classes, in whatever letter case, or `UNKNOWN`."""
        place = {value: number for number, value in enumerate(classes)}
        values = [place.get(value.casefold(), UNKNOWN) for value in self.values.get(kind, ())]
        # An unknown value has the code -1 and selects the last entry.
        codes = self.codes[kind] if kind in self.codes else np.full(len(self.items), UNKNOWN)
        return np.array([*values, UNKNOWN])[codes][:, None]

    def match(self, allowed: AllowedValues, rows: Rows | None = None, *, strictly: bool = False) -> Mask:
        """Which rows have only allowed values.

        Args:
            allowed: at least one attribute.
            rows: (N,) rows of the table; all rows if None.
            strictly: an unknown value is not allowed; otherwise it is.

        Returns:
            (N,) bool.
        """
        found: Mask | None = None
        for kind, values in allowed.items():
            codes = self.codes[kind] if rows is None else self.codes[kind][rows]
            # UNKNOWN, -1, selects the appended entry.
            passes = np.append(values, not strictly)[codes]
            found = passes if found is None else found & passes
        assert found is not None
        return found

    def sample(
        self, reference: int, kinds: Sequence[str], candidates: Mask, rng: random.Random
    ) -> SampledTriplet | None:
        """A random triplet with changes of these kinds.

        Args:
            reference: row of the reference.
            kinds: kinds of changes: attributes, conditions such as "not colour", "same", or `DESCRIBED` alone.
            candidates: (rows of the table,) bool, the rows that may be the target.
            rng: source of all choices.

        Returns:
            The triplet; None if no candidate answers, or a change makes no sense for this reference.
        """
        described = tuple(kinds) == (DESCRIBED,)
        if described:
            allowed = {kind: self._only(kind, reference) for kind in self._kept if kind == "fixed"}
        else:
            allowed = {kind: self._only(kind, reference) for kind in self._kept}
            if not all(self._restrict(allowed, kind, reference, rng) for kind in kinds):
                return None
        answers = self.match(allowed, strictly=True) & candidates if allowed else candidates.copy()
        answers[reference] = False
        rows = np.flatnonzero(answers)
        if not len(rows):
            return None
        target = int(rows[rng.randrange(len(rows))])
        description = self._describe(target, rng)
        changes: list[AttributeChange] = []
        if described:
            allowed = {kind: self._only(kind, target) for kind in self._kept}
            caption = captions.description(self.items[target], rng)
        else:
            changes = [self._change(kind, reference, target) for kind in kinds]
            allowed |= {kind: self._only(kind, target) for kind in kinds if kind in self.codes}
            caption = captions.change_caption(changes, rng, phrasing="train")
        query = self._query(reference, target, captions.augment(caption, rng), changes)
        return SampledTriplet(query, self, reference, target, description, allowed)

    def _query(self, reference: int, target: int, caption: str, changes: Sequence[AttributeChange]) -> JudgedQuery:
        pair = self.ids[reference], self.ids[target]
        return JudgedQuery(
            id=f"{self.name} {pair[0]} {pair[1]}: {caption}",
            reference=pair[0],
            caption=caption,
            targets=frozenset(pair[1:]),
            changes=tuple(changes),
        )

    def _restrict(self, allowed: AllowedValues, kind: str, reference: int, rng: random.Random) -> bool:
        """Change `allowed` to what a kind of change allows; False if it makes no sense for this reference."""
        if kind == "same":
            return True
        attribute = kind.split()[-1]
        if attribute not in self.core:
            if attribute not in self.codes:
                return False
            # Items that differ in another attribute often differ in colour, and for another usage also in type: at
            # random these two need not stay.
            if rng.random() < 0.6:
                allowed.pop("colour", None)
            if attribute == "usage" and rng.random() < 0.5:
                allowed.pop("type", None)
        before = self._only(attribute, reference)
        if kind not in SHADES:
            # A caption that names the reference's value needs a known value.
            if kind != attribute and not before.any():
                return False
            allowed[attribute] = ~before
            return True
        shades = captions.shades()
        wanted = np.isin(self.values[attribute], shades[SHADES[kind]])
        unfit = wanted if kind != "calmer colour" else ~np.isin(self.values[attribute], shades["brighter"])
        if (before & unfit).any():
            return False
        allowed[attribute] = wanted
        return True

    def _change(self, kind: str, reference: int, target: int) -> AttributeChange:
        if kind == "same":
            return kind, "", ""
        attribute = kind.split()[-1]
        return kind, self._value(attribute, reference), self._value(attribute, target)

    def _only(self, kind: str, row: int) -> Mask:
        """(values of the attribute,) bool: True for the value of that row alone."""
        return np.arange(len(self.values[kind])) == self.codes[kind][row]

    def _value(self, kind: str, row: int) -> str:
        code = self.codes[kind][row]
        return "" if code == UNKNOWN else self.values[kind][code]

    def _describe(self, row: int, rng: random.Random) -> str:
        """A caption that somebody without a reference would type to find this item."""
        if self.names and rng.random() < 0.25:
            # Names begin with the brand, which a caption for the product itself leaves out.
            words = self.names[row].lower().split()
            return " ".join(words[1:] if len(words) > 3 and rng.random() < 0.7 else words)
        return captions.augment(captions.description(self.items[row], rng), rng)
