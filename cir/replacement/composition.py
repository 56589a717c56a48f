"""Asking the anchors of an index while it is encoded again: half old, half new must not be worse than all old."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir.eval.metrics import one_sided
from cir.indexer.gallery import Gallery
from cir.replacement.anchors import Anchor, kept_anchors
from cir.search import Index
from cir.types import Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHECKS = (0.25, 0.5, 0.75)
K = 10


class Watch:
    """The kept anchors, asked at the start and whenever another quarter is done.

    Attributes:
        seen: share done, such as "25 %" -> share of the anchors answered within 10 by the index as it was then.
    """

    def __init__(self, path: Path, index: Index) -> None:
        self._path, self._index = path, index
        self._anchors: list[Anchor] = kept_anchors(path, index.gallery)
        self._first: NDArray[np.bool_] | None = None
        self._checked = 0
        self.seen: dict[str, float] = {}
        older = any(entry.space != index.gallery.space.id for entry in index.gallery.manifest.segments)
        # Where nothing measured leads to a part of the gallery, it can only get better.
        if self._anchors and older and index.gallery.searchable.all():
            self._first = self._ask("0 %")

    def worse(self, done: float) -> str:
        """Why to stop now that so large a share is done; empty to go on."""
        due = sum(done >= share for share in CHECKS)
        if self._first is None or due == self._checked:
            return ""
        self._checked = due
        now = self._ask(f"{100 * CHECKS[due - 1]:.0f} %")
        loss = one_sided(self._first.astype(np.float64) - now)
        return f"of {len(now):,} anchors at least {100 * loss:.1f} % are no longer answered" if loss > 0 else ""

    def _ask(self, share: str) -> NDArray[np.bool_]:
        """(Q,) whether each anchor is answered by the index as it is on disk now."""
        index = Index(Gallery.open(self._path), self._index.encoder_of)
        queries = [Query((one.reference,) if one.reference else (), one.caption, k=K) for one in self._anchors]
        found = index.search_many(queries)
        hits = np.array(
            [
                any(hit.id in one.targets for hit in result.hits)
                for result, one in zip(found, self._anchors, strict=True)
            ]
        )
        self.seen[share] = round(float(hits.mean()), 4)
        return hits
