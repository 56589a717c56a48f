"""What is asked and what would be right: queries with their targets over a gallery, under a protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cir.errors import DataError, MissingImageError

if TYPE_CHECKING:
    from cir.stats import Measure
    from cir.images import ImageFile


@dataclass(frozen=True)
class JudgedQuery:
    """One composed query and its right answers.

    Attributes:
        id: unique within the benchmark.
        reference: image id; empty for a query by text alone.
        caption: the relative caption; empty for "more like this".
        targets: image ids, at least one; none where they are not public.
        groups: names under which it is also reported, such as "colour" or "phrasing:train".
        subset: the images among which Rs@k ranks (CIRR); queries with equal subsets are ranked together.
        headline: whether it counts in the overall figures.
        gallery: which of the benchmark's galleries is searched, where it has several (FashionIQ's categories).
        first_target: the target that Recall@k asks for, where it does not ask for all (CIRCO).
        acceptable: further images that are counted as right in the group "target_soft" only (CIRR).
    """

    id: str
    reference: str
    caption: str
    targets: frozenset[str]
    groups: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    headline: bool = True
    gallery: str = ""
    first_target: str = ""
    acceptable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Benchmark:
    """Queries over a gallery, or over several.

    Overall figures are over the headline queries, a group's over all queries that carry it. With several galleries a
    figure is the unweighted mean of the galleries' figures.

    Attributes:
        name: such as "products".
        protocol: the name that stands beside every figure, such as "fashioniq-val/split".
        images: the files of the gallery, no id twice; not needed to score a run.
        queries: at least one of them headline.
        measures: what is reported, in this order.
        keep_reference: whether the reference stays in the ranking.
        galleries: name -> ids of each gallery; empty for one gallery of all `images`.
        absent: ids of the protocol that are not there; none unless the user allowed it. Queries whose reference is
            absent get no answer, and absent targets are never found: both count as misses.
        headline: measures whose mean is the benchmark's one figure; may be empty.
        judged: whether the targets are public.
        unlisted: size of the gallery where its ids are not known (CIRCO without COCO's list); else 0.

    Raises:
        DataError: no measures, no headline query, an id twice, a query without targets, or without the subset
            that Rs@k needs.
        MissingImageError: a target or a subset names an image that is neither in the gallery nor absent: no
            ranking could find it.
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
            if self.ranks_subsets and not query.subset:
                raise DataError(f"{where}: query {query.id!r} has no subset; Rs@k needs one on each")
            unknown = {*query.targets, *query.subset} - self.searched(query) - self.absent
            if unknown and not self.unlisted:
                raise MissingImageError(
                    f"{where}: query {query.id!r} names {min(unknown)!r}, which is not in the gallery"
                    " and could never be found; correct the query or add the image"
                )

    @cached_property
    def gallery(self) -> list[str]:
        """The ids of all N images that are searched, in one gallery or another."""
        if not self.galleries:
            return [image.id for image in self.images]
        return sorted(set().union(*self.galleries.values()))

    @cached_property
    def _whole(self) -> frozenset[str]:
        return frozenset(self.gallery)

    def searched(self, query: JudgedQuery) -> AbstractSet[str]:
        """The ids among which a query's targets are looked for."""
        return self.galleries[query.gallery] if self.galleries else self._whole

    @property
    def gallery_sha256(self) -> str | None:
        """Digest of the gallery's ids; None where they are not known."""
        return None if self.unlisted else ids_sha256(self.gallery)

    @property
    def groups(self) -> list[str]:
        """The names of the groups, in the order in which queries first carry them."""
        return list(dict.fromkeys(group for query in self.queries for group in query.groups))

    @property
    def depth(self) -> int:
        """How many places of a ranking the measures look at; subsets are ranked to their end."""
        return max((measure.k for measure in self.measures if measure.name != "Rs"), default=1)

    @property
    def ranks_subsets(self) -> bool:
        """Whether Rs@k is reported."""
        return any(measure.name == "Rs" for measure in self.measures)

    def without(self, ids: Iterable[str]) -> Benchmark:
        """The benchmark where some images are absent; nothing of it forgets that they are."""
        gone = frozenset(ids)
        return replace(
            self,
            images=[image for image in self.images if image.id not in gone],
            galleries={name: gallery - gone for name, gallery in self.galleries.items()},
            absent=self.absent | gone,
        )


def ids_sha256(ids: Iterable[str]) -> str:
    """Digest of a list of ids: SHA-256 over the ids sorted and joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode(errors="surrogatepass")).hexdigest()
