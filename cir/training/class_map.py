"""The class on each vertex of a product simplex. A successor appends classes and never moves any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cir.errors import UsageError
from cir.models import stationary
from cir.training import losses
from cir.training.triplet_sampling import UNKNOWN, ItemTable
from cir.types import ModelCard, Simplex

MISSING = frozenset({"", "na"})  # values that catalogues write where they know none

Classes = Mapping[str, Sequence[str]]  # block of a simplex -> classes in the order of their vertices


def inherited(simplex: Simplex, cards: Iterable[ModelCard]) -> Classes:
    """The class map that a successor of these models continues; empty if none has a simplex.

    Raises:
        UsageError: a model has another simplex, or two models put different classes on a vertex.
    """
    known: dict[str, tuple[str, ...]] = {}
    for card in cards:
        if card.simplex is None:
            continue
        if not simplex.shares_vertices(card.simplex):
            raise UsageError(
                f"{card.name} is trained against another simplex; a successor keeps its blocks, capacities and weights"
            )
        for name, classes in card.classes.items():
            longest = known.get(name, ())
            shared = min(len(longest), len(classes))
            if tuple(classes[:shared]) != longest[:shared]:
                raise UsageError(f"{card.name} puts other classes on the vertices of {name!r} than another predecessor")
            known[name] = max(longest, tuple(classes), key=len)
    return known


def class_map(simplex: Simplex, tables: Sequence[ItemTable], predecessors: Classes) -> dict[str, tuple[str, ...]]:
    """The class map of a new model: the classes of its predecessors, then new values in the data, sorted.

    Args:
        simplex: the product simplex.
        tables: items whose values are classes.
        predecessors: see `inherited`.

    Raises:
        UsageError: the data has no value of a block, or more values than the block's capacity.
    """
    classes = {}
    for block in simplex.blocks:
        values = {_class(value) for table in tables for value in table.values.get(block.name, ())} - MISSING
        if not values:
            raise UsageError(f"[simplex]: the data has no values of {block.name!r}")
        before = tuple(predecessors.get(block.name, ()))
        classes[block.name] = before + tuple(sorted(values - set(before)))
        if len(classes[block.name]) > block.capacity:
            raise UsageError(
                f"[simplex]: {len(classes[block.name])} classes of {block.name!r} exceed its capacity of "
                f"{block.capacity}; a larger simplex starts another lineage"
            )
    return classes


class VertexLoss:
    """Cross-entropy of vectors against the vertices of their items' classes, summed over the blocks.

    Args:
        simplex: the product simplex.
        classes: the class on each vertex.
        tables: all tables whose items are passed to it.
    """

    def __init__(self, simplex: Simplex, classes: Classes, tables: Sequence[ItemTable]) -> None:
        self._simplex = simplex
        self._vertices = {block.name: stationary.simplex(block.capacity) for block in simplex.blocks}
        self._labels = {
            (id(table), name): torch.from_numpy(table.labels(name, known))
            for table in tables
            for name, known in classes.items()
        }

    def __call__(self, features: Tensor, items: Sequence[tuple[ItemTable, int]]) -> Tensor:
        """(B, D) features, not normalised, and their items, each a row of a table -> scalar."""
        total = features.new_zeros(())
        for block in self._simplex.blocks:
            start = self._simplex.offsets[block.name]
            part = features[:, start : start + block.capacity - 1]
            rows = [self._labels[id(table), block.name][row] for table, row in items]
            labels = pad_sequence(rows, batch_first=True, padding_value=UNKNOWN)
            vertices = self._vertices[block.name].to(features.device)
            total = total + losses.simplex_cross_entropy(part, vertices, labels.to(features.device))
        return total


def _class(value: str) -> str:
    return value.casefold()
