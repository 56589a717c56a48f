"""A read-only snapshot of an index: its live images, and the search over them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.conditions import Condition
from cir.errors import SpaceMismatchError, UsageError
from cir.images.names import canonical_id
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.reading.live_segment import LiveSegment
from cir.indexer.reading.ranking import Ranking, RankingOptions
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import open_segment, read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mappings import read_mapping
from cir.indexer.storage.segment import Layout, Segment
from cir.known import is_known, known_roots
from cir.query_vectors import QueryVectors


class Gallery:
    """The images of one generation of an index. Safe to share between threads; later builds do not change it.

    Attributes:
        folder: the index folder.
        manifest: the generation.
        card: the model that serves it.
        space: that model's own space.
        mappings: how its queries reach segments of other spaces, by space id.
        query_spaces: ids of the spaces in which a query needs a vector.
        ids: N live ids, ascending; the position of an id is its row.
        searchable: (N,) bool, False for an image of a space that no mapping reaches.
        layout: what rows of the serving model are stored as.
        untrusted_roots: where images were indexed, as far as this user has not done so; no photo is read there.
    """

    def __init__(
        self,
        folder: IndexFolder,
        manifest: Manifest,
        segments: Sequence[Segment],
        ann_min_rows: int,
        untrusted: frozenset[str],
    ) -> None:
        """Use `Gallery.open`."""
        self.folder = folder
        self.manifest = manifest
        self.untrusted_roots = untrusted
        self.card = manifest.card
        self.space = manifest.space
        native = [segment.layout for segment in segments if segment.layout.space == self.space.id]
        precision = segments[0].layout.precision if segments else "float16"
        self.layout = native[0] if native else Layout.of(self.card, precision=precision)
        self.mappings = {space: read_mapping(folder, entry) for space, entry in manifest.mappings.items()}
        live = [manifest.live_rows(entry) for entry in manifest.segments]
        self.ids, self._segment_of_row, self._row_in_segment = _live_rows(segments, live)
        self._segments = []
        for number, (entry, segment) in enumerate(zip(manifest.segments, segments, strict=True)):
            gallery_rows = np.flatnonzero(self._segment_of_row == number)
            self._segments.append(
                LiveSegment(
                    segment,
                    entry.files[segment.path.name],
                    self._row_in_segment[gallery_rows],
                    gallery_rows,
                    self.space.id,
                    None if entry.space == self.space.id else self.mappings.get(entry.space),
                    ann_min_rows,
                )
            )
        # The last entry serves an empty gallery, whose index arrays are empty.
        searched = np.array([*(segment.searchable for segment in self._segments), False], np.bool_)
        self.searchable: Mask = searched[self._segment_of_row]
        self._ranking = Ranking(self._segments, self._segment_of_row, self._row_in_segment)
        self.query_spaces = self._ranking.query_spaces or (self.space.id,)

    @classmethod
    def open(cls, path: str | Path, *, ann_min_rows: int = ANN_MIN_ROWS, trust_roots: bool = False) -> Gallery:
        """Open the live generation of an index.

        Args:
            path: the index folder.
            ann_min_rows: segments of at least this many vectors are searched approximately.
            trust_roots: read photos also below folders that this user has not indexed (`cir.known`): somebody else may
                have made the index.

        Raises:
            IndexFormatError: there is no index at this path; IndexVersionError: another version wrote it.
            CorruptIndexError: a file is missing, has another size than it had, or cannot be read.
        """
        folder = IndexFolder(Path(path))
        manifest = read_manifest(folder)
        segments = [open_segment(folder, entry) for entry in manifest.segments]
        known = known_roots()
        roots = {root for segment in segments for root in segment.root_names} if not trust_roots else set()
        untrusted = frozenset(root for root in roots if not is_known(root, known))
        return cls(folder, manifest, segments, ann_min_rows, untrusted)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._find(image_id) is not None

    @property
    def path(self) -> Path:
        """The index folder."""
        return self.folder.root

    def row(self, image_id: str) -> int:
        """The row of an id. Raises UsageError when the gallery has no such image."""
        row = self._find(image_id)
        if row is None:
            raise UsageError(
                f"no image {image_id!r} in {self.folder}; ids are paths relative to the folder that was indexed"
            )
        return row

    def image(self, image_id: str) -> StoredImage:
        """One image. Raises UsageError when the gallery has no such image."""
        row = self.row(image_id)
        segment = self._segments[self._segment_of_row[row]]
        image = StoredImage(self.ids[row], self.folder, segment, int(self._row_in_segment[row]))
        return image if image.root not in self.untrusted_roots else replace(image, trusted=False)

    def ids_in(self, space: str) -> list[str]:
        """Ids of the live images whose stored vectors are of a space, ascending."""
        inside = [number for number, live in enumerate(self._segments) if live.segment.layout.space == space]
        return [self.ids[row] for row in np.flatnonzero(np.isin(self._segment_of_row, inside))]

    def ids_of(self, digest: bytes) -> list[str]:
        """The images whose file has this SHA-256, by ascending id."""
        wanted = np.frombuffer(digest, np.uint8)
        rows: list[int] = []
        for live in self._segments:
            same = (live.segment.digests == wanted).all(axis=1)
            rows.extend(live.gallery_rows[same[live.rows]].tolist())
        return [self.ids[row] for row in sorted(rows)]

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns."""
        return sorted({column for live in self._segments for column in live.segment.metadata})

    def select(self, where: Sequence[Condition | tuple[str, str]]) -> Mask:
        """(N,) bool: which images meet every condition.

        Args:
            where: conditions; a pair (column, value) stands for `column=value`.

        Raises:
            UsageError: there is no such column or operator.
        """
        mask = np.ones(len(self), np.bool_)
        columns = self.columns if where else []
        for condition in (Condition(*pair) for pair in where):
            if condition.column not in columns:
                known = f"there are: {', '.join(columns)}" if columns else "it has none; build it with --metadata"
                raise UsageError(f"no metadata column {condition.column!r} in {self.folder}; {known}")
            for live in self._segments:
                column = live.segment.metadata.get(condition.column)
                met = condition.matches([""])[0] if column is None else column.matching(condition.matches)[live.rows]
                mask[live.gallery_rows] &= met
        return mask

    def scores(self, queries: QueryVectors, ids: Sequence[str]) -> Floats:
        """(B, n) float32 scores of some images as a search would give them; -inf for an image that is not searched.

        Args:
            queries: B unit-norm queries, in every space of `query_spaces`.
            ids: n images.
        """
        return self._ranking.scores(queries, np.array([self.row(image_id) for image_id in ids], np.int64))

    def search(
        self, queries: QueryVectors, options: RankingOptions, *, exclude: Sequence[Collection[str]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """The k best images for each query, by inner product; with tokens by the best of an image's T.

        Filters are applied before the cut: k hits come back whenever that many images are left. Vectors of two spaces
        are never compared: each segment is searched in its own space, and scores are mapped to the serving model's
        scale.

        Args:
            queries: B unit-norm queries, in every space of `query_spaces`.
            options: k, which images are allowed (a mask from `select`), exact or approximate.
            exclude: B collections of ids that may not be hits; unknown ids are ignored.

        Returns:
            B lists of (id, score), best first, ties by ascending id.

        Raises:
            SpaceMismatchError: the queries are in other spaces than the vectors.
            UsageError: k below 1, queries of another shape or with NaN, a mask or exclusions that do not fit.
        """
        self._check(queries, options, exclude)
        barred = exclude if exclude is not None else [()] * len(queries)
        ranked = self._ranking.search(queries, options, [self._rows_of(ids) for ids in barred])
        return [
            [(self.ids[row], float(score)) for row, score in zip(rows, scores, strict=True)] for rows, scores in ranked
        ]

    def _check(self, queries: QueryVectors, options: RankingOptions, exclude: Sequence[Collection[str]] | None) -> None:
        given, needed = set(queries.by_space), set(self.query_spaces)
        if given != needed:
            raise SpaceMismatchError(
                f"the query is in space {', '.join(sorted(given)) or 'none'}, but {self.folder} is served by model "
                f"{self.card.name} and searched in {', '.join(self.query_spaces)}; query with that model, or rebuild: "
                "cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
            )
        if options.k < 1:
            raise UsageError(f"k is {options.k}; ask for at least 1 hit")
        count, allowed = len(queries), options.allowed
        for space, vectors in queries.by_space.items():
            dims = self.manifest.spaces[space].dims
            if vectors.ndim != 2 or vectors.shape != (count, dims):
                raise UsageError(f"queries have shape {vectors.shape}; {self.folder} needs (B, {dims})")
            if not np.isfinite(vectors).all():
                raise UsageError("a query has values that are not finite; check the model and its input")
        if allowed is not None and (allowed.shape != (len(self),) or allowed.dtype != np.bool_):
            raise UsageError(f"the mask has shape {allowed.shape}, type {allowed.dtype}; it needs ({len(self)},) bool")
        if exclude is not None and len(exclude) != count:
            raise UsageError(f"{len(exclude)} sets of excluded ids for {count} queries; give one each")

    def _find(self, name: str) -> int | None:
        for image_id in dict.fromkeys([name, _canonical(name)]):
            row = bisect_left(self.ids, image_id)
            if row < len(self.ids) and self.ids[row] == image_id:
                return row
        return None

    def _rows_of(self, ids: Collection[str]) -> Rows:
        rows = {row for row in map(self._find, ids) if row is not None}
        return np.fromiter(rows, np.int64, len(rows))


def _canonical(name: str) -> str:
    try:
        return canonical_id(name)
    except ValueError:
        return name


def _live_rows(segments: Sequence[Segment], live: Sequence[Mask]) -> tuple[list[str], Rows, Rows]:
    """Ids of all live rows in ascending order, and for each the number of its segment and its row there."""
    ids: list[str] = []
    numbers: list[Rows] = []
    places: list[Rows] = []
    for number, (segment, counts) in enumerate(zip(segments, live, strict=True)):
        rows = np.flatnonzero(counts)
        ids.extend(compress(segment.ids, counts.tolist()))
        places.append(rows)
        numbers.append(np.full(len(rows), number, np.int64))
    if not ids:
        return [], np.empty(0, np.int64), np.empty(0, np.int64)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [ids[row] for row in order], np.concatenate(numbers)[order], np.concatenate(places)[order]
