"""What waits in the queue, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.indexer.reading.gallery import Gallery
    from cir.types import Query, SearchResult


@dataclass(frozen=True, eq=False)
class Uploaded:
    """A reference that was uploaded.

    Attributes:
        sha256: of its file, 64 hex digits.
        data: its file.
        picture: decoded, as large as the model needs it.
    """

    sha256: str
    data: bytes
    picture: Image


@dataclass(frozen=True, eq=False)
class Wanted:
    """One query of a request, checked as far as that needs no index.

    Attributes:
        references: ids of the gallery, and uploads.
        query: the query without its references; of its k hits, the first `offset` were shown before.
        offset: hits that are left out of the answer.
        exact: compare with every image.
        generation: of the index; None for the live one.
    """

    references: tuple[str | Uploaded, ...]
    query: Query
    offset: int = 0
    exact: bool = False
    generation: int | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """The answer to a query.

    Attributes:
        wanted: the query.
        result: of the search; its hits are those from the first on, shown before or not.
        gallery: the generation that answered.
    """

    wanted: Wanted
    result: SearchResult
    gallery: Gallery
