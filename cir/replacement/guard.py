"""Asking the anchors of an index while it is encoded again: half old, half new must not be worse than all old."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir.stats import lower_bound95
from cir.files import write_bytes
from cir.indexer.reading.gallery import Gallery
from cir.replacement.questions import Anchor, Kept, kept_anchors
from cir.replacement.gate import FLIPS
from cir.replacement.measure import MEASURES
from cir.search.searcher import Searcher
from cir.types import Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ranks = NDArray[np.int64]

CHECKS = (0.25, 0.5, 0.75)
K = max(MEASURES.values())
STATE = "backfill.json"


class Watch:
    """The kept anchors, asked before a backfill and whenever another quarter of the index is of the serving model.

    What was answered before, and which quarters passed, is remembered in the index, so that a backfill in many pieces
    is held against the same beginning, and one that was stopped is stopped again. Anchors that the mappings were fitted
    on are not asked: over those mappings they do better than others.

    Args:
        path: the index folder.
        index: opened, with its models at hand.
        margin: share of the anchors that may be lost on the way, certainly (95 %), before it is worth stopping.

    Attributes:
        seen: share of the index, such as "25 %" -> share of the anchors answered within 10 by the index as it was then.
    """

    def __init__(self, path: Path, index: Searcher, *, margin: float = 0.0) -> None:
        self._path, self._index, self._margin = path, index, margin
        gallery = index.gallery
        older = [entry.space for entry in gallery.manifest.segments if entry.space != gallery.space.id]
        # What nothing leads to is not searched yet: encoding it can only help.
        asked = any(space in gallery.mappings for space in older)
        kept = kept_anchors(path, gallery) if asked else Kept()
        self._anchors = _unseen(gallery, kept)
        mappings = sorted(entry.name for entry in gallery.manifest.mappings.values())
        self._about = {"model": gallery.card.digest, "anchors": kept.sha256, "mappings": mappings}
        self.seen: dict[str, float] = {}
        self._first = np.zeros(0, np.int64)
        self._passed = 0
        if self._anchors:
            self._begin()

    def worse(self) -> str:
        """Why to stop, if another quarter of the index is of the serving model now and answers are worse for it."""
        if not self._anchors:
            return ""
        gallery = Gallery.open(self._path)
        share = _share(gallery)
        due = _due(share)
        if due <= self._passed:
            return ""
        now = self._ask(gallery, f"{100 * share:.0f} %")
        for name, k in MEASURES.items():
            before, after = (np.float64((ranks > 0) & (ranks <= k)) for ranks in (self._first, now))
            loss = lower_bound95(before - after)
            if loss > self._margin:
                return f"of {len(now):,} anchors at least {100 * loss:.1f} % more are not answered any longer ({name})"
        lost = float(((self._first > 0) & (now == 0)).mean())
        if lost > FLIPS:
            return f"{100 * lost:.1f} % of {len(now):,} anchors were answered within {K} and are not any longer"
        self._passed = due
        self._write()
        return ""

    def _begin(self) -> None:
        share = _share(self._index.gallery)
        try:
            known = json.loads((self._path / STATE).read_bytes())
            if known["about"] == self._about and len(known["first"]) == len(self._anchors):
                self._first = np.array(known["first"], np.int64)
                # After a rollback less is of the serving model than was asked about.
                self._passed = min(int(known["passed"]), _due(share))
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a hint that is not there, or of another version
        self._first = self._ask(self._index.gallery, "before")
        self._passed = _due(share)
        self._write()

    def _write(self) -> None:
        told = {"about": self._about, "first": self._first.tolist(), "passed": self._passed}
        write_bytes(self._path / STATE, json.dumps(told).encode())

    def _ask(self, gallery: Gallery, when: str) -> Ranks:
        """(Q,) the rank of each anchor's first answer in a generation of the index, 0 where it is not within 10."""
        index = Searcher(gallery, self._index.encoder_of, note=False)
        queries = [Query((one.reference,) if one.reference else (), one.caption, k=K) for one in self._anchors]
        found = index.search_many(queries)
        ranks = np.array(
            [
                next((hit.rank for hit in result.hits if hit.id in one.targets), 0)
                for result, one in zip(found, self._anchors, strict=True)
            ]
        )
        self.seen[when] = round(float((ranks > 0).mean()), 4)
        return ranks


def _unseen(gallery: Gallery, kept: Kept) -> list[Anchor]:
    """The anchors that no mapping was fitted on."""
    fitted: set[str] = set()
    for mapping in gallery.mappings.values():
        if mapping.evidence.get("anchors sha256") == kept.sha256:
            fitted.update(mapping.evidence.get("fitted on", ()))
    return [one for one in kept.anchors if one.id not in fitted]


def _share(gallery: Gallery) -> float:
    """Share of the live images that the serving model has made."""
    return len(gallery.ids_in(gallery.space.id)) / max(1, len(gallery))


def _due(share: float) -> int:
    return sum(share >= check for check in CHECKS)
