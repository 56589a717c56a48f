"""A read-only snapshot of an index: its live images, and the search over them.

Live images are numbered by ascending id across all segments, so "ties are broken by id" is "the lower number
first", and neither the order of building nor the number of segments shows in an answer.
"""

from __future__ import annotations

import hashlib
import zipfile
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from cir.errors import CorruptIndexError, MissingImageError, SpaceMismatchError, UsageError
from cir.images import ImageFile, locate
from cir.indexer.ann import ANN_MIN_ROWS
from cir.indexer.edges import read_edge
from cir.indexer.manifest import ANCHORS, Manifest, open_segment, read_manifest
from cir.indexer.scoring import Floats, Mask, Rows
from cir.indexer.slices import Slice
from cir.indexer.store import Layout, Segment, Stored

_QUERIES_AT_ONCE = 256


class Gallery:
    """The images of one generation of an index. Safe to share between threads; later builds do not change it.

    Attributes:
        path: the index folder.
        manifest: the generation.
        card: the model that serves it.
        space: its own space.
        edges: how it asks segments of other spaces, by space id.
        asked: ids of the spaces in which a query needs a vector.
        ids: N live ids, ascending; the position of an id is its row.
        searchable: (N,) bool, False where an image is of a space that no edge leads to.
        has_vectors: whether each image the serving model made has one vector.
        has_tokens: whether each of those has tokens, which then decide their ranking.
        precision: "float16" or "float32", of what is stored.
    """

    def __init__(self, path: Path, manifest: Manifest, segments: Sequence[Segment], ann_min_rows: int) -> None:
        """Use `Gallery.open`."""
        self.path = path
        self.manifest = manifest
        self.card = manifest.card
        self.space = manifest.space
        native = [segment.layout for segment in segments if segment.layout.space == self.space.id]
        layout = native[0] if native else Layout.of(self.card)
        self.has_vectors = layout.vectors
        self.has_tokens = layout.tokens > 0
        self.precision = segments[0].layout.precision if segments else layout.precision
        self.edges = {space: read_edge(path, entry) for space, entry in manifest.edges.items()}
        deleted = [set(manifest.deleted.get(entry.name, ())) for entry in manifest.segments]
        self.ids, self._home, self._place = _live_rows(segments, deleted)
        self._parts: dict[int, Slice] = {}  # number of the segment -> its live rows
        for number, (entry, segment) in enumerate(zip(manifest.segments, segments, strict=True)):
            edge = None if entry.space == self.space.id else self.edges.get(entry.space)
            name = manifest.edges[entry.space].name if edge else ""
            live = np.flatnonzero(self._home == number)
            self._parts[number] = Slice(
                entry, segment, path, live, self._place, ann_min_rows, self.space.id, edge, name
            )
        reached = [entry.space == self.space.id or entry.space in self.edges for entry in manifest.segments]
        self.searchable = np.array([*reached, False], np.bool_)[self._home]
        self._slices = [part for part, there in zip(self._parts.values(), reached, strict=True) if there]
        self.asked = tuple(dict.fromkeys(part.space for part in self._slices)) or (self.space.id,)

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
        for entry, segment in zip(manifest.segments, segments, strict=True):
            if segment.layout.space != entry.space or entry.space not in manifest.spaces:
                raise CorruptIndexError(f"{segment.path} holds other vectors than the manifest says; build again")
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
        """(D,) float32, unit-norm: the image's vector, or the mean of its tokens if there are no vectors.

        It is in the space in which the image is asked, `space_of`.
        """
        row = self.row(image_id)
        return self._parts[self._home[row]].vector(int(self._place[row]))

    def space_of(self, image_id: str) -> str:
        """Id of the space that queries for this image, and `vector`, are in."""
        return self._parts[self._home[self.row(image_id)]].space

    def stored_space(self, image_id: str) -> str:
        """Id of the space that the image's stored vectors are of."""
        return self._stored(image_id)[0].layout.space

    def ids_in(self, space: str) -> list[str]:
        """Ids of the live images whose stored vectors are of a space, ascending."""
        numbers = [number for number, part in self._parts.items() if part.segment.layout.space == space]
        return [self.ids[row] for row in np.flatnonzero(np.isin(self._home, numbers))]

    def stored_values(self, image_id: str) -> Stored:
        """(D,) the stored vector, or (T, D) the tokens where there is none; in the precision of the index."""
        segment, place = self._stored(image_id)
        values: Stored = segment.stored[place]
        return values

    def scores(self, queries: Mapping[str, Floats], ids: Sequence[str]) -> Floats:
        """(B, n) float32 scores of some images as a search would give them; -inf where an image is not searched.

        Args:
            queries: id of each space in `asked` -> (B, D) float32, unit-norm.
            ids: n images.
        """
        rows = np.array([self.row(image_id) for image_id in ids], np.int64)
        out = np.full((len(queries[self.asked[0]]), len(rows)), -np.inf, np.float32)
        for number in np.unique(self._home[rows]):
            part, here = self._parts[number], np.flatnonzero(self._home[rows] == number)
            if part in self._slices:
                for place, query in enumerate(queries[part.space]):
                    out[place, here] = part.scores(part.decides, self._place[rows[here]], query)
        return out

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
        for part in self._parts.values():
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

    def photo(self, image_id: str, *, unchanged: bool = False) -> bytes:
        """The image's file as it is, from where it was indexed, else from what is kept with the anchors.

        Args:
            image_id: a live id.
            unchanged: only the very file that was indexed will do.

        Raises:
            MissingImageError: it is in neither place, or has changed since.
        """
        digest = self.digest(image_id)
        try:
            data = self.file(image_id).read()
            if not unchanged or hashlib.sha256(data).digest() == digest:
                return data
            problem = MissingImageError(f"{image_id}: the photo has changed since it was indexed; run build-index")
        except MissingImageError as error:
            problem = error
        kept = kept_photo(self.path, digest)
        if kept is None:
            raise problem
        return kept

    def digest(self, image_id: str) -> bytes:
        """SHA-256 of the file that was indexed."""
        segment, place = self._stored(image_id)
        return bytes(segment.digests[place])

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns there are."""
        return sorted({column for part in self._parts.values() for column in part.segment.metadata})

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
            for part in self._parts.values():
                values = part.segment.metadata.get(column)
                if values is None:
                    mask[part.live] = False
                else:
                    mask[part.live] &= [values[place].casefold() == wanted for place in part.places]
        return mask

    def search(
        self,
        queries: Mapping[str, Floats],
        k: int,
        *,
        allowed: Mask | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        exact: bool = False,
        candidates: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """The k best images for each query, by inner product; with tokens by the best of an image's T.

        Filters are applied before the cut: k hits come back whenever so many images are left. Vectors of two spaces are
        never compared: each segment is asked in its own, and its scores are put on the serving model's scale.

        Args:
            queries: id of each space in `asked` -> (B, D) float32, unit-norm.
            k: how many hits per query; more than there are means all.
            allowed: (N,) which images may be hits; from `select`.
            exclude: B collections of ids that may not be hits; unknown ids are ignored.
            exact: score every image by what decides its rank; without it large segments are searched
                approximately, and tokens rank only the best `candidates` by vector.
            candidates: how many, of each space; at least k. Default max(10 k, 200).

        Returns:
            B lists of (id, score), best first, ties by ascending id.

        Raises:
            SpaceMismatchError: the queries are in other spaces than the vectors.
            UsageError: k below 1, queries of another shape or with NaN, a mask or exclusions that do not fit.
        """
        self._check(queries, k, allowed, exclude)
        count = len(queries[self.asked[0]])
        hits: list[list[tuple[str, float]]] = []
        for start in range(0, count, _QUERIES_AT_ONCE):
            here = slice(start, min(start + _QUERIES_AT_ONCE, count))
            block = {space: np.ascontiguousarray(queries[space][here], np.float32) for space in self.asked}
            barred = exclude[here] if exclude else [()] * (here.stop - start)
            banned = [self._rows_of(ids) for ids in barred]
            chosen = [np.empty(0, np.int64) for _ in banned]
            for space in self.asked:
                for number, rows in enumerate(self._candidates(block, space, k, allowed, banned, exact, candidates)):
                    chosen[number] = np.concatenate([chosen[number], rows])
            for number, rows in enumerate(chosen):
                query = {space: values[number] for space, values in block.items()}
                ranked, scores = self._ranked(query, rows, k, deciding=True)
                hits.append([(self.ids[row], float(score)) for row, score in zip(ranked, scores, strict=True)])
        return hits

    def _candidates(
        self,
        queries: Mapping[str, Floats],
        space: str,
        k: int,
        allowed: Mask | None,
        banned: Sequence[Rows],
        exact: bool,
        candidates: int | None,
    ) -> list[Rows]:
        """For each query the best rows of one space, in any order: k if what finds them also ranks them, else more."""
        parts = [part for part in self._slices if part.space == space]
        deciding = exact or all(part.chooses == part.decides for part in parts)
        wanted = k if deciding else max(k, max(10 * k, 200) if candidates is None else candidates)
        # Excluded images are fetched and dropped; that many more keep the rest complete.
        fetch = wanted + max(map(len, banned), default=0)
        kinds = [part.decides if deciding else part.chooses for part in parts]
        found = [
            part.candidates(queries[space], fetch, allowed, kind, exact)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        best = []
        for number, barred in enumerate(banned):
            rows = np.concatenate([np.empty(0, np.int64), *(each[number] for each in found)])
            rows = rows[~np.isin(rows, barred)]
            query = {space: queries[space][number]}
            best.append(rows if len(rows) <= wanted else self._ranked(query, rows, wanted, deciding=deciding)[0])
        return best

    def _ranked(self, query: Mapping[str, Floats], rows: Rows, count: int, *, deciding: bool) -> tuple[Rows, Floats]:
        """The best `count` of some rows and their scores, ties by row."""
        scores = np.empty(len(rows), np.float32)
        homes = self._home[rows]
        for number in np.unique(homes):
            part = self._parts[number]
            here = np.flatnonzero(homes == number)
            places = self._place[rows[here]]
            order = np.argsort(places)  # ascending reads are kinder to a cold disk
            kind = part.decides if deciding else part.chooses
            scores[here[order]] = part.scores(kind, places[order], query[part.space])
        order = np.lexsort((rows, -scores))[:count]
        return rows[order], scores[order]

    def _check(
        self,
        queries: Mapping[str, Floats],
        k: int,
        allowed: Mask | None,
        exclude: Sequence[Collection[str]] | None,
    ) -> None:
        strange, lacking = sorted(queries.keys() - set(self.asked)), [s for s in self.asked if s not in queries]
        if strange or lacking:
            raise SpaceMismatchError(
                f"the query is in space {', '.join(sorted(queries)) or 'none'}, but {self.path} is served by model "
                f"{self.card.name} and asked in {', '.join(self.asked)}; query with that model, or rebuild: "
                "cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
            )
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 hit")
        count = len(queries[self.asked[0]])
        for space, values in queries.items():
            dims = int(self.manifest.spaces[space]["dims"])
            if values.ndim != 2 or values.shape != (count, dims):
                raise UsageError(f"queries have shape {values.shape}; {self.path} needs (B, {dims})")
            if not np.isfinite(values).all():
                raise UsageError("a query has values that are not finite; check the model and its input")
        if allowed is not None and (allowed.shape != (len(self),) or allowed.dtype != np.bool_):
            raise UsageError(f"the mask has shape {allowed.shape}, type {allowed.dtype}; it needs ({len(self)},) bool")
        if exclude is not None and len(exclude) != count:
            raise UsageError(f"{len(exclude)} sets of excluded ids for {count} queries; give one each")

    def _find(self, image_id: str) -> int | None:
        place = bisect_left(self.ids, image_id)
        return place if place < len(self.ids) and self.ids[place] == image_id else None

    def _rows_of(self, ids: Collection[str]) -> Rows:
        found = {row for row in map(self._find, ids) if row is not None}
        return np.fromiter(found, np.int64, len(found))

    def _stored(self, image_id: str) -> tuple[Segment, int]:
        row = self.row(image_id)
        return self._parts[self._home[row]].segment, int(self._place[row])


def kept_photo(index: Path, digest: bytes) -> bytes | None:
    """A photo that is kept with the anchors of an index, by the SHA-256 of its file."""
    try:
        with zipfile.ZipFile(index / ANCHORS) as anchors:
            return anchors.read(f"photos/{digest.hex()}")
    except (OSError, KeyError, zipfile.BadZipFile):
        return None


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
