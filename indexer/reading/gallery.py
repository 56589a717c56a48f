"""A read-only snapshot of an index: its live images, and the search over them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.conditions import Conditions, as_conditions
from cir.errors import ServerError, UsageError
from cir.given import Names, items, kind, names, path_of, printable, shown
from cir.given import image_id as canonical
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.reading.device_scan import search_device
from cir.indexer.reading.gallery_checks import check_options, check_queries
from cir.indexer.reading.live_segment import LiveSegment
from cir.indexer.reading.opening import Opened, open_live
from cir.indexer.reading.product import ranked, scored, scored_instead
from cir.indexer.reading.ranking import Ranking, RankingOptions
from cir.indexer.reading.rows import GalleryRows
from cir.indexer.reading.spread import Spread, SpreadRanking
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.storage.columns import check_comparable
from cir.indexer.storage.fetching import catch_up, index_folder
from cir.indexer.storage.folder import GALLERY
from cir.indexer.storage.manifest import SegmentEntry
from cir.indexer.storage.mappings import read_mapping
from cir.indexer.storage.segment import Layout
from cir.known import is_known, known_roots
from cir.query_vectors import QueryVectors
from cir.types import Encoded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class How:
    """How a gallery is opened, and opened again: arguments of `Gallery.open`."""

    ann_min_rows: int
    trust_roots: bool
    device: torch.device | None
    strict: bool
    spread: Spread | None = None


class Gallery:
    """The images of one generation of an index. Safe to share between threads; later builds do not change it.

    Attributes:
        folder: the index folder.
        manifest: the generation.
        card: the model that serves it.
        space: that model's own space.
        mappings: how its queries reach segments of other spaces, by space id.
        query_spaces: ids of the spaces in which a query needs a vector.
        rows: all rows by number, which masks refer to.
        layout: what rows of the serving model are stored as.
        trust_roots: whether photos are read wherever the index says they are.
        untrusted_roots: where images were indexed, as far as this user has not done so; no photo is read there.
        entries: what the manifest says about the segments that the gallery has, in the order of `rows`.
        damaged: the segments that are left out since they are damaged; the gallery has none of their images.
        spread: where the segments are searched; None in this process.
    """

    def __init__(self, opened: Opened, how: How, before: Gallery | None = None) -> None:
        """Use `Gallery.open`."""
        self._opened = opened
        self._how = how
        self.folder = folder = opened.folder
        self.manifest = manifest = opened.manifest
        self.damaged = opened.damaged
        self.trust_roots = trust_roots = how.trust_roots
        self.entries = [entry for entry in manifest.segments if entry.name in opened.segments]
        segments = [opened.segments[entry.name] for entry in self.entries]
        known = known_roots()
        roots = set() if trust_roots else {root for segment in segments for root in segment.root_names if root}
        self.untrusted_roots = frozenset(root for root in roots if not is_known(root, known))
        self.card = manifest.card
        self.space = manifest.space
        native = [segment.layout for segment in segments if segment.layout.space == self.space.id]
        precision = segments[0].layout.precision if segments else "float16"
        self.layout = native[0] if native else Layout.of(self.card, precision=precision)
        self.mappings = {space: read_mapping(folder, entry) for space, entry in manifest.mappings.items()}
        live = [manifest.live_rows(entry) if entry.name in manifest.deleted else None for entry in self.entries]
        self.rows = GalleryRows(segments, live)
        self._segments = [
            self._live_segment(entry, counted, before) for entry, counted in zip(self.entries, live, strict=True)
        ]
        self._ranking = Ranking(self._segments, self.rows)
        self.spread = how.spread
        if how.spread is not None:
            self._ranking = SpreadRanking(self._segments, self.rows, how.spread, opened.pointer, self.entries)
        self.query_spaces = self._ranking.query_spaces or (self.space.id,)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        ann_min_rows: int = ANN_MIN_ROWS,
        trust_roots: bool = False,
        device: str = "cpu",
        strict: bool = False,
        spread: Spread | None = None,
    ) -> Gallery:
        """Open the live generation of an index. Damaged segments are left out, with a warning each (`damaged`).

        Args:
            path: the index folder.
            ann_min_rows: segments of at least this many vectors, or tokens without them, are searched approximately.
            trust_roots: read photos also below folders that this user has not indexed (`cir.known`): somebody else may
                have made the index.
            device: where large segments are compared: "cpu", "cuda", "mps", or "auto" for a GPU where there is one.
            strict: refuse an index with a damaged segment.
            spread: who searches the segments in place of this process (`cir.cluster`).

        Raises:
            UsageError: not a path, or a device that this machine does not have.
            IndexFormatError: there is no index at this path; IndexVersionError: another version wrote it.
            CorruptIndexError: the manifest, a mapping or all segments are damaged; or one segment, with `strict`.
        """
        folder = index_folder(path_of(path, "the path of an index"))
        how = How(ann_min_rows, trust_roots, search_device(device), strict, spread)
        return cls(open_live(folder, strict=strict, spread=spread), how)

    def __len__(self) -> int:
        return sum(self.rows.live_counts)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._find(image_id) is not None

    @property
    def ids(self) -> list[str]:
        """All live ids, ascending; of a large gallery the first use takes a second."""
        return self.rows.ids

    def row(self, image_id: str) -> int:
        """The row of an id. Raises UsageError when the gallery has no such image."""
        row = self._find(image_id)
        if row is None:
            raise UsageError(
                f"no image {shown(image_id)} in {self.folder}; ids are paths relative to the folder that was indexed"
            )
        return row

    def image(self, image_id: str) -> StoredImage:
        """One image. Raises UsageError when the gallery has no such image."""
        row = self.row(image_id)
        number, place = self.rows.locate(row)
        image = StoredImage(self.rows.id_of(row), self.folder, self._segments[number], place)
        return image if image.root not in self.untrusted_roots else replace(image, trusted=False)

    def ids_in(self, space: str) -> list[str]:
        """Ids of the live images whose stored vectors are of a space, ascending."""
        return sorted(image_id for number in self._of(space) for image_id in self.rows.ids_of(number))

    def count_in(self, space: str) -> int:
        """How many live images have stored vectors of a space."""
        return sum(self.rows.live_counts[number] for number in self._of(space))

    def ids_of(self, digests: Sequence[bytes]) -> dict[bytes, list[str]]:
        """The images whose files have these SHA-256 digests, 32 bytes each, by ascending id. One pass for all."""
        for digest in digests:
            if not isinstance(digest, bytes) or len(digest) != 32:
                raise UsageError(f"{shown(digest)} is no SHA-256 digest; give 32 bytes")
        found: dict[bytes, list[str]] = {digest: [] for digest in digests}
        for start, live in zip(self.rows.starts, self._segments, strict=False):
            for digest, row in live.segment.rows_of(digests):
                if self.rows.is_live(start + row):
                    found[digest].append(self.rows.id_of(start + row))
        return {digest: sorted(ids) for digest, ids in found.items()}

    def searched(self, allowed: Mask | None = None) -> tuple[int, int]:
        """How many images a search compares, and how many it leaves out since no mapping reaches their space.

        Args:
            allowed: a mask of `select`; None for all images.
        """
        counts = self.rows.live_counts
        if allowed is not None:
            bounds = pairwise(self.rows.starts)
            counts = [int(np.count_nonzero(allowed[start:stop])) for start, stop in bounds]
        searched = sum(count for count, live in zip(counts, self._segments, strict=True) if live.searchable)
        return searched, sum(counts) - searched

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns."""
        return sorted({column for live in self._segments for column in live.segment.metadata})

    def select(self, where: Conditions) -> Mask:
        """A mask of `rows`: which images meet every condition.

        Args:
            where: conditions, in any form of `as_conditions`. A column is found in any case if only one is alike.

        Raises:
            UsageError: there is no such column, or it holds no numbers to compare.
        """
        mask = self.rows.live()
        conditions = as_conditions(where)
        columns = self.columns if conditions else []
        for condition in conditions:
            alike = [column for column in columns if column.casefold() == condition.column.casefold()]
            if condition.column not in columns and len(alike) != 1:
                known = (
                    f"there are: {printable(', '.join(columns))}"
                    if columns
                    else "it has none; build it with --metadata"
                )
                raise UsageError(f"no metadata column {shown(condition.column)} in {self.folder}; {known}")
            column_name = condition.column if condition.column in columns else alike[0]
            stored = [live.segment.metadata.get(column_name) for live in self._segments]
            check_comparable(condition, [column for column in stored if column is not None])
            for live, column, start in zip(self._segments, stored, self.rows.starts, strict=False):
                met = condition.matches([""])[0] if column is None else column.matching(condition)
                mask[start : start + len(live.segment)] &= met
        return mask

    def scores(self, queries: QueryVectors, ids: Names, *, instead: Encoded | None = None) -> Floats:
        """(B, n) float32 scores of some images as a search would give them; -inf for an image that is not searched.

        Args:
            queries: B unit-norm queries, in every space of `query_spaces`.
            ids: n images.
            instead: n other pictures, encoded by the model that made `ids`, then a single image: the scores that they
                would get in its place.

        Raises:
            SpaceMismatchError, UsageError: as for `search`, or an id that the gallery does not hold.
            ServerError: the gallery is spread, and a part of it does not answer.
        """
        check_queries(self, queries)
        ranking = self._ranking.begun()
        rows = np.array([self.row(image_id) for image_id in names(ids, "ids")], np.int64)
        if instead is None:
            scores = scored(ranking, self.rows, queries, rows)
        elif len(rows) == 1:
            scores = scored_instead(ranking, self.rows, queries, int(rows[0]), instead)
        else:
            raise UsageError(f"pictures in place of {len(rows)} images; name one")
        if ranking.missing:
            raise ServerError(f"{self.folder}: a part of the gallery does not answer at the moment; try again")
        return scores

    def search(
        self, queries: QueryVectors, options: RankingOptions, *, exclude: Sequence[Collection[str]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """The k best images for each query, by inner product; with tokens by the best of an image's T.

        Queries of two vectors are ranked by the product of both similarities (`product.ranked`).

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
        return self._search(queries, options, exclude)[0]

    def _search(
        self, queries: QueryVectors, options: RankingOptions, exclude: Sequence[Collection[str]] | None
    ) -> tuple[list[list[tuple[str, float]]], AbstractSet[int]]:
        """What `search` gives, and the numbers of the segments that nobody has answered for in time."""
        check_queries(self, queries)
        check_options(self, options)
        barred = self._barred(exclude, len(queries))
        ranking = self._ranking.begun()
        found = ranked(ranking, self.rows, queries, options, barred)
        hits = [
            [(self.rows.id_of(row), score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
            for rows, scores in found
        ]
        return hits, ranking.missing

    def _barred(self, exclude: Sequence[Collection[str]] | None, count: int) -> list[Rows]:
        """For each of `count` queries the rows that may not be hits."""
        if exclude is None:
            return [np.empty(0, np.int64)] * count
        if isinstance(exclude, str | AbstractSet):  # the ids of which query?
            raise UsageError(f"exclude is {kind(exclude)}; give a list with one set of ids for each query")
        barred = [names(ids, "exclude") for ids in items(exclude, "exclude")]
        if len(barred) != count:
            raise UsageError(f"{len(barred)} sets of excluded ids for {count} queries; give one each")
        return [np.array([row for row in map(self._find, ids) if row is not None], np.int64) for ids in barred]

    def _find(self, image_id: str) -> int | None:
        """The row of a name, in whichever form it is written."""
        return self.rows.find(canonical(image_id, "id"))

    def _of(self, space: str) -> list[int]:
        """Numbers of the segments of a space."""
        return [number for number, live in enumerate(self._segments) if live.segment.layout.space == space]

    def _live_segment(self, entry: SegmentEntry, live: Mask | None, before: Gallery | None) -> LiveSegment:
        """A segment with some of its rows live; what an older gallery has loaded for it is used again."""
        if before is not None and before._reaches(entry) == self._reaches(entry):
            for other, segment in zip(before.entries, before._segments, strict=True):
                if other == entry:
                    return segment.with_live(live)
        return LiveSegment(
            self._opened.segments[entry.name],
            entry.files[GALLERY],
            live,
            self.space.id,
            None if entry.space == self.space.id else self.mappings.get(entry.space),
            self._how.ann_min_rows,
            self._how.device,
            here=self._how.spread is None,
        )

    def _reaches(self, entry: SegmentEntry) -> tuple[str, str]:
        """What decides how a segment is searched: the space that serves, and the mapping that leads to the other."""
        mapping = self.manifest.mappings.get(entry.space)
        return self.space.id, mapping.name if mapping else ""


def refreshed(gallery: Gallery) -> Gallery:
    """A gallery of the generation that is live now; the same one where that has not changed, which costs one read.

    Segments of both generations stay open, with what was loaded for them. The given gallery goes on to answer, also
    when its files have been removed: the system keeps what is mapped.

    Raises:
        IndexFormatError: as for `Gallery.open`; the given gallery can still be used.
    """
    how = gallery._how
    catch_up(gallery.folder)
    if gallery._opened.is_live:
        return gallery
    opened = open_live(gallery.folder, strict=how.strict, before=gallery._opened, spread=how.spread)
    return Gallery(opened, how, gallery)
