"""Asking the anchors of an index while it is encoded again: half old, half new must not be worse than all old."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir.eval.metrics import one_sided
from cir.indexer.durable import write_bytes
from cir.indexer.gallery import Gallery
from cir.replacement.anchors import Anchor, digest, kept_anchors
from cir.search import Index
from cir.types import Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHECKS = (0.25, 0.5, 0.75)
K = 10
STATE = "backfill.json"


class Watch:
    """The kept anchors, asked before a backfill and whenever another quarter of the index is of the serving model.

    What was answered before, and which quarters were asked, is remembered in the index, so that a backfill in many
    pieces is held against the same beginning.

    Attributes:
        seen: share of the index, such as "25 %" -> share of the anchors answered within 10 by the index as it was then.
    """

    def __init__(self, path: Path, index: Index) -> None:
        self._path, self._index = path, index
        gallery = index.gallery
        self._anchors: list[Anchor] = []
        self.seen: dict[str, float] = {}
        older = any(entry.space != gallery.space.id for entry in gallery.manifest.segments)
        # Where nothing measured leads to a part of the gallery, it can only get better.
        if older and gallery.searchable.all():
            self._anchors, _ = kept_anchors(path, gallery)
        self._about = {"model": gallery.card.digest, "anchors": digest(self._anchors)}
        self._first: list[bool] = []
        self._checked = 0
        if self._anchors:
            self._begin()

    def worse(self, share: float) -> str:
        """Why to stop now that so large a share of the index is of the serving model; empty to go on."""
        due = sum(share >= check for check in CHECKS)
        if not self._anchors or due <= self._checked:
            return ""
        now = self._ask(f"{100 * share:.0f} %")
        self._checked = due
        self._write()
        loss = one_sided(np.asarray(self._first, np.float64) - now)
        return f"of {len(now):,} anchors at least {100 * loss:.1f} % are no longer answered" if loss > 0 else ""

    def _begin(self) -> None:
        try:
            known = json.loads((self._path / STATE).read_bytes())
            if known["about"] == self._about and len(known["first"]) == len(self._anchors):
                self._first, self._checked = known["first"], known["checked"]
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a hint that is not there, or of another version
        self._first = self._ask("before").tolist()
        self._write()

    def _write(self) -> None:
        told = {"about": self._about, "first": self._first, "checked": self._checked}
        write_bytes(self._path / STATE, json.dumps(told).encode())

    def _ask(self, when: str) -> NDArray[np.bool_]:
        """(Q,) whether each anchor is answered by the index as it is on disk now."""
        index = Index(Gallery.open(self._path), self._index.encoder_of, note=False)
        queries = [Query((one.reference,) if one.reference else (), one.caption, k=K) for one in self._anchors]
        found = index.search_many(queries)
        hits = np.array(
            [
                any(hit.id in one.targets for hit in result.hits)
                for result, one in zip(found, self._anchors, strict=True)
            ]
        )
        self.seen[when] = round(float(hits.mean()), 4)
        return hits
