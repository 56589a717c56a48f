"""Composed queries from attributes: "the same, with this changed", and exactly which images answer it.

Real catalogues and the rendered wardrobe are both items with attributes. A change alters one or two attributes of a
reference; its targets are all other items that equal the reference with the change applied.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Key = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One image and what is known of it.

    Attributes:
        id: the image's id.
        attributes: kind -> value, such as {"colour": "Red", "type": "Shirts", "gender": "Men"}.
        fixed: what a change may never alter, such as the master category.
    """

    id: str
    attributes: Mapping[str, str]
    fixed: str = ""


@dataclass(frozen=True)
class Change:
    """A reference, what changes, and every item that answers.

    Attributes:
        reference: id.
        changes: (kind, old value, new value), one or two.
        targets: ids, at least one, without the reference.
    """

    reference: str
    changes: tuple[tuple[str, str, str], ...]
    targets: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Name of the kind of change, such as "colour" or "colour+type"."""
        return "+".join(kind for kind, _, _ in self.changes)


class Catalogue:
    """Items, indexed by their attributes.

    Args:
        items: all of one split; ids are unique.
        kinds: which attributes make two items the same; in this order.
    """

    def __init__(self, items: Iterable[Item], kinds: Sequence[str]) -> None:
        self.items = sorted(items, key=lambda item: item.id)
        self.kinds = tuple(kinds)
        self.by_key: dict[tuple[str, Key], list[str]] = defaultdict(list)
        for item in self.items:
            self.by_key[item.fixed, self.key(item)].append(item.id)
        self._items = {item.id: item for item in self.items}
        self._near: dict[tuple[int, ...], dict[tuple[str, Key], list[Key]]] = {}

    def key(self, item: Item) -> Key:
        """The values that decide whether two items are the same."""
        return tuple(item.attributes[kind] for kind in self.kinds)

    def item(self, item_id: str) -> Item:
        """The item of that id; KeyError when there is none."""
        return self._items[item_id]

    def change(self, item: Item, kinds: Sequence[str], rng: random.Random) -> Change | None:
        """A random change of exactly these kinds that at least one other item answers, or None if there is none.

        The answer is drawn among items, so that what is common is asked for as often as it is there.
        """
        places = tuple(sorted(self.kinds.index(kind) for kind in kinds))
        key = self.key(item)
        rest = tuple(value for place, value in enumerate(key) if place not in places)
        candidates = [
            other
            for other in self._neighbours(places).get((item.fixed, rest), ())
            if all(other[place] != key[place] for place in places)
        ]
        if not candidates:
            return None
        weights = [len(self.by_key[item.fixed, other]) for other in candidates]
        chosen = rng.choices(candidates, weights)[0]
        return Change(
            reference=item.id,
            changes=tuple((self.kinds[place], key[place], chosen[place]) for place in places),
            targets=tuple(self.by_key[item.fixed, chosen]),
        )

    def changes(self, count: int, weights: Mapping[tuple[str, ...], float], *, seed: int) -> list[Change]:
        """`count` random changes, deterministic for a seed; `weights` says how often each set of kinds is tried."""
        rng = random.Random(seed)
        sets, shares = list(weights), list(weights.values())
        made: list[Change] = []
        for _ in range(100 * count):
            if len(made) == count:
                return made
            change = self.change(rng.choice(self.items), rng.choices(sets, shares)[0], rng)
            if change is not None:
                made.append(change)
        return made

    def _neighbours(self, places: tuple[int, ...]) -> dict[tuple[str, Key], list[Key]]:
        """Keys grouped by what stays when the attributes at `places` change."""
        if places not in self._near:
            groups: dict[tuple[str, Key], list[Key]] = defaultdict(list)
            for fixed, key in self.by_key:
                groups[fixed, tuple(v for place, v in enumerate(key) if place not in places)].append(key)
            self._near[places] = groups
        return self._near[places]
