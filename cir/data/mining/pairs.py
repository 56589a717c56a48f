"""Pairs of photos whose captions differ in one thing and agree in the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cir.data.mining.agreement import CARRIED, Agreement, Matrix, Pictures
from cir.data.mining.recipe import Recipe
from cir.data.mining.table import FactTable, Flags, Places, about, is_vague, kind_of, slots_of_group

RIDDEN = "thing.ridden"  # may come, but what is left when it goes is another scene
COMING = (CARRIED, RIDDEN, "who.people", "who.animals")  # what may come or go
BLOCK = 2000  # references compared at a time


@dataclass(frozen=True)
class Strictness:
    """How sure a mined question has to be, and how many there may be of a kind.

    Attributes:
        agreement: share of the rest, by weight, in which reference and first target must agree.
        further: the same for further targets.
        shared: weight of the places, actions, things and colours that they must share.
        negatives: photos that share the rest and lack the change, at least.
        decoys: photos that show what is new and are no targets, per target at least: the caption alone must not do.
        per_reference: questions with the same reference, at most.
        per_change: questions with the same old and new value, at most.
        per_target: questions with the same first target, at most.
        most_targets: a question with more targets is left out.
        candidates: for the first target, per reference and change.
        once: whether a reference is asked for the same change once only.
    """

    agreement: float
    further: float
    shared: float
    negatives: int
    decoys: float
    per_reference: int
    per_change: int
    per_target: int
    most_targets: int
    candidates: int
    once: bool


STRICT = Strictness(
    agreement=0.65,
    further=0.55,
    shared=2.2,
    negatives=3,
    decoys=3.0,
    per_reference=4,
    per_change=20,
    per_target=4,
    most_targets=16,
    candidates=3,
    once=True,
)
LOOSE = Strictness(
    agreement=0.6,
    further=0.6,
    shared=2.0,
    negatives=0,
    decoys=0.0,
    per_reference=12,
    per_change=2000,
    per_target=30,
    most_targets=10_000,
    candidates=12,
    once=False,
)


@dataclass(frozen=True)
class Step:
    """One old and one new value, as facts; None where something comes or goes.

    Attributes:
        kind: kind of change.
        old: what the reference shows.
        new: what the target shows.
        ignored: facts that the change is about, and that say nothing of the rest.
    """

    kind: str
    old: int | None
    new: int | None
    ignored: Flags


class Pair(NamedTuple):
    """Two photos that differ in one thing.

    Attributes:
        step: in what.
        reference: row of the photo.
        target: row of the photo.
        agreement: share of the rest in which they agree.
        fitting: rows of all photos that fit, the best first.
    """

    step: Step
    reference: int
    target: int
    agreement: float
    fitting: Places


def all_pairs(
    table: FactTable, words: Recipe, strictness: Strictness, pictures: Pictures | None = None
) -> Iterator[Pair]:
    """Every pair that differs in one thing: for each reference and change the best targets.

    Args:
        table: what the photos show.
        words: the concepts.
        strictness: how far two photos have to agree.
        pictures: refuses pairs that look too alike or too unlike; None refuses none.
    """
    for slot in table.slots:
        yield from _swaps(table, slot, words, strictness, pictures)
        yield from _comings(table, slot, words, strictness, pictures)


def _swaps(
    table: FactTable, slot: str, words: Recipe, strictness: Strictness, pictures: Pictures | None
) -> Iterator[Pair]:
    """Pairs of which one shows one thing of a slot, the other another."""
    kind = kind_of(slot)
    members = table.slots[slot]
    changeable = _changeable(table, slot, words)
    if kind == "all" or len(changeable) < 2:
        return
    ignored = np.zeros(len(table.facts), bool)
    ignored[[*members, *slots_of_group(table, slot, words)]] = True
    if kind == "count":
        ignored[table.kinds == "all"] = True
    agreement = Agreement(table, kind, ignored, strictness.further, strictness.shared, pictures)
    photos = np.flatnonzero(table.mentioned[:, changeable].any(axis=1))
    place = np.full(len(table.photos), -1)
    place[photos] = np.arange(len(photos))
    changes = [(old, new) for old in changeable for new in sorted(set(changeable) - set(table.like(old, words)))]
    shown = {change: _shown(table, *change, words) for change in changes}
    for start in range(0, len(photos), BLOCK):
        block = photos[start : start + BLOCK]
        matrix = agreement.between(block, photos)
        for old, new in changes:
            having, targets = map(np.flatnonzero, shown[old, new])
            references = having[(having >= block[0]) & (having <= block[-1])]
            if len(references) and len(targets):
                part = matrix[np.ix_(place[references] - start, place[targets])]
                step = Step(kind, old, new, ignored)
                yield from _best(step, part, references, targets, table.sure[targets, new], strictness)


def _shown(table: FactTable, old: int, new: int, words: Recipe) -> tuple[Flags, Flags]:
    """Which photos may be references, and which targets: those show the new if only one caption says so."""
    if table.kinds[old] in ("count", "colour"):
        others = {fact: [i for i in table.slots[table.facts[old].slot] if i != fact] for fact in (old, new)}
    else:
        like = {fact: set(table.like(fact, words)) for fact in (old, new)}
        others = {old: sorted(like[new] - like[old] | {new}), new: sorted(like[old] - like[new] | {old})}
    lacking = {fact: ~table.mentioned[:, others[fact]].any(axis=1) for fact in (old, new)}
    return table.sure[:, old] & lacking[old], table.mentioned[:, new] & lacking[new]


def _comings(
    table: FactTable, slot: str, words: Recipe, strictness: Strictness, pictures: Pictures | None
) -> Iterator[Pair]:
    """Pairs of which one shows a thing that the other lacks."""
    if slot not in COMING:
        return
    for fact in _changeable(table, slot, words):
        names = {table.facts[i].value for i in table.like(fact, words)}
        of_it = {*names, slot}
        ignored = np.array([(f.slot == slot and f.value in names) or about(f.slot) in of_it for f in table.facts])
        having, lacking = np.flatnonzero(table.mentioned[:, fact]), np.flatnonzero(~table.close[:, fact])
        surely = table.sure[having, fact]
        # What comes one way goes the other.
        agreement = Agreement(table, "with", ignored, strictness.further, strictness.shared, pictures)
        matrix = agreement.between(having, lacking)
        yield from _best(Step("with", None, fact, ignored), matrix.T, lacking, having, surely, strictness)
        if slot != RIDDEN:
            step = Step("without", fact, None, ignored)
            yield from _best(step, matrix[surely], having[surely], lacking, np.ones(len(lacking), bool), strictness)


def _changeable(table: FactTable, slot: str, words: Recipe) -> list[int]:
    """The facts of a slot that some photo surely shows and that may change."""
    return [i for i in table.slots[slot] if table.sure[:, i].any() and not is_vague(table.facts[i], words)]


def _best(
    step: Step, agreement: Matrix, references: Places, targets: Places, surely: Flags, strictness: Strictness
) -> Iterator[Pair]:
    """For every reference the best targets, which surely show what is new."""
    first = (agreement >= strictness.agreement) & surely
    for row in np.flatnonzero(first.any(axis=1)):
        columns = np.flatnonzero(agreement[row])
        columns = columns[np.argsort(-agreement[row, columns], kind="stable")]
        for column in columns[first[row, columns]][: strictness.candidates]:
            share = float(agreement[row, column])
            yield Pair(step, int(references[row]), int(targets[column]), share, targets[columns])
