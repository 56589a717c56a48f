"""One segment as a gallery searches it: its live rows, and the search for candidates among them.

A segment may have been made by another model than the one that serves. Its mapping then decides in which space it is
searched, and puts its scores on the serving model's scale.
"""

from __future__ import annotations

import logging
from copy import copy
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored, unit
from cir.errors import MissingDependencyError
from cir.indexer.reading import token_codes
from cir.indexer.reading.ann import Ann, load_or_build, suits
from cir.indexer.reading.device_scan import MIN_BYTES, DeviceScan
from cir.indexer.reading.exact import best_of, rescore, scan
from cir.indexer.reading.token_codes import TokenCodes
from cir.indexer.storage.manifest import FileEntry
from cir.indexer.storage.mappings import mapped_folder, mapped_vectors
from cir.indexer.storage.segment import Segment
from cir.mappings import Maps, SpaceMapping
from cir.types import Encoded

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class LiveSegment:
    """The live rows of one segment.

    Args:
        segment: the open file.
        file: size and digest of that file; derived files are checked against it.
        live: (N,) which rows count; None for all.
        native: id of the serving model's space.
        mapping: how the serving model's queries reach a segment of another space; None for its own, or if there is
            no mapping and the segment is not searched.
        ann_min_rows: from how many vectors, or tokens without them, on an approximate index is used.
        device: the accelerator that scans exactly; None for the CPU.
        here: whether it is searched in this process. Elsewhere nothing that grows with its rows is read or made here.

    Attributes:
        segment: as given.
        query_space: id of the space that queries must be in.
        searchable: whether it is searched.
        candidate_field, rerank_field: what candidates are found by, and what ranks them: "vectors" or "tokens".
    """

    def __init__(
        self,
        segment: Segment,
        file: FileEntry,
        live: Mask | None,
        native: str,
        mapping: SpaceMapping | None,
        ann_min_rows: int,
        device: torch.device | None = None,
        here: bool = True,
    ) -> None:
        self.segment = segment
        self._live = live
        self._mapping = mapping
        self._derived: Path = segment.path.parent
        self._digest = file.sha256
        self._vectors = segment.vectors
        stored_space = segment.layout.space
        self.query_space = mapping.query_space(native) if mapping else stored_space
        self._maps = mapping is not None and mapping.maps is Maps.GALLERY and segment.vectors is not None
        self._here = here
        if mapping is not None and segment.vectors is not None and self._maps and here:
            self._derived = mapped_folder(self._derived, mapping)
            self._vectors, self._digest = mapped_vectors(self._derived, self._digest, segment.vectors, mapping)
        self.searchable = mapping is not None or stored_space == native
        self.candidate_field = "tokens" if self._vectors is None else "vectors"
        # Tokens of two models cannot be compared: they rank only what the serving model made.
        self.rerank_field = "tokens" if segment.tokens is not None and mapping is None else self.candidate_field
        self._ann_min_rows = max(1, ann_min_rows)
        self._ann: Ann | None = None
        self._codes: TokenCodes | None = None
        self._missing = False  # what is not there and cannot be made
        self._device = device
        self._on_device: dict[str, DeviceScan] = {}  # by field
        self._lock = Lock()

    def with_live(self, live: Mask | None) -> LiveSegment:
        """The same segment, and what was loaded for it, with other rows live."""
        other = copy(self)
        other._live = live
        return other

    def load(self) -> None:
        """Load what an approximate search needs, or make it; without this call the first search does."""
        if not self.searchable:
            return
        if self.candidate_field == "vectors" and suits(len(self.segment), self._ann_min_rows):
            self._load_ann()
        elif self.candidate_field == "tokens" and self._has_codes():
            self._load_codes()

    def scores(self, field: str, rows: Rows, query: Floats) -> Floats:
        """(n,) float32 scores of rows of the segment for one query, on the serving model's scale."""
        scores = rescore(self.stored(field), rows, query)
        return scores if self._mapping is None else self._mapping.calibrate(scores)

    def scores_of(self, encoded: Encoded, query: Floats) -> Floats:
        """(n,) float32 scores that n other pictures would have here, on the serving model's scale.

        Args:
            encoded: what the model that made this segment gives for them.
            query: (D,) float32, unit-norm, in `query_space`.
        """
        values = encoded.tokens if self.rerank_field == "tokens" else encoded.vectors
        assert values is not None  # a model gives what the segment that it made holds
        if values.ndim == 2 and self._mapping is not None and self._mapping.maps is Maps.GALLERY:
            values = self._mapping.map(values)
        scores = rescore(values, np.arange(len(values)), query)
        return scores if self._mapping is None else self._mapping.calibrate(scores)

    def vector(self, row: int) -> Floats:
        """(D,) float32, unit-norm, in `query_space`: the row's vector, or the mean of its tokens without one."""
        stored = self.segment.tokens if self._vectors is None else self._vectors
        assert stored is not None  # a segment has at least one of the two
        values = stored[row].astype(np.float32)
        if self._maps and not self._here and self._mapping is not None:  # as `mapped_vectors` stores them
            values = self._mapping.map(stored[row : row + 1])[0].astype(np.float16).astype(np.float32)
        return unit(values if values.ndim == 1 else values.mean(axis=0))

    def stored(self, field: str) -> Stored:
        """The segment's "vectors" or "tokens"."""
        stored = self.segment.tokens if field == "tokens" else self._vectors
        assert stored is not None  # callers use a field that the segment has
        return stored

    def candidates(
        self, queries: Floats, count: int, allowed: Mask | None, field: str, recall: float | None
    ) -> list[Rows]:
        """For each query the rows of the segment that may be among the best `count`, unordered.

        Args:
            queries: (B, D) float32, unit-norm.
            count: at least 1.
            allowed: (N,) rows that may be returned; None for all.
            field: what the rows are found by.
            recall: the share of the best rows that an approximate index must find; None for an exact scan.
        """
        usable = self._live if allowed is None else allowed if self._live is None else allowed & self._live
        left = len(self.segment) if usable is None else int(np.count_nonzero(usable))
        if not left:
            return [np.empty(0, np.int64)] * len(queries)
        found = None
        if recall is not None and field == self.candidate_field:
            near = self._near_tokens if field == "tokens" else self._near_vectors
            found = near(queries, count, recall, left, usable)
        return self._scan(field, queries, count, usable) if found is None else found

    def _scan(self, field: str, queries: Floats, count: int, usable: Mask | None) -> list[Rows]:
        """For each query the rows that may be among its best `count`, found exactly."""
        stored = self.stored(field)
        if self._device is None or stored.nbytes < MIN_BYTES:
            return scan(stored, queries, count, usable)
        with self._lock:
            if field not in self._on_device:
                self._on_device[field] = DeviceScan(stored, self._device)
        return self._on_device[field].scan(queries, count, usable)

    def _near_tokens(
        self, queries: Floats, count: int, recall: float, left: int, usable: Mask | None
    ) -> list[Rows] | None:
        """Candidates by the token codes; None where a scan is quicker."""
        if not self._has_codes():
            return None
        codes = self._load_codes()
        if codes is None or not codes.pay(left):
            return None
        return codes.search(queries, count, recall, usable)

    def _near_vectors(
        self, queries: Floats, count: int, recall: float, left: int, usable: Mask | None
    ) -> list[Rows] | None:
        """Candidates by the approximate index of vectors; None where a scan is quicker or the only way."""
        ann = self._load_ann() if suits(len(self.segment), self._ann_min_rows) else None
        effort = None if ann is None else ann.effort(count, left, recall)
        if ann is None or effort is None:
            return None
        return self._complete(ann.search(queries, count, effort, usable), queries, count, usable)

    def _complete(self, found: Rows, queries: Floats, count: int, usable: Mask | None) -> list[Rows]:
        """For each query rows from the approximate index; of a scan where the probed lists hold too few usable ones."""
        near = []
        for number, rows in enumerate(found):
            some = rows[rows >= 0]
            if len(some) < count:
                near += self._scan("vectors", queries[number : number + 1], count, usable)
            else:
                near.append(best_of(self.stored("vectors"), some, queries[number], count))
        return near

    def _has_codes(self) -> bool:
        """Whether it has so many tokens that they get codes."""
        tokens = self.stored("tokens")
        return bool(len(tokens) * tokens.shape[1] >= self._ann_min_rows)

    def _nothing_to_load(self) -> bool:
        """Whether there is no approximate index and none can be made, or it would be made for nothing."""
        if not self._missing and not self.segment.path.exists():
            self._missing = True  # a generation that is no longer kept
            log.warning("%s was removed, so it is searched exactly, which is slower", self.segment.path)
        return self._missing

    def _load_ann(self) -> Ann | None:
        with self._lock:
            if self._ann is None and not self._nothing_to_load():
                try:
                    self._ann = load_or_build(self._derived, self._digest, self.stored("vectors"))
                except MissingDependencyError as error:
                    self._missing = True  # the exact answer is only slower
                    log.warning("%s is searched exactly, which is slower: %s", self._derived, error)
            return self._ann

    def _load_codes(self) -> TokenCodes | None:
        with self._lock:
            if self._codes is None and not self._nothing_to_load():
                self._codes = token_codes.load_or_build(self._derived, self._digest, self.stored("tokens"))
                self._missing = self._codes is None
            return self._codes
