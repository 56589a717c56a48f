"""A query with known targets, as evaluation, replacement and training share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cir.given import image_id, names, string, strings
from cir.types import Query

_SETS = ("targets", "acceptable")
AttributeChange = tuple[str, str, str]  # kind, old value, new value


@dataclass(frozen=True)
class JudgedQuery:
    """A reference, a relative caption, and the images that answer the query.

    Names of images are kept in the form of ids. A string stands for a collection of one, None for nothing.

    Attributes:
        id: unique among the queries of its source.
        reference: image id; empty for a query by text alone.
        caption: the relative caption; empty for "more like this".
        targets: image ids, at least one; empty if they are not public.
        captions: the captions that annotators wrote, where `caption` joins several (FashionIQ).
        changes: the attribute changes that the caption states, where it was generated from attributes.
        groups: names under which it is also reported, such as "colour" or "phrasing:train".
        subset: the images that Rs@k ranks (CIRR), or the query's own gallery where each brings one (GeneCIS). Queries
            with equal subsets are ranked together.
        headline: whether it counts in the overall figures.
        gallery: which of the benchmark's galleries is searched, if it has several (FashionIQ's categories).
        first_target: the target that Recall@k is about, if not about all (CIRCO).
        acceptable: further images that count as right in the group "target_soft" only (CIRR).
        wrong: where people have judged only some images, those that they found not to answer it; what is neither here
            nor a target is unjudged. None if every image that is no target counts as wrong.

    Raises:
        UsageError: a value of another kind.
    """

    id: str
    reference: str
    caption: str
    targets: frozenset[str]
    captions: tuple[str, ...] = ()
    changes: tuple[AttributeChange, ...] = ()
    groups: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    headline: bool = True
    gallery: str = ""
    first_target: str = ""
    acceptable: frozenset[str] = frozenset()
    wrong: frozenset[str] | None = None

    def __post_init__(self) -> None:
        values: dict[str, Any] = {
            "id": string(self.id, "id of a judged query"),
            "caption": string(self.caption, "caption of a judged query"),
            "reference": image_id("" if self.reference is None else self.reference, "reference of a judged query"),
            "subset": tuple(dict.fromkeys(names(self.subset, "subset of a judged query"))),
        }
        values |= {name: frozenset(names(getattr(self, name), f"{name} of a judged query")) for name in _SETS}
        values |= {name: strings(getattr(self, name), name) for name in ("captions", "groups")}
        if self.wrong is not None:
            values["wrong"] = frozenset(names(self.wrong, "wrong of a judged query"))
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def query(self) -> Query:
        """The query to search with."""
        return Query(references=(self.reference,) if self.reference else (), text=self.caption)

    @property
    def kind(self) -> str:
        """Which attributes change, such as "colour" or "colour+type"; empty for a caption written by people."""
        return "+".join(kind for kind, _, _ in self.changes)
