"""What is asked and what would be right: queries with their targets over a gallery, under a protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cir.errors import DataError, MissingImageError

if TYPE_CHECKING:
    from cir.eval.metrics import Measure
    from cir.images import ImageFile


@dataclass(frozen=True)
class BenchmarkQuery:
    """One composed query and its right answers.

    Attributes:
        id: unique within the benchmark.
        reference: image id; empty for a query by text alone.
        caption: the relative caption; empty for "more like this".
        targets: image ids, at least one.
        groups: names under which it is also reported, such as "colour" or "phrasing:train".
        subset: the images among which Rs@k ranks (CIRR); queries with equal subsets are ranked together.
        headline: whether it counts in the overall figures.
    """

    id: str
    reference: str
    caption: str
    targets: frozenset[str]
    groups: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    headline: bool = True


@dataclass(frozen=True)
class Benchmark:
    """Queries over a gallery.

    Overall figures are over the headline queries, a group's over all queries that carry it.

    Attributes:
        name: such as "products".
        protocol: the name that stands beside every figure, such as "fashioniq-val/split".
        images: the gallery, no id twice.
        queries: at least one of them headline.
        measures: what is reported, in this order.
        keep_reference: whether the reference stays in the ranking.
        missing: how many images of the protocol are not there; 0 unless the user allowed it.

    Raises:
        DataError: no measures, no headline query, an id twice, a query without targets, or without the subset
            that Rs@k needs.
        MissingImageError: with `missing` 0, a target or a subset names an image outside the gallery: no
            ranking could find it.
    """

    name: str
    protocol: str
    images: Sequence[ImageFile]
    queries: tuple[BenchmarkQuery, ...]
    measures: tuple[Measure, ...]
    keep_reference: bool = False
    missing: int = 0

    def __post_init__(self) -> None:
        gallery = set(self.gallery)
        where = f"benchmark {self.name}"
        if len(gallery) < len(self.images):
            raise DataError(f"{where}: an image id is in the gallery twice; ids must be unique")
        if len({query.id for query in self.queries}) < len(self.queries):
            raise DataError(f"{where}: two queries have the same id; ids must be unique")
        if not self.measures or not any(query.headline for query in self.queries):
            raise DataError(f"{where}: nothing to report; it needs a measure and a headline query")
        ranks_subsets = any(measure.name == "Rs" for measure in self.measures)
        for query in self.queries:
            if not query.targets:
                raise DataError(f"{where}: query {query.id!r} has no targets; give at least one")
            if ranks_subsets and not query.subset:
                raise DataError(f"{where}: query {query.id!r} has no subset; Rs@k needs one on each")
            unknown = ({*query.targets, *query.subset} - gallery) if not self.missing else ()
            if unknown:
                raise MissingImageError(
                    f"{where}: query {query.id!r} names {min(unknown)!r}, which is not in the gallery"
                    " and could never be found; correct the query or add the image"
                )

    @property
    def gallery(self) -> list[str]:
        """The ids of the gallery's N images."""
        return [image.id for image in self.images]

    @property
    def gallery_sha256(self) -> str:
        """Digest of the gallery: SHA-256 over its sorted ids, joined by newlines."""
        return hashlib.sha256("\n".join(sorted(self.gallery)).encode(errors="surrogatepass")).hexdigest()

    @property
    def groups(self) -> list[str]:
        """The names of the groups, in the order in which queries first carry them."""
        return list(dict.fromkeys(group for query in self.queries for group in query.groups))
