"""The live rows of one segment, and how candidates are found in it: a scan, or an approximate index.

A segment may have been made by another model than the one that serves. Its edge then says in which space it is asked,
and puts its scores on the serving model's scale.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

import numpy as np

from cir.errors import MissingDependencyError
from cir.indexer.ann import Ann, load_or_build
from cir.indexer.edges import carried
from cir.indexer.manifest import GALLERY, SEGMENTS, SegmentEntry
from cir.indexer.scoring import Floats, Mask, Rows, rescore, scan
from cir.indexer.store import Segment, Stored
from cir.types import Edge

_ANN_OVERFETCH = 4  # the approximate order is that of 8-bit codes

log = logging.getLogger(__name__)


class Slice:
    """The live rows of one segment, ascending there: `places` in the segment, `live` in the gallery.

    Attributes:
        space: id of the space that its queries must be in.
        chooses, decides: what finds candidates, and what ranks them: "vectors" or "tokens".
    """

    def __init__(
        self,
        entry: SegmentEntry,
        segment: Segment,
        index: Path,
        live: Rows,
        place: Rows,
        ann_min_rows: int,
        native: str,
        edge: Edge | None = None,
        edge_name: str = "",
    ) -> None:
        order = np.argsort(place[live])
        self.segment = segment
        self.live = live[order]
        self.places = place[self.live]
        self._edge = edge
        self._folder = index / SEGMENTS / entry.name
        self._digest = entry.files[GALLERY].sha256
        self._vectors = segment.vectors
        self.space = native if edge is None or edge.route == "transform" else entry.space
        if edge is not None and edge.route == "transform" and segment.vectors is not None:
            self._folder = self._folder / f"{edge.model}--{edge.space}"
            self._vectors, self._digest = carried(self._folder, self._digest, edge_name, segment.vectors, edge)
        self.chooses = "tokens" if self._vectors is None else "vectors"
        # Tokens belong to one model: they rank what the serving model made, and galleries of nothing else.
        self.decides = "tokens" if segment.tokens is not None and edge is None else self.chooses
        self._ann_min_rows = max(1, ann_min_rows)
        self._ann: Ann | None = None
        self._ann_missing = self._vectors is None
        self._lock = Lock()

    def scores(self, kind: str, places: Rows, query: Floats) -> Floats:
        """(n,) float32 scores of rows of the segment for one query of `space`, on the serving model's scale."""
        scores = rescore(self.stored(kind), places, query)
        return scores if self._edge is None else scores * self._edge.slope + self._edge.intercept

    def vector(self, place: int) -> Floats:
        """(D,) float32, unit-norm, in `space`: the row's vector, or the mean of its tokens if there are no vectors."""
        stored = self.segment.tokens if self._vectors is None else self._vectors
        assert stored is not None  # a segment has at least one of the two
        values = stored[place].astype(np.float32)
        mean: Floats = values if values.ndim == 1 else values.mean(axis=0)
        unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return unit

    def stored(self, kind: str) -> Stored:
        """The segment's "vectors" or "tokens"."""
        stored = self.segment.tokens if kind == "tokens" else self._vectors
        assert stored is not None  # the gallery asks only for what its segments have
        return stored

    def candidates(self, queries: Floats, count: int, allowed: Mask | None, kind: str, exact: bool) -> list[Rows]:
        """For each query the rows of the gallery that may be among the best `count`."""
        picked = slice(None) if allowed is None else allowed[self.live]
        live, places = self.live[picked], self.places[picked]
        # With few rows left by the filter the exact scan is quick, and an approximate one would miss.
        if not exact and kind == "vectors" and len(places) >= max(self._ann_min_rows, 2 * _ANN_OVERFETCH * count):
            ann = self._load_ann()
            if ann is not None:
                return self._approximate(ann, queries, count, live, places)
        return [live[np.searchsorted(places, rows)] for rows in scan(self.stored(kind), places, queries, count)]

    def _approximate(self, ann: Ann, queries: Floats, count: int, live: Rows, places: Rows) -> list[Rows]:
        usable = None
        if len(places) < len(self.segment):
            usable = np.zeros(len(self.segment), np.bool_)
            usable[places] = True
        best = []
        for number, found in enumerate(ann.search(queries, _ANN_OVERFETCH * count, usable)):
            rows = found[found >= 0]
            if len(rows) < count:  # the probed lists hold too few usable rows
                rows = scan(self.stored("vectors"), places, queries[number : number + 1], count)[0]
            best.append(live[np.searchsorted(places, rows)])
        return best

    def _load_ann(self) -> Ann | None:
        with self._lock:
            if self._ann is None and not self._ann_missing:
                try:
                    self._ann = load_or_build(self._folder, self._digest, self.stored("vectors"))
                except MissingDependencyError as error:
                    self._ann_missing = True  # the exact answer is only slower
                    log.warning("%s is searched exactly, which is slower: %s", self._folder, error)
            return self._ann
