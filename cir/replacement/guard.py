"""Regression guard for a backfill: re-evaluates the judged queries at 25, 50 and 75 % and says when recall has dropped.

A half re-indexed gallery can be worse than both the old and the fully re-indexed one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cir.arrays import Rows
from cir.data.judged_query import JudgedQuery
from cir.files import parse_json, read_regular, write_json
from cir.indexer.reading.gallery import Gallery
from cir.replacement import questions
from cir.replacement.gate import MAX_NEGATIVE_FLIP_RATE
from cir.replacement.measure import MEASURES
from cir.search.searcher import Searcher
from cir.stats import lower_bound95

CHECKS = (0.25, 0.5, 0.75)
DEPTH = max(MEASURES.values())


class RegressionGuard:
    """Evaluates the stored judged queries before a backfill and at each quarter of it.

    The first ranks and the last quarter passed are stored in the index, so that a backfill in many pieces is compared
    with the same beginning, and one that was stopped stays stopped. Queries that mappings were fitted on are left out:
    there the mappings do better than elsewhere.

    Args:
        searcher: the index, with its models.
        margin: share of the queries that may be lost, significantly (95 %), before the backfill should stop.

    Attributes:
        seen: "before", or the re-indexed share such as "25 %" -> "R@1" and "R@10" of the judged queries.
    """

    def __init__(self, searcher: Searcher, *, margin: float = 0.0) -> None:
        self._searcher, self._margin = searcher, margin
        gallery = searcher.gallery
        self._path: Path = gallery.folder.root
        self._state = gallery.folder.guard
        older = [entry.space for entry in gallery.manifest.segments if entry.space != gallery.space.id]
        # Images that no mapping reaches are not searched yet: encoding them can only help.
        reached = any(space in gallery.mappings for space in older)
        stored = questions.stored(gallery) if reached else questions.Questions()
        self._queries = _not_fitted_on(gallery, stored)
        mappings = sorted(entry.name for entry in gallery.manifest.mappings.values())
        self._about = {"model": gallery.card.digest, "questions": stored.sha256, "mappings": mappings}
        self.seen: dict[str, dict[str, float]] = {}
        self._first: Rows = np.zeros(0, np.int64)
        self._passed = 0
        if self._queries:
            self._begin()

    def regression(self) -> str:
        """Why to stop, if another quarter is re-indexed and recall has dropped significantly; otherwise empty."""
        if not self._queries:
            return ""
        gallery = Gallery.open(self._path, trust_roots=self._searcher.gallery.trust_roots, strict=True)
        share = _reindexed_share(gallery)
        due = _checks_due(share)
        if due <= self._passed:
            return ""
        ranks = self._evaluate(gallery, f"{100 * share:.0f} %")
        for name, k in MEASURES.items():
            before, after = (np.float64((given > 0) & (given <= k)) for given in (self._first, ranks))
            loss = lower_bound95(before - after)
            if loss > self._margin:
                return f"{name} of {len(ranks):,} judged queries has dropped by at least {100 * loss:.1f} points (95 %)"
        flips = float(((self._first > 0) & (ranks == 0)).mean())
        if flips > MAX_NEGATIVE_FLIP_RATE:
            return f"{100 * flips:.1f} % negative flips: answered within {DEPTH} before the backfill, and no longer"
        self._passed = due
        self._write()
        return ""

    def _begin(self) -> None:
        share = _reindexed_share(self._searcher.gallery)
        try:
            known = parse_json(read_regular(self._state, 1 << 28))
            if known["about"] == self._about and len(known["first"]) == len(self._queries):
                self._first = np.array(known["first"], np.int64)
                # After a rollback a smaller share is re-indexed than was evaluated.
                self._passed = min(int(known["passed"]), _checks_due(share))
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the state is only a hint; it may be missing or of another version
        self._first = self._evaluate(self._searcher.gallery, "before")
        self._passed = _checks_due(share)
        self._write()

    def _write(self) -> None:
        write_json(self._state, {"about": self._about, "first": self._first.tolist(), "passed": self._passed})

    def _evaluate(self, gallery: Gallery, when: str) -> Rows:
        """(Q,) the rank of each query's first target in a generation of the index, 0 if it is not within 10."""
        searcher = Searcher(gallery, self._searcher.encoder_of)
        exclude = [frozenset([query.reference]) for query in self._queries]
        ranked = searcher.rank(searcher.encode([query.query for query in self._queries]), DEPTH, exclude=exclude)
        ranks = np.array(
            [
                next((rank for rank, (image_id, _) in enumerate(hits, start=1) if image_id in query.targets), 0)
                for hits, query in zip(ranked, self._queries, strict=True)
            ]
        )
        self.seen[when] = {name: round(float(((ranks > 0) & (ranks <= k)).mean()), 4) for name, k in MEASURES.items()}
        return ranks


def _not_fitted_on(gallery: Gallery, stored: questions.Questions) -> list[JudgedQuery]:
    """The queries that no mapping was fitted on, and of which all images are judged: a backfill brings new hits."""
    fitted: set[str] = set()
    for mapping in gallery.mappings.values():
        if mapping.evidence and mapping.evidence.questions_sha256 == stored.sha256:
            fitted.update(mapping.evidence.fitted_on)
    return [query for query in stored.queries if query.id not in fitted and query.wrong is None]


def _reindexed_share(gallery: Gallery) -> float:
    """Share of the live images that the serving model has encoded."""
    return gallery.count_in(gallery.space.id) / max(1, len(gallery))


def _checks_due(share: float) -> int:
    return sum(share >= check for check in CHECKS)
