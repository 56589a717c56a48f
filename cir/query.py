"""What is searched for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex

from cir.conditions import Condition, Conditions, as_conditions
from cir.given import Names, names, string, strings, whole_number
from cir.images.reference import as_references


@dataclass(frozen=True, init=False)
class Query:
    """One composed query. At least one of `references` and `text` is given.

    Values are accepted in many forms, of which one is kept: one value stands for a sequence of one, None for nothing.

    Attributes:
        references: image files, gallery ids or pictures; several are averaged (`cir.images.reference.as_references`).
        text: the relative caption, "in red, with long sleeves"; empty for "more like this". A caption of blanks alone
            is still composed with the reference: CIRR has such a query.
        negatives: captions of what is not wanted.
        k: number of hits.
        where: metadata conditions, all of which a hit meets, see `cir.conditions.as_conditions`:
            {"season": "Summer"}, "season!=Summer", or a sequence of conditions.
        exclude: ids that may not be among the hits.
        id: copied into the result; for batches.

    Raises:
        UsageError: a value of another kind, text that is not valid Unicode, k below 1.
        DataError: a picture or an open file that cannot be read.
    """

    references: tuple[Any, ...]
    text: str
    negatives: tuple[str, ...]
    k: int
    where: tuple[Condition, ...]
    exclude: frozenset[str]
    id: str | None

    def __init__(
        self,
        references: Any = (),
        text: str | None = "",
        negatives: str | Iterable[str] | None = (),
        k: SupportsIndex | float = 10,
        where: Conditions = (),
        exclude: Names = (),
        id: str | None = None,
    ) -> None:
        values = {
            "references": as_references(references),
            "text": string(text, "text"),
            "negatives": strings(negatives, "negatives"),
            "k": whole_number(k, "k"),
            "where": as_conditions(where),
            "exclude": frozenset(names(exclude, "exclude")),
            "id": id,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
