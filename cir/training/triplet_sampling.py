"""What a training caption asks: a reference, a sentence, a target, and which other items would answer as well.

Attributes that are known for some items only (a product's name tells its pattern now and then) are handled by never
calling an item wrong whose value is unknown.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cir.data import captions

UNKNOWN = -1
# The kind of wish that says everything of the target and keeps nothing of the reference but its category.
DESCRIBED = "described"
# Kinds of wishes that name a shade: the reference must not have it already; a calmer colour is asked of a bright one.
SHADES = {
    "darker colour": "darker",
    "lighter colour": "lighter",
    "brighter colour": "brighter",
    "calmer colour": "calmer",
}

Bools = NDArray[np.bool_]
Allowed = dict[str, Bools]


@dataclass(frozen=True)
class Wish:
    """One training triplet.

    Attributes:
        table: where its items are.
        reference, target: rows of the table.
        caption: relative to the reference.
        told: a description of the target alone.
        allowed: attribute -> for each value of the table whether the caption allows it.
    """

    table: Table
    reference: int
    target: int
    caption: str
    told: str
    allowed: Allowed

    def answered_by(self, rows: NDArray[np.int64]) -> Bools:
        """Which rows of the same table answer, or may answer: (N,) bool."""
        return self.table.match(self.allowed, rows)

    def described_by(self, rows: NDArray[np.int64]) -> Bools:
        """Which rows look as the target's description says: (N,) bool."""
        codes = self.table.codes
        return np.logical_and.reduce([codes[kind][rows] == codes[kind][self.target] for kind in self.table.core])


class Table:
    """Items and their attributes as arrays.

    Args:
        name: "products" or such.
        items: attributes of each item; "" is unknown.
        core: the attributes that are always known and stay as the reference's unless a caption changes them.
        fixed: what no change may alter, one value an item.
        names: what a seller calls each item, or nothing.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Mapping[str, str]],
        core: Sequence[str],
        *,
        fixed: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.name, self.items, self.core, self.names = name, items, tuple(core), names
        columns = {kind: [item[kind] for item in items] for kind in items[0]}
        if fixed:
            columns["fixed"] = list(fixed)
        self.values = {kind: sorted(set(column) - {""}) for kind, column in columns.items()}
        self.codes = {kind: self._encode(kind, column) for kind, column in columns.items()}

    def _encode(self, kind: str, column: Iterable[str]) -> NDArray[np.int64]:
        places = {value: place for place, value in enumerate(self.values[kind])}
        return np.array([places.get(value, UNKNOWN) for value in column])

    def match(self, allowed: Allowed, rows: NDArray[np.int64] | None = None, *, strictly: bool = False) -> Bools:
        """Rows whose values are all allowed, (N,) bool; an unknown value passes unless `strictly`."""
        found: Bools | None = None
        for kind, values in allowed.items():
            codes = self.codes[kind] if rows is None else self.codes[kind][rows]
            # The last place is what UNKNOWN, -1, picks.
            passes = np.append(values, not strictly)[codes]
            found = passes if found is None else found & passes
        assert found is not None
        return found

    def wish(self, reference: int, kinds: Sequence[str], among: Bools, rng: random.Random) -> Wish | None:
        """A wish of these kinds about this reference, its target among the rows marked, or None where none answers."""
        bound = (*self.core, "fixed") if "fixed" in self.codes else self.core
        allowed = {kind: self._only(kind, reference) for kind in bound}
        if kinds == (DESCRIBED,):
            allowed = {kind: allowed[kind] for kind in bound if kind == "fixed"}
        elif not all(self._ask(kind, reference, allowed, rng) for kind in kinds):
            return None
        candidates = self.match(allowed, strictly=True) & among if allowed else among.copy()
        candidates[reference] = False
        rows = np.flatnonzero(candidates)
        if not len(rows):
            return None
        target = int(rows[rng.randrange(len(rows))])
        told = self._tell(target, rng)
        if kinds == (DESCRIBED,):
            allowed = {kind: self._only(kind, target) for kind in bound}
            caption = captions.augment(captions.description(self.items[target], rng), rng)
            return Wish(self, reference, target, caption, told, allowed)
        changes = []
        for kind in kinds:
            if kind == "same":
                changes.append((kind, "", ""))
                continue
            attribute = kind.split()[-1]
            old, new = self._value(attribute, reference), self._value(attribute, target)
            changes.append((kind, old, new))
            if kind == attribute:
                allowed[attribute] = self._only(attribute, target)
        caption = captions.augment(captions.change_caption(changes, rng, phrasing="train"), rng)
        return Wish(self, reference, target, caption, told, allowed)

    def _ask(self, kind: str, reference: int, allowed: Allowed, rng: random.Random) -> bool:
        """Write into `allowed` what a kind of wish asks; False where it makes no sense for this reference."""
        if kind == "same":
            return True
        attribute = kind.split()[-1]
        if attribute not in self.core:
            if attribute not in self.codes:
                return False
            # What is worn elsewhere is often of another colour, and seldom of just this type.
            if rng.random() < 0.6:
                allowed.pop("colour", None)
            if attribute == "usage" and rng.random() < 0.5:
                allowed.pop("type", None)
        old = self._only(attribute, reference)
        if kind not in SHADES:
            # A caption that names the old value needs one.
            if kind != attribute and not old.any():
                return False
            allowed[attribute] = ~old
            return True
        shade = captions.shades()
        wanted = np.isin(self.values[attribute], shade[SHADES[kind]])
        unfit = wanted if kind != "calmer colour" else ~np.isin(self.values[attribute], shade["brighter"])
        if (old & unfit).any():
            return False
        allowed[attribute] = wanted
        return True

    def _only(self, kind: str, row: int) -> Bools:
        code = self.codes[kind][row]
        return np.arange(len(self.values[kind])) == code

    def _value(self, kind: str, row: int) -> str:
        code = self.codes[kind][row]
        return "" if code == UNKNOWN else self.values[kind][code]

    def _tell(self, row: int, rng: random.Random) -> str:
        """What somebody without a reference would type to find this item."""
        if self.names and rng.random() < 0.25:
            # Brands come first; whoever looks for the thing does not name them.
            words = self.names[row].lower().split()
            return " ".join(words[1:] if len(words) > 3 and rng.random() < 0.7 else words)
        return captions.augment(captions.description(self.items[row], rng), rng)
