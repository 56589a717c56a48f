"""How far two photos agree in everything but one thing, by what their captions say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.data.mining.table import FactTable, Flags, Places

Matrix = NDArray[np.float32]

NEEDED = {  # kind of change -> what must be the same by name: one of each of these
    "place": (("action",),),
    "action": (("place",),),
    "who": (("action",), ("place", "thing")),
    "with": (("place",),),
    "without": (("place",),),
}
CARRIED = "thing.carried"
TELLING = ("place", "action", "thing", "colour")  # what a picture has beside its subject
DOUBT = 0.25  # what a fact counts that one caption of many states
SIMILAR = 0.5  # what a fact counts where the other photo states one that is like it
WORDING = 0.3  # share of all words in the agreement
ALIKE_WORDING = 0.3  # cosine of two photos' words that is as good as any
ALIKE = 0.94  # cosine of two pictures that are nearly the same
UNRELATED = 0.2  # quantile of the cosines of pictures below which two have nothing to do with each other
_PAIRS = 20_000  # drawn for the quantile


class Pictures:
    """Which photos look so alike, or so unlike, that a question about them is pointless."""

    def __init__(self, table: FactTable, vectors: Mapping[str, NDArray[np.floating[Any]]]) -> None:
        self._vectors = np.stack([vectors[name] for name in table.photos]).astype(np.float32)
        draw = np.random.default_rng(0).integers(len(self._vectors), size=(2, _PAIRS))
        self._lowest = np.quantile((self._vectors[draw[0]] * self._vectors[draw[1]]).sum(axis=1), UNRELATED)

    def refused(self, references: Places, targets: Places) -> Flags:
        """Reference x target, whether the two are nearly the same picture or unrelated."""
        cosines = self._vectors[references] @ self._vectors[targets].T
        refused: Flags = (cosines > ALIKE) | (cosines < self._lowest)
        return refused


@dataclass(frozen=True)
class Agreement:
    """How far photos agree in the rest.

    Attributes:
        table: the facts of the photos.
        changed: kind of change.
        ignored: facts that the change is about.
        least: share of the rest, by weight, in which photos must agree.
        shared: weight of the places, actions, things and colours that they must share.
        pictures: what is known of the pictures.
    """

    table: FactTable
    changed: str
    ignored: Flags
    least: float
    shared: float
    pictures: Pictures | None

    def between(self, references: Places, targets: Places) -> Matrix:
        """Reference x target: the share in which they agree, 0 where it is too little or they contradict each other."""
        table = self.table
        fits = references[:, None] != targets[None, :]
        fits &= self._shared_kinds(references, targets)
        fits &= ~self._contradicted(references, targets)
        of_facts = self._of_facts(references, targets)
        # The words are compared where they can still decide.
        fits &= of_facts * (1 - WORDING) + WORDING >= self.least
        rows, columns = np.nonzero(fits)
        agreement = np.zeros(fits.shape, np.float32)
        for start in range(0, len(rows), 4096):
            row, column = rows[start : start + 4096], columns[start : start + 4096]
            cosines = np.einsum("ij,ij->i", table.wording[references[row]], table.wording[targets[column]])
            words = WORDING * np.minimum(1, cosines / ALIKE_WORDING)
            agreement[row, column] = (1 - WORDING) * of_facts[row, column] + words
        agreement[agreement < self.least] = 0
        if self.pictures is not None:
            agreement[self.pictures.refused(references, targets)] = 0
        return agreement

    def _facts_of(self, *kinds: str) -> Places:
        return np.flatnonzero(np.isin(self.table.kinds, kinds) & ~self.ignored)

    def _carried(self) -> Places:
        slots = np.array([fact.slot == CARRIED for fact in self.table.facts])
        return np.flatnonzero(slots & ~self.ignored)

    def _of_facts(self, references: Places, targets: Places) -> Matrix:
        table = self.table
        rest = np.flatnonzero(~self.ignored)

        def stated(photos: Places) -> tuple[Matrix, Matrix]:
            at = np.ix_(photos, rest)
            some = table.mentioned[at]
            weighed = np.where(table.sure[at], 1, np.where(some, DOUBT, 0)) * table.weights[rest]
            found = np.where(some, 1, np.where(table.close[at], SIMILAR, 0))
            return weighed.astype(np.float32), found.astype(np.float32)

        (weighed_r, found_r), (weighed_t, found_t) = stated(references), stated(targets)
        both = weighed_r @ found_t.T
        both += found_r @ weighed_t.T
        both /= np.maximum(weighed_r.sum(axis=1)[:, None] + weighed_t.sum(axis=1)[None, :], 1e-6)
        return both

    def _shared_kinds(self, references: Places, targets: Places) -> Flags:
        """Where photos share enough beside their subject, and what has to be the same."""
        table = self.table
        telling = self._facts_of(*TELLING)
        by = table.weights[telling]
        weight = np.maximum(
            _product(table.sure, references, table.mentioned, targets, telling, by),
            _product(table.mentioned, references, table.sure, targets, telling, by),
        )
        fits: Flags = weight >= self.shared
        for kinds in NEEDED.get(self.changed, ()):
            facts = self._facts_of(*kinds)
            fits &= (_product(table.sure, references, table.mentioned, targets, facts) > 0) | (
                _product(table.mentioned, references, table.sure, targets, facts) > 0
            )
        if self.changed != "who":
            fits &= _product(table.sure, references, table.sure, targets, self._facts_of("who")) > 0
        return fits

    def _contradicted(self, references: Places, targets: Places) -> Flags:
        """Where somebody is missing or has come, or place, action, number or colour is another."""
        table = self.table
        named, facts = table.close, self._facts_of("who")
        if self.changed in ("with", "without"):  # the others are the same, by name, and so is what they hold
            named, facts = table.mentioned, np.union1d(facts, self._carried())
        lost = _product(table.sure, references, named, targets, facts) < _count(table.sure, references, facts)[:, None]
        come = _product(named, references, table.sure, targets, facts) < _count(table.sure, targets, facts)[None, :]
        wrong: Flags = lost | come
        for kind in ("place", "action"):
            facts = self._facts_of(kind)
            # One caption is enough for a place: few photos are in two.
            told = table.mentioned if kind == "place" else table.sure
            known = _any(table.sure, references, facts)[:, None] & _any(told, targets, facts)
            known |= _any(told, references, facts)[:, None] & _any(table.sure, targets, facts)
            wrong |= known & (
                (_product(table.sure, references, table.close, targets, facts) == 0)
                | (_product(table.close, references, table.sure, targets, facts) == 0)
            )
        for slot, members in table.slots.items():
            if slot.split()[0] not in ("count", "colour", "all") or self.ignored[members[0]]:
                continue
            facts = np.array(members)
            rows = np.flatnonzero(_any(table.sure, references, facts))
            columns = np.flatnonzero(_any(table.sure, targets, facts))
            if len(rows) and len(columns):
                same = _product(table.sure, references[rows], table.close, targets[columns], facts) > 0
                wrong[np.ix_(rows, columns)] |= ~same
        return wrong


def _product(
    left: Flags, references: Places, right: Flags, targets: Places, facts: Places, by: Matrix | None = None
) -> Matrix:
    """Reference x target: the number, or weight, of facts that both arrays have."""
    of_reference = left[np.ix_(references, facts)].astype(np.float32)
    if by is not None:
        of_reference *= by
    product: Matrix = of_reference @ right[np.ix_(targets, facts)].T.astype(np.float32)
    return product


def _count(flags: Flags, photos: Places, facts: Places) -> NDArray[np.intp]:
    count: NDArray[np.intp] = flags[np.ix_(photos, facts)].sum(axis=1)
    return count


def _any(flags: Flags, photos: Places, facts: Places) -> Flags:
    return np.asarray(flags[np.ix_(photos, facts)].any(axis=1))
