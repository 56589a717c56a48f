"""Pools: the first ten of both models for each marked query, which people judge before marks may decide anything.

Marks made on one model's hits favour that model: what the other one finds and nobody has judged would count as wrong.
So a query counts in a study only if the first ten of the current index and of a full re-index are all judged. The
routes are measured on condensed lists, from which unjudged images are left out (Sakai, "Alternatives to bpref", SIGIR
2007).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cir.arrays import Floats, Mask
from cir.data.judged_query import JudgedQuery
from cir.errors import UsageError
from cir.files import sha256_bytes
from cir.replacement.collect import Collected, SampleCollector, groups
from cir.replacement.gate import MIN_QUERIES
from cir.replacement.paired_sample import PairedSample, group_split, ranked
from cir.replacement.precheck import incompatibilities

DEPTH = 10  # hits of each model that are judged: as deep as R@10 looks


@dataclass(frozen=True)
class Pool:
    """What is to be judged for one query.

    Attributes:
        query: the marked query.
        unjudged: ids of those among the first ten of both models that nobody has judged, shuffled; in the same order
            when some are judged meanwhile.
    """

    query: JudgedQuery
    unjudged: Sequence[str]


@dataclass(frozen=True)
class Gaps:
    """What marks leave open.

    Attributes:
        marked: queries of which people have judged some images.
        open: those among them whose pool is not fully judged.
        images: unjudged images in those pools.
    """

    marked: int = 0
    open: int = 0
    images: int = 0

    @property
    def problem(self) -> str:
        """Why marks decide nothing, one line."""
        return (
            f"{self.open:,} of {self.marked:,} marked queries have hits that nobody has judged ({self.images:,} images "
            "among the first ten of both models); marks on one model's hits alone favour it, so they neither pass nor "
            "refuse"
        )


JUDGE_THEM = (
    "judge the hits of both models: `cir replace-model INDEX MODEL --judge-pool`, then `cir questions INDEX "
    "--from-marks`, and measure again"
)


def pools(
    collector: SampleCollector, spaces: Sequence[str], queries: Sequence[JudgedQuery], seed: int = 0
) -> list[Pool]:
    """What is to be judged before marks can decide about a new model; queries that are fully judged are left out.

    Args:
        collector: of the sample that a study would take.
        spaces: the older spaces of the index, in the order of a study.
        queries: from `marked`, those without a right answer too: the new model may find one.
        seed: of the study, and of the order.

    Raises:
        UsageError: too few queries to decide anything, or a model that no measurement would accept.
        MissingImageError: hardly any query has its photos.
    """
    if len(queries) < MIN_QUERIES:
        raise UsageError(
            f"{len(queries):,} queries are marked, {MIN_QUERIES} are needed before their pools are worth judging; mark "
            "hits of more queries: `cir query INDEX -t TEXT --judge`"
        )
    gallery = collector.searcher.gallery
    found: list[Pool] = []
    for number, space in enumerate(spaces):
        made_by, members = gallery.manifest.maker(space), set(gallery.ids_in(space))
        problems = incompatibilities(made_by, collector.encoder.card)
        if problems:
            raise UsageError("; ".join(problems))
        about = [query for query in queries if (query.targets | (query.wrong or frozenset())) & members]
        if not about:
            continue
        collected = collector.collect(made_by, about, np.random.default_rng([seed, number]))
        for query, row in zip(collected.queries, _unjudged(collected.sample), strict=True):
            ids = [collected.ids[place] for place in np.flatnonzero(row).tolist()]
            if ids:
                found.append(Pool(query, _shuffled(ids, query, seed)))
    return found


def fully_judged(collected: Collected, rng: np.random.Generator) -> tuple[Collected | None, Gaps]:
    """The queries that count: those of which all images are judged, and marked ones whose pool is.

    Args:
        collected: with marked queries or without.
        rng: draws the half of the queries that fits may see, among those that are left.

    Returns:
        As given where nothing is open; None where what is left is too little to pass or refuse a model.
    """
    marked = sum(query.wrong is not None for query in collected.queries)
    unjudged = _unjudged(collected.sample)
    whole: Mask = ~np.any(unjudged, axis=1)
    gaps = Gaps(marked, int((~whole).sum()), int(unjudged.sum()))
    if not gaps.open:
        return collected, gaps
    kept = [query for query, judged in zip(collected.queries, whole, strict=True) if judged]
    if len(kept) < MIN_QUERIES or len(set(groups(kept))) < 2:
        return None, gaps
    sample = _subset(collected.sample, whole, group_split(groups(kept), rng))
    return replace(collected, sample=sample, queries=kept), gaps


def dropped(sample: PairedSample, scores: Floats) -> float:
    """Share of the first ten by (Q, N) scores that nobody has judged, over the measured queries."""
    if sample.judged is None:
        return 0.0
    first, measured = _first(sample, scores), ~sample.fit_mask
    return float((first & ~sample.judged)[measured].sum() / max(1, first[measured].sum()))


def _shuffled(ids: Sequence[str], query: JudgedQuery, seed: int) -> list[str]:
    return sorted(ids, key=lambda name: sha256_bytes(json.dumps([seed, query.id, name]).encode()))


def _unjudged(sample: PairedSample) -> Mask:
    """(Q, N) the images among the first ten of both models that nobody has judged."""
    if sample.judged is None:
        return np.zeros_like(sample.relevant)
    unjudged: Mask = (_first(sample, sample.current) | _first(sample, sample.reindexed)) & ~sample.judged
    return unjudged


def _first(sample: PairedSample, scores: Floats) -> Mask:
    """(Q, N) the first ten of each query; its reference and images that are not searched are not among them."""
    first = np.zeros_like(sample.relevant)
    np.put_along_axis(first, ranked(scores, sample.references, DEPTH), True, axis=1)
    with_reference = np.flatnonzero(sample.references >= 0)
    first[with_reference, sample.references[with_reference]] = False
    searched: Mask = first & np.isfinite(scores)
    return searched


def _subset(sample: PairedSample, rows: Mask, fit_mask: Mask) -> PairedSample:
    """A sample with some of its queries; `fit_mask` is of those."""

    def of(values: Floats | None) -> Floats | None:
        return None if values is None else values[rows]

    return replace(
        sample,
        old_queries=of(sample.old_queries),
        new_queries=sample.new_queries[rows],
        head_queries=of(sample.head_queries),
        new_states=of(sample.new_states),
        current=sample.current[rows],
        references=sample.references[rows],
        relevant=sample.relevant[rows],
        judged=None if sample.judged is None else sample.judged[rows],
        slices={name: members[rows] for name, members in sample.slices.items()},
        fit_mask=fit_mask,
    )
