"""Pairs of photos whose captions differ in one thing and agree in the rest."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cir.data.captioned import Captions
from cir.data.mining.agreement import Agreement, Pictures
from cir.data.mining.facts import Fact, caption_facts
from cir.data.mining.recipe import Recipe, recipe
from cir.data.mining.table import FactTable, Flags, Places, about, fact_table, is_vague, kind_of, slots_of_group

KINDS = ("who", "count", "colour", "place", "action", "thing", "with", "without")
RIDDEN = "thing.ridden"  # may come, but what is left when it goes is another scene
WITH_GROUPS = ("thing.carried", RIDDEN, "who.people", "who.animals")  # what may come or go
BLOCK = 2000  # references compared at a time


@dataclass(frozen=True)
class Strictness:
    """How sure a mined question has to be.

    Attributes:
        agreement: share of the rest, by weight, in which the two photos must agree.
        shared: weight of the places, actions, things and colours that they must share.
        negatives: photos that share the rest and lack the change, at least.
        decoys: photos that show the change and are no targets, per target at least.
        per_reference: questions with the same reference, at most.
        per_change: questions with the same old and new value, at most.
        per_target: questions with the same first target, at most.
        most_targets: a question with more targets is left out.
        targets: candidates for the first target, per reference and change.
    """

    agreement: float
    shared: float
    negatives: int = 0
    decoys: float = 0.0
    per_reference: int = 2
    per_change: int = 40
    per_target: int = 4
    most_targets: int = 10_000
    targets: int = 12


STRICT = Strictness(
    0.65, 2.2, negatives=3, decoys=3.0, per_reference=4, per_change=20, per_target=4, most_targets=12, targets=3
)
LOOSE = Strictness(0.6, 2.0, per_reference=10, per_change=2000, per_target=30)


@dataclass(frozen=True)
class MinedChange:
    """A reference photo, one change, and the photos that show it.

    Attributes:
        reference: name of a photo.
        targets: names of the photos that fit, the best first.
        kind: one of KINDS.
        old: what the reference shows, "" if something is added.
        new: what the targets show, "" if something is taken away.
        of: what has the colour or the number, else "".
        subject: who or what the photo is about, "" if unknown; `several` of them in the first target.
        several: whether the first target shows more than one of it.
        captions: a caption of the reference that states the old, and one of the first target that states the new.
        negatives: photos that share the rest and do not show the change, the most similar first.
        agreement: share of the rest in which reference and first target agree.
    """

    reference: str
    targets: tuple[str, ...]
    kind: str
    old: str
    new: str
    of: str
    subject: str
    several: bool
    captions: tuple[str, str]
    negatives: tuple[str, ...]
    agreement: float


@dataclass(frozen=True)
class _Step:
    """One old and one new value; a fact that is None is absent."""

    kind: str
    old: int | None
    new: int | None
    ignored: Flags  # facts that say nothing about whether the rest agrees


class _Found(NamedTuple):
    """A pair of photos that differ in one thing."""

    step: _Step
    reference: int
    target: int
    agreement: float
    fitting: Places  # all photos that fit, the best first


def mine(
    captions: Captions,
    *,
    strictness: Strictness = STRICT,
    vectors: Mapping[str, NDArray[np.floating]] | None = None,
    limit: int | None = None,
    seed: int = 0,
    most_negatives: int = 20,
) -> list[MinedChange]:
    """Composed questions about photos with captions; the same for the same arguments.

    Args:
        captions: photo -> its captions.
        strictness: STRICT for questions that judge a model, LOOSE for training.
        vectors: photo -> unit vector; leaves out pairs that are nearly the same picture or have nothing in common.
        limit: number of questions, drawn evenly over the kinds; None for all.
        seed: of the draw.
        most_negatives: kept per question.
    """
    words = recipe()
    table = fact_table(captions, words)
    rng = random.Random(seed)
    pictures = Pictures(table, vectors) if vectors is not None else None
    found = [
        pair
        for slot in table.slots
        for pairs in (_swaps, _comings)
        for pair in pairs(table, slot, words, strictness, pictures)
    ]
    kept = _spread(found, strictness, rng)
    changes = []
    for pair in kept:
        change = _question(table, words, captions, pair, strictness, most_negatives)
        if change is not None:
            changes.append(change)
    return _evenly(changes, limit)


def _swaps(
    table: FactTable, slot: str, words: Recipe, strictness: Strictness, pictures: Pictures | None
) -> Iterator[_Found]:
    """Pairs of photos of which one shows one thing of a slot, the other another."""
    kind = kind_of(slot)
    members = table.slots[slot]
    sure = _changeable(table, slot, words)
    if kind == "all" or len(sure) < 2:
        return
    ignored = np.zeros(len(table.facts), bool)
    ignored[[*members, *slots_of_group(table, slot, words)]] = True
    if kind == "count":
        ignored[table.kinds == "all"] = True
    agreement = Agreement(table, kind, ignored, strictness.agreement, strictness.shared, pictures)
    everything = np.flatnonzero(table.mentioned[:, sure].any(axis=1))
    column = np.full(len(table.photos), -1)
    column[everything] = np.arange(len(everything))
    shown = {
        (fact, other, surely): np.flatnonzero(_shows(table, fact, other, words, surely=surely))
        for fact in sure
        for other in set(sure) - set(table.like(fact, words))
        for surely in (True, False)
    }
    for start in range(0, len(everything), BLOCK):
        block = everything[start : start + BLOCK]
        matrix = agreement.between(block, everything)
        for old, new, surely in sorted(shown):
            references, targets = shown[old, new, True], shown[new, old, False]
            references = references[np.isin(references, block, assume_unique=True)]
            if surely and len(references) and len(targets):
                part = matrix[np.ix_(column[references] - start, column[targets])]
                step = _Step(kind, old, new, ignored)
                yield from _best(step, part, references, targets, table.sure[targets, new], strictness)


def _comings(
    table: FactTable, slot: str, words: Recipe, strictness: Strictness, pictures: Pictures | None
) -> Iterator[_Found]:
    """Pairs of photos of which one shows a thing that the other lacks."""
    if slot not in WITH_GROUPS:
        return
    for fact in _changeable(table, slot, words):
        names = {table.facts[i].value for i in table.like(fact, words)}
        ignored = np.array([f.slot == slot and f.value in names or about(f.slot) in {*names, slot} for f in table.facts])
        having, lacking = np.flatnonzero(table.mentioned[:, fact]), np.flatnonzero(~table.close[:, fact])
        surely = table.sure[having, fact]
        agreement = Agreement(table, "with", ignored, strictness.agreement, strictness.shared, pictures)
        # The same in both directions: what comes one way goes the other.
        matrix = agreement.between(having, lacking)
        yield from _best(_Step("with", None, fact, ignored), matrix.T, lacking, having, surely, strictness)
        if slot != RIDDEN:
            all_sure = np.ones(len(lacking), bool)
            step = _Step("without", fact, None, ignored)
            yield from _best(step, matrix[surely], having[surely], lacking, all_sure, strictness)


def _changeable(table: FactTable, slot: str, words: Recipe) -> list[int]:
    """The facts of a slot that some photo surely shows and that may change."""
    return [i for i in table.slots[slot] if table.sure[:, i].any() and not is_vague(table.facts[i], words)]


def _best(
    step: _Step,
    agreement: NDArray[np.float32],
    references: Places,
    targets: Places,
    surely: Flags,
    strictness: Strictness,
) -> Iterator[_Found]:
    """For every reference the best targets, which surely show what is new."""
    enough = agreement > 0
    for row in np.flatnonzero((enough & surely).any(axis=1)):
        columns = np.flatnonzero(enough[row])
        columns = columns[np.argsort(-agreement[row, columns], kind="stable")]
        for column in columns[surely[columns]][: strictness.targets]:
            yield _Found(
                step, int(references[row]), int(targets[column]), float(agreement[row, column]), targets[columns]
            )


def _shows(table: FactTable, fact: int, other: int, words: Recipe, *, surely: bool = True) -> Flags:
    """Which photos show `fact` and say nothing that sounds like `other`."""
    shows = (table.sure if surely else table.mentioned)[:, fact]
    if table.facts[fact].slot.startswith(("count", "colour")):
        others = [i for i in table.slots[table.facts[fact].slot] if i != fact]
        return shows & ~table.mentioned[:, others].any(axis=1)
    like = sorted(set(table.like(other, words)) - set(table.like(fact, words)) | {other})
    return shows & ~table.mentioned[:, like].any(axis=1)


def _spread(
    found: Sequence[_Found], strictness: Strictness, rng: random.Random
) -> list[_Found]:
    """The best pairs such that no reference, target or change comes too often."""
    order = sorted(found, key=lambda pair: (-round(pair.agreement, 1), rng.random()))
    by_reference: Counter[int] = Counter()
    by_target: Counter[int] = Counter()
    by_change: Counter[tuple[str, int | None, int | None]] = Counter()
    once = set()
    kept = []
    for pair in order:
        change = (pair.step.kind, pair.step.old, pair.step.new)
        if (
            by_reference[pair.reference] >= strictness.per_reference
            or by_target[pair.target] >= strictness.per_target
            or by_change[change] >= strictness.per_change
            or (strictness.negatives and (pair.reference, change) in once)
        ):
            continue
        once.add((pair.reference, change))
        by_reference[pair.reference] += 1
        by_target[pair.target] += 1
        by_change[change] += 1
        kept.append(pair)
    return kept


def _question(
    table: FactTable,
    words: Recipe,
    captions: Captions,
    pair: _Found,
    strictness: Strictness,
    most_negatives: int,
) -> MinedChange | None:
    """The question of a pair with all its targets, or None if too much or too little fits."""
    step, reference, target = pair.step, pair.reference, pair.target
    kept = np.flatnonzero(table.sure[reference] & table.close[target] & ~step.ignored)
    if step.new is not None:
        shows, lacks = table.mentioned[:, step.new], ~table.close[:, step.new]
    else:
        assert step.old is not None
        shows, lacks = ~table.close[:, step.old], table.sure[:, step.old]
    wrong = np.flatnonzero(table.close_by_fact[kept].all(axis=0) & lacks)
    wrong = wrong[wrong != reference]
    same = table.sure[np.ix_(wrong, kept)] @ table.weights[kept]
    negatives = wrong[np.argsort(-same, kind="stable")].tolist()
    targets = [i for i in pair.fitting.tolist() if i != target]
    decoys = int(shows.sum()) - len(targets) - 1
    if (
        len(negatives) < strictness.negatives
        or decoys < strictness.decoys * (len(targets) + 1)
        or len(targets) + 1 > strictness.most_targets
    ):
        return None
    subject, several = _subject(table, words, reference, target, step)
    old, new = (table.facts[fact].value if fact is not None else "" for fact in (step.old, step.new))
    fact = step.new if step.new is not None else step.old
    assert fact is not None
    photos = table.photos
    return MinedChange(
        reference=photos[reference],
        targets=tuple(photos[i] for i in [target, *targets]),
        kind=step.kind,
        old=old,
        new=new,
        of=about(table.facts[fact].slot),
        subject=subject,
        several=several,
        captions=(
            _stating(captions[photos[reference]], table.facts[step.old] if step.old is not None else None, words),
            _stating(captions[photos[target]], table.facts[step.new] if step.new is not None else None, words),
        ),
        negatives=tuple(photos[i] for i in negatives[:most_negatives]),
        agreement=pair.agreement,
    )


def _subject(table: FactTable, words: Recipe, reference: int, target: int, step: _Step) -> tuple[str, bool]:
    """The name of who is in both photos, and whether the target has several of them."""
    if step.kind == "who":
        assert step.new is not None
        who = [step.new]
    else:
        who = [
            i
            for i, fact in enumerate(table.facts)
            if fact.slot.startswith("who.") and table.sure[target, i] and table.close[reference, i]
        ]
    if len(who) != 1:
        return "", True
    name = table.facts[who[0]].value
    counts = [int(table.facts[i].value) for i in table.slots.get(f"count {name}", ()) if table.mentioned[target, i]]
    return name, not counts or max(counts) > 1


def _stating(captions: Sequence[str], fact: Fact | None, words: Recipe) -> str:
    """The shortest caption that states a fact."""
    fitting = [text for text in captions if fact is None or fact in caption_facts(text, words)]
    return min(fitting, key=lambda text: (len(text), text))


def _evenly(changes: Sequence[MinedChange], limit: int | None) -> list[MinedChange]:
    """The changes in order of their photos; `limit` of them, evenly over the kinds."""
    if limit is not None and len(changes) > limit:
        turn: Counter[str] = Counter()
        ranked = []
        for place, change in enumerate(changes):
            ranked.append((turn[change.kind], place))
            turn[change.kind] += 1
        changes = [changes[place] for _, place in sorted(ranked)[:limit]]
    return sorted(changes, key=lambda change: (change.reference, change.kind, change.old, change.new, change.targets))
