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
from cir.data.mining.facts import Fact, caption_facts
from cir.data.mining.recipe import Recipe, recipe
from cir.data.mining.table import FactTable, Flags, Places, about, fact_table, is_vague, slots_of_group

KINDS = ("who", "count", "colour", "place", "action", "thing", "with", "without")
WITH_GROUPS = ("thing.carried", "thing.ridden", "who.people", "who.animals")  # what may come or go
ALIKE = 0.94  # cosine of two pictures that are nearly the same
NEEDED = {"place": ("action",), "action": ("place",), "who": ("action",), "with": ("place",), "without": ("place",)}  # what must be the same by name
SIMILAR = 0.5  # what a fact counts where the other photo states one that is like it
WORDING = 0.3  # share of all words in the agreement
ALIKE_WORDING = 0.3  # cosine of two photos' words that is as good as any
DOUBT = 0.25  # what a fact counts that one caption of many states
UNRELATED = 0.2  # quantile of the cosines of all pairs below which two pictures have nothing to do with each other


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
    found = [pair for slot in table.slots for pair in _pairs_of_slot(table, slot, words, strictness, vectors)]
    kept = _spread(found, strictness, rng)
    changes = []
    for pair in kept:
        change = _question(table, words, captions, pair, strictness, most_negatives)
        if change is not None:
            changes.append(change)
    return _evenly(changes, limit)


def _pairs_of_slot(
    table: FactTable, slot: str, words: Recipe, strictness: Strictness, vectors: Mapping[str, NDArray[np.floating]] | None
) -> Iterator[_Found]:
    """All pairs of photos that differ in a slot."""
    kind = slot.split(".")[0].split()[0]
    members = table.slots[slot]
    sure = [i for i in members if table.sure[:, i].any() and not is_vague(table.facts[i], words)]
    if kind == "all" or not sure:
        return
    ignored = np.zeros(len(table.facts), bool)
    ignored[[*members, *slots_of_group(table, slot, words)]] = True
    if kind == "count":
        ignored[[i for i, fact in enumerate(table.facts) if fact.slot.startswith("all ")]] = True
    photos = np.flatnonzero(table.mentioned[:, sure].any(axis=1))
    agreement = _agreement(table, kind, ignored, photos, photos, strictness, vectors)
    row = np.full(len(table.photos), -1)
    row[photos] = np.arange(len(photos))
    for old in sure:
        close = set(table.like(old, words))
        for new in sure:
            if new not in close:
                references = np.flatnonzero(_shows(table, old, new, words))
                targets = np.flatnonzero(_shows(table, new, old, words, surely=False))
                if len(references) and len(targets):
                    part = agreement[np.ix_(row[references], row[targets])]
                    step = _Step(kind, old, new, ignored)
                    yield from _best(step, part, references, targets, table.sure[targets, new], strictness)
    if slot not in WITH_GROUPS:
        return
    for fact in sure:
        names = {table.facts[i].value for i in table.like(fact, words)}
        ignored = np.array(
            [f.value in names and f.slot == slot or about(f.slot) in names or f.slot == f"all {slot}" for f in table.facts]
        )
        surely = table.sure[:, fact]
        having, lacking = (np.flatnonzero(which) for which in (table.mentioned[:, fact], ~table.close[:, fact]))
        for step, references, targets in (
            (_Step("with", None, fact, ignored), lacking, having),
            (_Step("without", fact, None, ignored), np.flatnonzero(surely), lacking),
        ):
            part = _agreement(table, step.kind, ignored, references, targets, strictness, vectors)
            good = surely[targets] if step.kind == "with" else np.ones(len(targets), bool)
            yield from _best(step, part, references, targets, good, strictness)


def _best(
    step: _Step,
    agreement: NDArray[np.float32],
    references: Places,
    targets: Places,
    surely: Flags,
    strictness: Strictness,
) -> Iterator[_Found]:
    """For every reference the best targets, which surely show what is new."""
    enough = agreement >= strictness.agreement
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


def _agreement(
    table: FactTable,
    changed: str,
    ignored: Flags,
    references: Places,
    targets: Places,
    strictness: Strictness,
    vectors: Mapping[str, NDArray[np.floating]] | None,
) -> NDArray[np.float32]:
    """Share of the rest in which photos agree, by weight; 0 where they contradict each other."""
    rest = ~ignored
    sure_r, sure_t = table.sure[references], table.sure[targets]
    close_r, close_t = table.close[references], table.close[targets]
    some_r, some_t = table.mentioned[references], table.mentioned[targets]

    def matches(by: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return (sure_r * by) @ close_t.T.astype(np.float32), ((sure_t * by) @ close_r.T.astype(np.float32)).T

    weights = (table.weights * rest).astype(np.float32)
    sureness_r, sureness_t = (
        np.where(sure, 1, np.where(some, DOUBT, 0)).astype(np.float32) * weights
        for sure, some in ((sure_r, some_r), (sure_t, some_t))
    )
    exact_r, exact_t = (
        np.where(some, 1, np.where(close, SIMILAR, 0)).astype(np.float32)
        for some, close in ((some_r, close_r), (some_t, close_t))
    )
    agreed = sureness_r @ exact_t.T + (sureness_t @ exact_r.T).T
    agreement: NDArray[np.float32] = agreed / np.maximum(
        sureness_r.sum(axis=1)[:, None] + sureness_t.sum(axis=1)[None, :], 1e-6
    )
    wording = table.wording[references] @ table.wording[targets].T
    agreement = (1 - WORDING) * agreement + WORDING * np.minimum(1, wording / ALIKE_WORDING)
    kinds = np.array([fact.slot.split(".")[0].split()[0] for fact in table.facts])
    for kind in ("who", "place", "action"):
        of_kind = ((kinds == kind) & rest).astype(np.float32)
        there, here = matches(of_kind)
        n_r, n_t = (sure_r @ of_kind)[:, None], (sure_t @ of_kind)[None, :]
        if kind == "who":
            lost, come = there < n_r, here < n_t
            if changed in ("with", "without"):  # the others are the same, by name
                lost = (sure_r * of_kind) @ some_t.T.astype(np.float32) < n_r
                come = ((sure_t * of_kind) @ some_r.T.astype(np.float32)).T < n_t
            wrong = {"with": lost, "without": come}.get(changed, lost | come)
        else:
            wrong = (n_r > 0) & (n_t > 0) & ((there == 0) | (here == 0))
        agreement[wrong] = 0
    for kind in ("count", "colour", "all"):
        agreement[_clash(table, kind, rest, sure_r, sure_t, close_t)] = 0
    telling = np.isin(kinds, ("place", "action", "thing", "colour")) * weights
    both = (sure_r * telling.astype(np.float32)) @ some_t.T.astype(np.float32)
    both = np.maximum(both, ((sure_t * telling.astype(np.float32)) @ some_r.T.astype(np.float32)).T)
    agreement[both < strictness.shared] = 0
    for needed in NEEDED.get(changed, ()):
        of_kind = ((kinds == needed) & rest).astype(np.float32)
        shared = (sure_r * of_kind) @ some_t.T.astype(np.float32) + ((sure_t * of_kind) @ some_r.T.astype(np.float32)).T
        agreement[shared == 0] = 0
    if changed != "who":
        of_kind = ((kinds == "who") & rest).astype(np.float32)
        agreement[(sure_r * of_kind) @ sure_t.T.astype(np.float32) == 0] = 0
    agreement[references[:, None] == targets[None, :]] = 0
    if vectors is not None and len(references) and len(targets):
        of_r, of_t = (np.stack([vectors[table.photos[i]] for i in which]) for which in (references, targets))
        cosines = of_r @ of_t.T
        agreement[(cosines > ALIKE) | (cosines < np.quantile(cosines, UNRELATED))] = 0
    return agreement


def _clash(
    table: FactTable, kind: str, rest: Flags, sure_r: Flags, sure_t: Flags, close_t: Flags
) -> Flags:
    """Where photos have different numbers or colours of the same thing."""
    wrong = np.zeros((len(sure_r), len(sure_t)), bool)
    for slot, members in table.slots.items():
        if not slot.startswith(f"{kind} ") or not rest[members[0]]:
            continue
        a, b = sure_r[:, members], sure_t[:, members]
        if not a.any() or not b.any():
            continue
        shared = a.astype(np.float32) @ close_t[:, members].T.astype(np.float32)
        wrong |= a.any(axis=1)[:, None] & b.any(axis=1)[None, :] & (shared == 0)
    return wrong


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
