"""Queries made ready: checked, their references resolved to pictures, gallery images or both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cir.errors import MissingImageError, UsageError
from cir.given import instance, items, printable
from cir.images import ImageFile, decode
from cir.images.files import file_at
from cir.images.picture import as_picture
from cir.text import clean_caption
from cir.types import Query

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.indexer.reading.gallery import Gallery


@dataclass(frozen=True)
class Reference:
    """A resolved reference.

    Attributes:
        picture: reads the picture and decodes it for a `min_side`. Raises MissingImageError or ImageDecodeError.
        same: ids of the gallery images that are this picture; they are not among a query's hits.
        id: one of them, or None.
    """

    picture: Callable[[int | None], Image]
    same: frozenset[str] = frozenset()
    id: str | None = None


@dataclass(frozen=True)
class PreparedQuery:
    """A query that can be encoded.

    Attributes:
        query: as given.
        references: resolved.
        caption: empty for "more like this", and where nothing of it is a word.
    """

    query: Query
    references: tuple[Reference, ...]
    caption: str

    @property
    def composed(self) -> bool:
        """Whether reference and caption are encoded together; a caption of blanks alone is, as CIRR has one."""
        return bool(self.references and self.query.text)

    def pictures_alone(self) -> PreparedQuery:
        """The picture's part of a composed query; any other query as it is."""
        return replace(self, query=Query(self.query.references), caption="") if self.composed else self

    def text_alone(self) -> PreparedQuery:
        """The caption's part of a composed query, negatives included; nothing of any other query."""
        if not self.composed:
            return replace(self, query=Query(), references=(), caption="")
        return replace(self, query=Query(text=self.query.text, negatives=self.query.negatives), references=())

    @property
    def only_images(self) -> bool:
        """Whether it wants more like its references and nothing else."""
        return not self.query.text and not self.query.negatives

    @property
    def excluded(self) -> frozenset[str]:
        """Ids that may not be among the hits: those the query excludes, and its references."""
        return frozenset(self.query.exclude).union(*(reference.same for reference in self.references))


def as_queries(value: Any) -> list[Query]:
    """Queries; one is a sequence of one.

    Raises:
        UsageError: something else than queries.
    """
    if isinstance(value, str):  # not what `search_many` takes one of
        value = [value]
    return [instance(query, Query, "a query", _ADVICE) for query in items(value, "queries", Query)]


def as_query(value: Any) -> Query:
    """One query. Raises UsageError for anything else, also for several."""
    return instance(value, Query, "a query", f"{_ADVICE}; several go to `search_many`")


_ADVICE = "write cir.Query(references, text)"


def prepare(gallery: Gallery, queries: Query | Iterable[Query]) -> list[PreparedQuery]:
    """Check queries and resolve their references.

    Raises:
        UsageError: an empty query or negative, or no query at all.
        MissingImageError: a reference that is neither an image file nor an id of the gallery.
        ImageDecodeError: a file that cannot be read.
    """
    prepared = []
    for query in as_queries(queries):
        caption = query.text.strip() if clean_caption(query.text) else ""  # models clean it in their own ways
        if not query.references and not caption:
            raise UsageError("an empty query; give a reference (-i), a text (-t), or both")
        if not all(map(clean_caption, query.negatives)):
            raise UsageError("an empty negative; say what is not wanted, or leave it out")
        references = tuple(resolve(gallery, reference) for reference in query.references)
        prepared.append(PreparedQuery(query, references, caption))
    return prepared


def resolve(gallery: Gallery, reference: Any) -> Reference:
    """What a reference of a query is: an image file, an id of the gallery, or a picture.

    An id of the gallery wins over a file of the same name, so that the working directory changes no answer. Nothing is
    decoded yet: the photos of a large batch would not fit in memory.

    Args:
        gallery: where ids are looked up, and images of the same content.
        reference: in a form of `as_references`.

    Raises:
        MissingImageError: neither a file nor an id.
        ImageDecodeError: a file that cannot be read.
    """
    if isinstance(reference, bytes):
        return _of_content(gallery, lambda: reference, f"a reference of {len(reference):,} bytes")
    if isinstance(reference, ImageFile):
        return _of_content(gallery, reference.read, printable(reference.id))
    if not isinstance(reference, str):
        return Reference(lambda min_side: as_picture(reference))  # which may have been closed since
    name = printable(reference)
    if reference in gallery:
        image = gallery.image(reference)
        return Reference(lambda min_side: decode(image.read_current(), name, min_side), frozenset([image.id]), image.id)
    try:
        file = file_at(reference)
    except MissingImageError:
        raise unknown(gallery, reference) from None
    return _of_content(gallery, file.read, name)


def unknown(gallery: Gallery, reference: str) -> MissingImageError:
    """What is said about a reference that names nothing."""
    example = next(gallery.rows.live_ids(), None) or "folder/name.jpg"
    return MissingImageError(
        f"{printable(reference)}: neither an image file nor an id of {gallery.folder}; ids look like "
        f"{printable(example)}"
    )


def _of_content(gallery: Gallery, read: Callable[[], bytes], name: str) -> Reference:
    """A reference by the bytes of an image file, which the gallery may hold under some id."""
    digest = hashlib.sha256(read()).digest()
    same = gallery.ids_of([digest])[digest]
    return Reference(lambda min_side: decode(read(), name, min_side), frozenset(same), min(same, default=None))
