"""A read-only snapshot of an index: its live images, and the search over them.

Live images are numbered by ascending id across all segments, so "ties are broken by id" is "the lower number
first", and neither the order of building nor the number of segments shows in an answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from cir.errors import CorruptIndexError, SpaceMismatchError, UsageError
from cir.images import ImageFile, locate
from cir.indexer.ann import ANN_MIN_ROWS
from cir.indexer.manifest import Manifest, open_segment, read_manifest
from cir.indexer.scoring import Floats, Mask, Rows, rescore
from cir.indexer.slices import Slice
from cir.indexer.store import Layout, Segment

_QUERIES_AT_ONCE = 256


class Gallery:
    """The images of one generation of an index. Safe to share between threads; later builds do not change it.

    Attributes:
        path: the index folder.
        manifest: the generation.
        card: the model that serves it; queries must come from the same space.
        space: that space.
        ids: N live ids, ascending; the position of an id is its row.
        has_vectors: whether each image has one vector.
        has_tokens: whether each image has tokens, which then decide the ranking.
        precision: "float16" or "float32", of what is stored.
    """

    def __init__(self, path: Path, manifest: Manifest, segments: Sequence[Segment], ann_min_rows: int) -> None:
        """Use `Gallery.open`."""
        self.path = path
        self.manifest = manifest
        self.card = manifest.card
        self.space = manifest.space
        layout = segments[0].layout if segments else Layout.of(self.card)
        self.has_vectors = layout.vectors
        self.has_tokens = layout.tokens > 0
        self.precision = layout.precision
        deleted = [set(manifest.deleted.get(entry.name, ())) for entry in manifest.segments]
        self.ids, self._home, self._place = _live_rows(segments, deleted)
        self._slices = [
            Slice(entry, segment, path, np.flatnonzero(self._home == number), self._place, ann_min_rows)
            for number, (entry, segment) in enumerate(zip(manifest.segments, segments, strict=True))
        ]

    @classmethod
    def open(cls, path: str | Path, *, ann_min_rows: int = ANN_MIN_ROWS) -> Gallery:
        """Open the live generation of an index.

        Args:
            path: the index folder.
            ann_min_rows: segments of at least so many vectors are searched approximately.

        Raises:
            IndexFormatError: there is no index at this path; IndexVersionError: a newer version wrote it.
            CorruptIndexError: a file is missing, has another size than it had, or cannot be read.
        """
        path = Path(path)
        manifest = read_manifest(path)
        segments = [open_segment(path, entry) for entry in manifest.segments]
        for segment in segments:
            if not segment.layout.fits(segments[0].layout) or segment.layout.space != manifest.space.id:
                raise CorruptIndexError(
                    f"{segment.path} holds other vectors than {manifest.card.name} gives; build again"
                )
        return cls(path, manifest, segments, ann_min_rows)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._find(image_id) is not None

    @property
    def model_path(self) -> str | None:
        """Where the model lay when the index was built; a hint."""
        return self.manifest.model_paths.get(self.card.digest)

    def row(self, image_id: str) -> int:
        """The row of an id. Raises UsageError when the gallery has no such image."""
        row = self._find(image_id)
        if row is None:
            raise UsageError(
                f"no image {image_id!r} in {self.path}; ids are paths relative to the folder that was indexed"
            )
        return row

    def vector(self, image_id: str) -> Floats:
        """(D,) float32, unit-norm: the image's vector, or the mean of its tokens if there are no vectors."""
        segment, place = self._stored(image_id)
        values = segment.stored[place].astype(np.float32)
        mean: Floats = values if values.ndim == 1 else values.mean(axis=0)
        unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return unit

    def tokens(self, image_id: str) -> Floats:
        """(T, D) float32, unit-norm. Raises UsageError when the index has no tokens."""
        segment, place = self._stored(image_id)
        if segment.tokens is None:
            raise UsageError(f"{self.path} holds no tokens; use the vectors, or build it again with tokens")
        tokens: Floats = segment.tokens[place].astype(np.float32)
        return tokens

    def ids_of(self, digest: bytes) -> list[str]:
        """The images whose file has this SHA-256, by ascending id."""
        wanted = np.frombuffer(digest, np.uint8)
        rows: list[int] = []
        for part in self._slices:
            same = (part.segment.digests == wanted).all(axis=1)
            rows.extend(part.live[same[part.places]].tolist())
        return [self.ids[row] for row in sorted(rows)]

    def metadata(self, image_id: str) -> dict[str, str]:
        """Column -> value of one image; columns without a value are left out."""
        segment, place = self._stored(image_id)
        return segment.metadata_of(place)

    def root(self, image_id: str) -> str:
        """The folder or zip in which the image was found when it was indexed; it may have moved since."""
        segment, place = self._stored(image_id)
        return segment.roots[place]

    def file(self, image_id: str) -> ImageFile:
        """The image's file. Raises MissingImageError when it is no longer where it was indexed."""
        return locate(self.root(image_id), image_id)

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns there are."""
        return sorted({column for part in self._slices for column in part.segment.metadata})

    def select(self, where: Sequence[tuple[str, str]]) -> Mask:
        """(N,) which images meet every condition `column equals value`, letter case aside.

        Raises:
            UsageError: there is no such column.
        """
        mask = np.ones(len(self), np.bool_)
        columns = self.columns if where else []
        for column, value in where:
            if column not in columns:
                there = f"there are: {', '.join(columns)}" if columns else "it has none; build it with --metadata"
                raise UsageError(f"no metadata column {column!r} in {self.path}; {there}")
            wanted = value.casefold()
            for part in self._slices:
                values = part.segment.metadata.get(column)
                if values is None:
                    mask[part.live] = False
                else:
                    mask[part.live] &= [values[place].casefold() == wanted for place in part.places]
        return mask

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        space: str,
        allowed: Mask | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        exact: bool = False,
        candidates: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """The k best images for each query, by inner product; with tokens by the best of an image's T.

        Filters are applied before the cut: k hits come back whenever so many images are left.

        Args:
            queries: (B, D) float32, unit-norm.
            k: how many hits per query; more than there are means all.
            space: id of the space the queries are in.
            allowed: (N,) which images may be hits; from `select`.
            exclude: B collections of ids that may not be hits; unknown ids are ignored.
            exact: score every image by what decides its rank; without it large segments are searched
                approximately, and tokens rank only the best `candidates` by vector.
            candidates: how many; at least k. Default max(10 k, 200).

        Returns:
            B lists of (id, score), best first, ties by ascending id.

        Raises:
            SpaceMismatchError: the queries are in another space than the vectors.
            UsageError: k below 1, queries of another shape or with NaN, a mask or exclusions that do not fit.
        """
        self._check(queries, k, space, allowed, exclude)
        decides = "tokens" if self.has_tokens else "vectors"
        chooses = decides if exact or not self.has_vectors else "vectors"
        wanted = k if chooses == decides else max(k, max(10 * k, 200) if candidates is None else candidates)
        hits: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            block = np.ascontiguousarray(queries[start : start + _QUERIES_AT_ONCE], np.float32)
            barred = exclude[start : start + len(block)] if exclude else [()] * len(block)
            chosen = self._candidates(block, wanted, allowed, barred, chooses, exact)
            for query, rows in zip(block, chosen, strict=True):
                ranked, scores = self._ranked(query, rows, k, decides)
                hits.append([(self.ids[row], float(score)) for row, score in zip(ranked, scores, strict=True)])
        return hits

    def _candidates(
        self,
        queries: Floats,
        count: int,
        allowed: Mask | None,
        barred: Sequence[Collection[str]],
        kind: str,
        exact: bool,
    ) -> list[Rows]:
        """For each query its best `count` rows by `kind`, in any order, without those that may not be hits."""
        banned = [self._rows_of(ids) for ids in barred]
        # Excluded images are fetched and dropped; that many more keep the rest complete.
        fetch = count + max(map(len, banned), default=0)
        parts = [part.candidates(queries, fetch, allowed, kind, exact) for part in self._slices]
        best = []
        for number, query in enumerate(queries):
            rows = np.concatenate([np.empty(0, np.int64), *(part[number] for part in parts)])
            rows = rows[~np.isin(rows, banned[number])]
            best.append(rows if len(rows) <= count else self._ranked(query, rows, count, kind)[0])
        return best

    def _ranked(self, query: Floats, rows: Rows, count: int, kind: str) -> tuple[Rows, Floats]:
        """The best `count` of some rows and their scores, ties by row."""
        scores = np.empty(len(rows), np.float32)
        homes = self._home[rows]
        for number, part in enumerate(self._slices):
            here = np.flatnonzero(homes == number)
            places = self._place[rows[here]]
            order = np.argsort(places)  # ascending reads are kinder to a cold disk
            scores[here[order]] = rescore(part.stored(kind), places[order], query)
        order = np.lexsort((rows, -scores))[:count]
        return rows[order], scores[order]

    def _check(
        self,
        queries: Floats,
        k: int,
        space: str,
        allowed: Mask | None,
        exclude: Sequence[Collection[str]] | None,
    ) -> None:
        if space != self.space.id:
            raise SpaceMismatchError(
                f"the query is in space {space}, but {self.path} was made by model {self.card.name} "
                f"(space {self.space.id}); query with that model, or rebuild: "
                "cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
            )
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 hit")
        if queries.ndim != 2 or queries.shape[1] != self.space.dims:
            raise UsageError(f"queries have shape {queries.shape}; {self.path} needs (B, {self.space.dims})")
        if not np.isfinite(queries).all():
            raise UsageError("a query has values that are not finite; check the model and its input")
        if allowed is not None and (allowed.shape != (len(self),) or allowed.dtype != np.bool_):
            raise UsageError(f"the mask has shape {allowed.shape}, type {allowed.dtype}; it needs ({len(self)},) bool")
        if exclude is not None and len(exclude) != len(queries):
            raise UsageError(f"{len(exclude)} sets of excluded ids for {len(queries)} queries; give one each")

    def _find(self, image_id: str) -> int | None:
        place = bisect_left(self.ids, image_id)
        return place if place < len(self.ids) and self.ids[place] == image_id else None

    def _rows_of(self, ids: Collection[str]) -> Rows:
        found = {row for row in map(self._find, ids) if row is not None}
        return np.fromiter(found, np.int64, len(found))

    def _stored(self, image_id: str) -> tuple[Segment, int]:
        row = self.row(image_id)
        return self._slices[self._home[row]].segment, int(self._place[row])


def _live_rows(segments: Sequence[Segment], deleted: Sequence[set[int]]) -> tuple[list[str], Rows, Rows]:
    """Ids of all live rows in ascending order, and for each the number of its segment and its row there."""
    ids: list[str] = []
    homes: list[Rows] = []
    places: list[Rows] = []
    for number, (segment, gone) in enumerate(zip(segments, deleted, strict=True)):
        rows = [row for row in range(len(segment)) if row not in gone] if gone else range(len(segment))
        ids.extend(segment.ids[row] for row in rows)
        places.append(np.asarray(rows, np.int64))
        homes.append(np.full(len(rows), number, np.int64))
    if not ids:
        return [], np.empty(0, np.int64), np.empty(0, np.int64)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [ids[row] for row in order], np.concatenate(homes)[order], np.concatenate(places)[order]
