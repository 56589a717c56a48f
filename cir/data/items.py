"""Composed queries from attributes: "the same, with this changed", and exactly which images answer them.

Product photos and rendered garments are both items with attributes. A query changes one or two attributes of a
reference; its targets are all other items that equal the reference with the change applied.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cir.data.judged_query import JudgedQuery

Key = tuple[str, ...]

ATTEMPTS = 100  # draws per wanted query before `judged_queries` gives up


@dataclass(frozen=True)
class Item:
    """One image and its known attributes.

    Attributes:
        id: the image's id.
        attributes: kind -> value, such as {"colour": "Red", "type": "Shirts", "gender": "Men"}.
        fixed: what a change may never alter, such as the master category.
    """

    id: str
    attributes: Mapping[str, str]
    fixed: str = ""


class Catalogue:
    """Items, indexed by their attributes.

    Args:
        items: all items of a split; ids are unique.
        kinds: which attributes make two items the same; in this order.
    """

    def __init__(self, items: Iterable[Item], kinds: Sequence[str]) -> None:
        self.items = sorted(items, key=lambda item: item.id)
        self.kinds = tuple(kinds)
        self.by_key: dict[tuple[str, Key], list[str]] = defaultdict(list)
        for item in self.items:
            self.by_key[item.fixed, self.key(item)].append(item.id)
        self._items = {item.id: item for item in self.items}
        self._neighbours: dict[tuple[int, ...], dict[tuple[str, Key], list[Key]]] = {}

    def key(self, item: Item) -> Key:
        """The values that decide whether two items are the same."""
        return tuple(item.attributes[kind] for kind in self.kinds)

    def item(self, item_id: str) -> Item:
        """The item of an id. Raises KeyError if the catalogue has no such item."""
        return self._items[item_id]

    def judged_query(
        self, item: Item, kinds: Sequence[str], rng: random.Random, *, query_id: str = ""
    ) -> JudgedQuery | None:
        """A random query about an item that changes exactly these kinds, without a caption.

        The change is drawn among items, so that common attribute values are queried as often as they occur.

        Args:
            item: the reference.
            kinds: which attributes change.
            rng: source of the choice.
            query_id: id of the query.

        Returns:
            The query; None if no other item answers a change of these kinds.
        """
        places = tuple(sorted(self.kinds.index(kind) for kind in kinds))
        key = self.key(item)
        candidates = [
            other
            for other in self._grouped(places).get((item.fixed, _without(key, places)), ())
            if all(other[place] != key[place] for place in places)
        ]
        if not candidates:
            return None
        weights = [len(self.by_key[item.fixed, other]) for other in candidates]
        chosen = rng.choices(candidates, weights)[0]
        return JudgedQuery(
            id=query_id,
            reference=item.id,
            caption="",
            targets=frozenset(self.by_key[item.fixed, chosen]),
            changes=tuple((self.kinds[place], key[place], chosen[place]) for place in places),
        )

    def judged_queries(self, count: int, weights: Mapping[tuple[str, ...], float], *, seed: int) -> list[JudgedQuery]:
        """Random queries without captions, deterministic for a seed.

        Args:
            count: number of queries; fewer are drawn if hardly any item answers another.
            weights: set of kinds -> how often it is tried.
            seed: of the draws.

        Returns:
            Queries with the ids "0000", "0001", ...
        """
        rng = random.Random(seed)
        sets, shares = list(weights), list(weights.values())
        queries: list[JudgedQuery] = []
        for _ in range(ATTEMPTS * count if self.items else 0):
            if len(queries) == count:
                break
            item, kinds = rng.choice(self.items), rng.choices(sets, shares)[0]
            query = self.judged_query(item, kinds, rng, query_id=f"{len(queries):04d}")
            if query is not None:
                queries.append(query)
        return queries

    def _grouped(self, places: tuple[int, ...]) -> dict[tuple[str, Key], list[Key]]:
        """Keys grouped by what stays when the attributes at `places` change."""
        if places not in self._neighbours:
            groups: dict[tuple[str, Key], list[Key]] = defaultdict(list)
            for fixed, key in self.by_key:
                groups[fixed, _without(key, places)].append(key)
            self._neighbours[places] = groups
        return self._neighbours[places]


def _without(key: Key, places: tuple[int, ...]) -> Key:
    return tuple(value for place, value in enumerate(key) if place not in places)
