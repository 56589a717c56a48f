"""Judged queries over a gallery, under a protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError
from cir.stats import WHOLE, Measure

if TYPE_CHECKING:
    from cir.images import ImageFile

COMPOSED, TEXT, IMAGE = "composed", "text", "image"


@dataclass(frozen=True)
class Benchmark:
    """Queries over a gallery, or over several.

    Overall figures are over the headline queries, a group's over all queries of the group. With several galleries a
    figure is the unweighted mean of the galleries' figures.

    Attributes:
        name: such as "products".
        protocol: the name that stands beside every figure, such as "fashioniq-val/split".
        images: the files of the gallery, with distinct ids; not needed to score a run.
        queries: at least one of them headline.
        measures: reported, in this order.
        keep_reference: whether the reference stays in the ranking.
        galleries: name -> ids of that gallery; empty for a single gallery of all `images`.
        own_galleries: whether each query searches its `subset` alone, instead of one of `galleries`.
        absent: ids of the protocol whose pictures are missing; empty unless the user allowed that. A query whose
            reference is absent gets no hits, and an absent target is never retrieved: both count as misses.
        headline: measures whose mean is the benchmark's headline figure; may be empty.
        judged: whether the targets are public.
        unlisted: size of the gallery if its ids are unknown (CIRCO without COCO's list); else 0.

    Raises:
        DataError: no measures, no headline query, a duplicate id, a query without targets, or without the subset
            that Rs@k or its own gallery needs.
        MissingImageError: a target or a subset names an image that is neither in the gallery nor absent: no
            ranking could contain it.
    """

    name: str
    protocol: str
    images: Sequence[ImageFile]
    queries: tuple[JudgedQuery, ...]
    measures: tuple[Measure, ...]
    keep_reference: bool = False
    galleries: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    headline: tuple[Measure, ...] = ()
    judged: bool = True
    unlisted: int = 0
    own_galleries: bool = False

    def __post_init__(self) -> None:
        where = f"benchmark {self.name}"
        if len({image.id for image in self.images}) < len(self.images):
            raise DataError(f"{where}: an image id is in the gallery twice; ids must be unique")
        if len({query.id for query in self.queries}) < len(self.queries):
            raise DataError(f"{where}: two queries have the same id; ids must be unique")
        if not self.measures or not any(query.headline for query in self.queries):
            raise DataError(f"{where}: nothing to report; it needs a measure and a headline query")
        for query in self.queries:
            if self.judged and not query.targets:
                raise DataError(f"{where}: query {query.id!r} has no targets; give at least one")
            if (self.ranks_subsets or self.own_galleries) and not query.subset:
                what = "a gallery of its own" if self.own_galleries else "Rs@k"
                raise DataError(f"{where}: query {query.id!r} has no subset; {what} needs a subset for every query")
            unknown = {*query.targets, *query.subset} - self._listed(query) - self.absent
            if self.own_galleries:
                unknown |= query.targets - set(query.subset)
            if unknown and not self.unlisted:
                raise MissingImageError(
                    f"{where}: query {query.id!r} names {min(unknown)!r}, which is not in the gallery"
                    " and could never be retrieved; correct the query or add the image"
                )

    @cached_property
    def gallery(self) -> list[str]:
        """The ids of all N images, ascending if there are several galleries."""
        if not self.galleries:
            return [image.id for image in self.images]
        return sorted(set().union(*self.galleries.values()))

    @cached_property
    def _whole(self) -> frozenset[str]:
        return frozenset(self.gallery)

    def searched(self, query: JudgedQuery) -> AbstractSet[str]:
        """The ids of the gallery that a query searches."""
        return frozenset(query.subset) - self.absent if self.own_galleries else self._listed(query)

    def _listed(self, query: JudgedQuery) -> AbstractSet[str]:
        return self.galleries[query.gallery] if self.galleries else self._whole

    @property
    def gallery_sha256(self) -> str | None:
        """Digest of the gallery's ids; None if they are unknown."""
        return None if self.unlisted else ids_sha256(self.gallery)

    @property
    def queries_sha256(self) -> str:
        """Digest of what is asked: reference, caption and targets of every query, whatever their ids and order."""
        return ids_sha256("\t".join((q.reference, q.caption, *sorted(q.targets))) for q in self.queries)

    @property
    def groups(self) -> list[str]:
        """The names of the groups, in the order of their first queries."""
        return list(dict.fromkeys(group for query in self.queries for group in query.groups))

    @cached_property
    def form(self) -> str:
        """What its queries are: TEXT if none has a reference, IMAGE if none has a caption, else COMPOSED."""
        if not any(query.reference for query in self.queries):
            return TEXT
        return COMPOSED if any(query.caption for query in self.queries) else IMAGE

    @property
    def depth(self) -> int:
        """How many hits the measures need, Rs@k apart: subsets are ranked to their end."""
        deepest = max((measure.k for measure in self.measures if measure.name != "Rs"), default=1)
        if deepest < WHOLE:
            return deepest
        return max(len(ids) for ids in (self.galleries.values() or [self._whole]))

    @property
    def ranks_subsets(self) -> bool:
        """Whether Rs@k is reported."""
        return any(measure.name == "Rs" for measure in self.measures)

    def without(self, ids: Iterable[str]) -> Benchmark:
        """The benchmark with these images absent as well."""
        absent = frozenset(ids)
        return replace(
            self,
            images=[image for image in self.images if image.id not in absent],
            galleries={name: gallery - absent for name, gallery in self.galleries.items()},
            absent=self.absent | absent,
        )


def ids_sha256(ids: Iterable[str]) -> str:
    """Digest of a list of ids: SHA-256 over the ids sorted and joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode(errors="surrogatepass")).hexdigest()
