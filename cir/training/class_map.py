"""Which class stands on which vertex of a product simplex: by name, for good. Successors append."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cir.training import losses
from cir.errors import UsageError
from cir.models.stationary import simplex
from cir.training.triplet_sampling import Table
from cir.types import ModelCard, Simplex

NOTHING = frozenset({"", "na"})  # what catalogues write where they know no value

Classes = Mapping[str, Sequence[str]]


def inherited(anchors: Simplex, cards: Iterable[ModelCard]) -> Classes:
    """The class map that a successor of these models continues; empty where it is the first.

    Raises:
        UsageError: one of them has another simplex, or two of them put different classes on a vertex.
    """
    known: dict[str, tuple[str, ...]] = {}
    for card in cards:
        if card.simplex is None:
            continue
        if card.simplex != anchors:
            raise UsageError(
                f"{card.name} is anchored to another simplex; a successor keeps its blocks, their room and weights"
            )
        for name, classes in card.classes.items():
            ours = known.get(name, ())
            shared = min(len(ours), len(classes))
            if tuple(classes[:shared]) != ours[:shared]:
                raise UsageError(f"{card.name} puts other classes on the vertices of {name!r} than another predecessor")
            known[name] = max(ours, tuple(classes), key=len)
    return known


def class_map(anchors: Simplex, tables: Sequence[Table], before: Classes) -> dict[str, tuple[str, ...]]:
    """SimplexBlock -> classes in the order of their vertices: those of the predecessors, then what the data adds, sorted.

    Raises:
        UsageError: a block nothing is known of, or one without room for its classes.
    """
    found = {}
    for block in anchors.blocks:
        values = {_class(value) for table in tables for value in table.values.get(block.name, ())} - NOTHING
        if not values:
            raise UsageError(f"[simplex]: the data says nothing of {block.name!r}")
        kept = tuple(before.get(block.name, ()))
        found[block.name] = kept + tuple(sorted(values - set(kept)))
        if len(found[block.name]) > block.capacity:
            raise UsageError(
                f"[simplex]: {len(found[block.name])} classes of {block.name!r} have no room on {block.capacity} vertices; "
                "more vertices are another lineage"
            )
    return found


class VertexLoss:
    """Cross-entropy of gallery features against the vertices of their classes, summed over the blocks.

    Args:
        anchors: the product simplex.
        classes: which class stands where.
        tables: of the items that will be asked about.
    """

    def __init__(self, anchors: Simplex, classes: Classes, tables: Sequence[Table]) -> None:
        self._anchors = anchors
        self._fixed = {block.name: simplex(block.capacity) for block in anchors.blocks}
        self._labels = {id(table): self._of(table, classes) for table in tables}

    def _of(self, table: Table, classes: Classes) -> dict[str, np.ndarray]:
        labels = {}
        for name, known in classes.items():
            place = {each: number for number, each in enumerate(known)}
            values = [place.get(_class(value), -1) for value in table.values.get(name, ())]
            # The last place is what an unknown value, -1, picks.
            codes = table.codes[name] if name in table.codes else np.full(len(table.items), -1)
            labels[name] = np.array([*values, -1])[codes]
        return labels

    def __call__(self, features: Tensor, items: Sequence[tuple[Table, int]]) -> Tensor:
        """(B, D) features of items, each a row of a table -> scalar."""
        total = features.new_zeros(())
        for block in self._anchors.blocks:
            start = self._anchors.offsets[block.name]
            part = features[:, start : start + block.capacity - 1]
            labels = torch.tensor([self._labels[id(table)][block.name][row] for table, row in items])
            fixed = self._fixed[block.name].to(features.device)
            total = total + losses.vertices(part, fixed, labels.to(features.device))
        return total


def _class(value: str) -> str:
    return value.casefold()
