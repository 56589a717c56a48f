"""The live rows of one segment, and the search for candidates in it: a scan, or an approximate index.

A segment may have been made by another model than the one that serves. Its mapping then decides in which space it is
searched, and puts its scores on the serving model's scale.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored, unit
from cir.errors import MissingDependencyError
from cir.indexer.reading.ann import Ann, load_or_build
from cir.indexer.reading.exact import rescore, scan
from cir.indexer.storage.manifest import FileEntry
from cir.indexer.storage.mappings import mapped_vectors
from cir.indexer.storage.segment import Segment
from cir.mappings import Maps, SpaceMapping

_ANN_OVERFETCH = 4  # the approximate order is that of 8-bit codes

log = logging.getLogger(__name__)


class LiveSegment:
    """The live rows of one segment.

    Args:
        segment: the open file.
        file: size and digest of that file; derived files are checked against it.
        rows: (n,) row in the segment of each live image.
        gallery_rows: (n,) row in the gallery of the same images.
        native: id of the serving model's space.
        mapping: how the serving model's queries reach a segment of another space; None for its own, or if there is
            no mapping and the segment is not searched.
        ann_min_rows: from how many rows on an approximate index is used.

    Attributes:
        rows, gallery_rows: as given, ascending by row in the segment.
        query_space: id of the space that queries must be in.
        candidate_field, rerank_field: what candidates are found by, and what ranks them: "vectors" or "tokens".
    """

    def __init__(
        self,
        segment: Segment,
        file: FileEntry,
        rows: Rows,
        gallery_rows: Rows,
        native: str,
        mapping: SpaceMapping | None,
        ann_min_rows: int,
    ) -> None:
        order = np.argsort(rows)
        self.segment = segment
        self.rows = rows[order]
        self.gallery_rows = gallery_rows[order]
        self._mapping = mapping
        self._derived: Path = segment.path.parent
        self._digest = file.sha256
        self._vectors = segment.vectors
        stored_space = segment.layout.space
        self.query_space = mapping.query_space(native) if mapping else stored_space
        if mapping is not None and mapping.maps is Maps.GALLERY and segment.vectors is not None:
            self._derived = self._derived / f"{mapping.model}--{mapping.space}"
            self._vectors, self._digest = mapped_vectors(self._derived, self._digest, segment.vectors, mapping)
        self.searchable = mapping is not None or stored_space == native
        self.candidate_field = "tokens" if self._vectors is None else "vectors"
        # Tokens of two models cannot be compared: they rank only what the serving model made.
        self.rerank_field = "tokens" if segment.tokens is not None and mapping is None else self.candidate_field
        self._ann_min_rows = max(1, ann_min_rows)
        self._ann: Ann | None = None
        self._ann_missing = self._vectors is None
        self._lock = Lock()

    def scores(self, field: str, rows: Rows, query: Floats) -> Floats:
        """(n,) float32 scores of rows of the segment for one query, on the serving model's scale."""
        scores = rescore(self.stored(field), rows, query)
        return scores if self._mapping is None else self._mapping.calibrate(scores)

    def vector(self, row: int) -> Floats:
        """(D,) float32, unit-norm, in `query_space`: the row's vector, or the mean of its tokens without one."""
        stored = self.segment.tokens if self._vectors is None else self._vectors
        assert stored is not None  # a segment has at least one of the two
        values = stored[row].astype(np.float32)
        return unit(values if values.ndim == 1 else values.mean(axis=0))

    def stored(self, field: str) -> Stored:
        """The segment's "vectors" or "tokens"."""
        stored = self.segment.tokens if field == "tokens" else self._vectors
        assert stored is not None  # callers use a field that the segment has
        return stored

    def candidates(self, queries: Floats, count: int, allowed: Mask | None, field: str, exact: bool) -> list[Rows]:
        """For each query the gallery rows that may be among the best `count`, unordered."""
        picked = slice(None) if allowed is None else allowed[self.gallery_rows]
        gallery_rows, rows = self.gallery_rows[picked], self.rows[picked]
        # With few rows left by the filter the exact scan is quick, and an approximate one would miss some.
        if not exact and field == "vectors" and len(rows) >= max(self._ann_min_rows, 2 * _ANN_OVERFETCH * count):
            ann = self._load_ann()
            if ann is not None:
                return [gallery_rows[np.searchsorted(rows, best)] for best in self._near(ann, queries, count, rows)]
        return [gallery_rows[np.searchsorted(rows, best)] for best in scan(self.stored(field), rows, queries, count)]

    def _near(self, ann: Ann, queries: Floats, count: int, rows: Rows) -> list[Rows]:
        """For each query rows of the segment from the approximate index, all of them among `rows`."""
        usable = None
        if len(rows) < len(self.segment):
            usable = np.zeros(len(self.segment), np.bool_)
            usable[rows] = True
        near = []
        for number, found in enumerate(ann.search(queries, _ANN_OVERFETCH * count, usable)):
            best = found[found >= 0]
            if len(best) < count:  # the probed lists hold too few usable rows
                best = scan(self.stored("vectors"), rows, queries[number : number + 1], count)[0]
            near.append(best)
        return near

    def _load_ann(self) -> Ann | None:
        with self._lock:
            if self._ann is None and not self._ann_missing:
                try:
                    self._ann = load_or_build(self._derived, self._digest, self.stored("vectors"))
                except MissingDependencyError as error:
                    self._ann_missing = True  # the exact answer is only slower
                    log.warning("%s is searched exactly, which is slower: %s", self._derived, error)
            return self._ann
