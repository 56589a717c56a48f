"""Mining: from photos with captions to composed questions, each a reference, one change and all photos that fit."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cir.data.captioned import Captions
from cir.data.mining.agreement import Pictures
from cir.data.mining.facts import Fact
from cir.data.mining.pairs import STRICT, Pair, Strictness, all_pairs
from cir.data.mining.recipe import recipe
from cir.data.mining.table import FactTable, about, fact_table

KINDS = ("who", "count", "colour", "place", "action", "thing", "with", "without")
OFTEN = "whose reference, target or change came often enough"
FEW_NEGATIVES = "where hardly a photo shares the rest and lacks the change"
FEW_DECOYS = "where the change alone nearly tells the target"
MANY_TARGETS = "with too many targets"


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
        subject: who is in both photos, "" if unknown or several kinds.
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


def mine(
    captions: Captions,
    *,
    strictness: Strictness = STRICT,
    vectors: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    limit: int | None = None,
    seed: int = 0,
    most_negatives: int = 20,
    left_out: Counter[str] | None = None,
) -> list[MinedChange]:
    """Composed questions about photos with captions; the same for the same arguments.

    Args:
        captions: photo -> its captions.
        strictness: STRICT for questions that judge a model, LOOSE for training.
        vectors: photo -> unit vector; leaves out pairs that are nearly the same picture or have nothing in common.
        limit: number of questions, drawn evenly over the kinds; None for all.
        seed: of the draw.
        most_negatives: kept per question.
        left_out: counts pairs by the reason why they are no question.
    """
    words = recipe()
    table = fact_table(captions, words)
    reasons: Counter[str] = Counter() if left_out is None else left_out
    pairs = all_pairs(table, words, strictness, Pictures(table, vectors) if vectors is not None else None)
    changes = []
    for pair in _spread(pairs, strictness, random.Random(seed), reasons):
        right, wrong = _targets(table, pair), _negatives(table, pair)
        if reason := _refused(table, pair, len(right), len(wrong), strictness):
            reasons[reason] += 1
            continue
        changes.append(_change(table, captions, pair, right, wrong[:most_negatives]))
    return _evenly(changes, limit)


def _spread(pairs: Iterable[Pair], strictness: Strictness, rng: random.Random, left_out: Counter[str]) -> list[Pair]:
    """The best pairs such that no reference, target or change comes too often."""
    by_reference: Counter[int] = Counter()
    by_target: Counter[int] = Counter()
    by_change: Counter[tuple[str, int | None, int | None]] = Counter()
    asked = set()
    kept = []
    for pair in sorted(pairs, key=lambda pair: (-round(pair.agreement, 1), rng.random())):
        change = (pair.step.kind, pair.step.old, pair.step.new)
        if strictness.once and (pair.reference, change) in asked:
            continue
        if (
            by_reference[pair.reference] >= strictness.per_reference
            or by_target[pair.target] >= strictness.per_target
            or by_change[change] >= strictness.per_change
        ):
            left_out[OFTEN] += 1
            continue
        asked.add((pair.reference, change))
        by_reference[pair.reference] += 1
        by_target[pair.target] += 1
        by_change[change] += 1
        kept.append(pair)
    return kept


def _targets(table: FactTable, pair: Pair) -> list[int]:
    return [pair.target, *(row for row in pair.fitting.tolist() if row != pair.target)]


def _negatives(table: FactTable, pair: Pair) -> list[int]:
    """Photos that show all that reference and target share, and not what is new, the most similar first."""
    kept = np.flatnonzero(table.sure[pair.reference] & table.close[pair.target] & ~pair.step.ignored)
    lacking = ~table.close[:, pair.step.new] if pair.step.new is not None else table.sure[:, pair.step.old]
    wrong = np.flatnonzero(table.close_by_fact[kept].all(axis=0) & lacking)
    wrong = wrong[wrong != pair.reference]
    # Summed without BLAS, whose kernels round differently on each kind of CPU and may raise false alarms about NaNs.
    same = np.where(table.sure[np.ix_(wrong, kept)], table.weights[kept], 0).sum(axis=1)
    rows: list[int] = wrong[np.argsort(-same, kind="stable")].tolist()
    return rows


def _refused(table: FactTable, pair: Pair, targets: int, negatives: int, strictness: Strictness) -> str:
    """Why a pair makes no question, or ""."""
    step = pair.step
    showing = table.mentioned[:, step.new].sum() if step.new is not None else (~table.close[:, step.old]).sum()
    if targets > strictness.most_targets:
        return MANY_TARGETS
    if negatives < strictness.negatives:
        return FEW_NEGATIVES
    return FEW_DECOYS if showing - targets < strictness.decoys * targets else ""


def _change(
    table: FactTable, captions: Captions, pair: Pair, targets: Sequence[int], negatives: Sequence[int]
) -> MinedChange:
    old, new = (None if fact is None else table.facts[fact] for fact in (pair.step.old, pair.step.new))
    subject, several = _subject(table, pair)
    reference = table.photos[pair.reference]
    changed = new or old
    return MinedChange(
        reference=reference,
        targets=tuple(table.photos[row] for row in targets),
        kind=pair.step.kind,
        old=old.value if old else "",
        new=new.value if new else "",
        of=about(changed.slot) if changed else "",
        subject=subject,
        several=several,
        captions=(_stating(table, captions, pair.reference, old), _stating(table, captions, pair.target, new)),
        negatives=tuple(table.photos[row] for row in negatives),
        agreement=pair.agreement,
    )


def _subject(table: FactTable, pair: Pair) -> tuple[str, bool]:
    """The name of who is in both photos, and whether the target has several of them."""
    if pair.step.kind == "who" and pair.step.new is not None:
        who = [pair.step.new]
    else:
        both = table.sure[pair.target] & table.close[pair.reference]
        who = np.flatnonzero(both & (table.kinds == "who")).tolist()
    if len(who) != 1:
        return "", True
    name = table.facts[who[0]].value
    stated = [i for i in table.slots.get(f"count {name}", ()) if table.mentioned[pair.target, i]]
    return name, not stated or max(int(table.facts[i].value) for i in stated) > 1


def _stating(table: FactTable, captions: Captions, photo: int, fact: Fact | None) -> str:
    """The shortest caption of a photo that states a fact."""
    texts = zip(captions[table.photos[photo]], table.stated[photo], strict=True)
    return min((text for text, facts in texts if fact is None or fact in facts), key=lambda text: (len(text), text))


def _evenly(changes: Sequence[MinedChange], limit: int | None) -> list[MinedChange]:
    """The changes in the order of their photos; `limit` of them, evenly over the kinds."""
    if limit is not None and len(changes) > limit:
        turn: Counter[str] = Counter()
        ranked = []
        for place, change in enumerate(changes):
            ranked.append((turn[change.kind], place))
            turn[change.kind] += 1
        changes = [changes[place] for _, place in sorted(ranked)[:limit]]
    return sorted(changes, key=lambda change: (change.reference, change.kind, change.old, change.new, change.targets))
