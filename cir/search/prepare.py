"""Queries made ready: checked, their references resolved to pictures, gallery images or both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cir.errors import MissingImageError, UsageError
from cir.images import ImageFile, decode
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
        caption: cleaned; empty for "more like this".
    """

    query: Query
    references: tuple[Reference, ...]
    caption: str

    @property
    def composed(self) -> bool:
        """Whether reference and caption are encoded together; a caption of blanks alone is, as CIRR has one."""
        return bool(self.references and self.query.text)

    @property
    def only_images(self) -> bool:
        """Whether it wants more like its references and nothing else."""
        return not self.query.text and not self.query.negatives

    @property
    def excluded(self) -> frozenset[str]:
        """Ids that may not be among the hits: those the query excludes, and its references."""
        return frozenset(self.query.exclude).union(*(reference.same for reference in self.references))


def prepare(gallery: Gallery, queries: Sequence[Query]) -> list[PreparedQuery]:
    """Check queries and resolve their references.

    Raises:
        UsageError: an empty query or negative, text that is not valid Unicode, k below 1, a value of another type.
        MissingImageError: a reference that is neither an image file nor an id of the gallery.
        ImageDecodeError: a file that cannot be read.
    """
    prepared = []
    for query in queries:
        _check_types(query)
        caption = clean_caption(query.text)
        _check(query, caption)
        references = tuple(resolve(gallery, reference) for reference in query.references)
        prepared.append(PreparedQuery(query, references, caption))
    return prepared


def resolve(gallery: Gallery, reference: Any) -> Reference:
    """What a reference is: an image file, an id of the gallery, or a decoded picture.

    An id of the gallery wins over a file of the same name, so that the working directory changes no answer. Nothing is
    decoded yet: the photos of a large batch would not fit in memory.

    Raises:
        MissingImageError: neither a file nor an id.
        ImageDecodeError: a file that cannot be read.
    """
    if not isinstance(reference, str | Path):
        return Reference(lambda min_side: reference)
    name = str(reference)
    if name in gallery:
        image = gallery.image(name)
        return Reference(lambda min_side: decode(image.read_current(), name, min_side), frozenset([name]), name)
    if _is_file(name):
        file = ImageFile(name, "", name)
        same = gallery.ids_of(hashlib.sha256(file.read()).digest())
        return Reference(lambda min_side: decode(file.read(), name, min_side), frozenset(same), min(same, default=None))
    example = gallery.ids[0] if len(gallery) else "folder/name.jpg"
    raise MissingImageError(f"{name}: neither an image file nor an id of {gallery.folder}; ids look like {example}")


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name longer than any file's
        return False


def _check_types(query: Query) -> None:
    """A string in place of a tuple of strings would be read letter by letter, and answered wrongly without a word."""
    if not isinstance(query, Query):
        raise UsageError(f"{query!r} is not a query; write cir.Query(references, text)")
    for name in ("references", "negatives", "where", "exclude"):
        value = getattr(query, name)
        if not isinstance(value, tuple | list | set | frozenset):
            raise UsageError(f"{name} of a query is a {type(value).__name__}; write a tuple such as {name}=(value,)")
    if not all(isinstance(text, str) for text in (query.text, *query.negatives, *query.exclude)):
        raise UsageError("text, negatives and excluded ids of a query are strings")
    if not isinstance(query.k, int | np.integer) or isinstance(query.k, bool):
        raise UsageError(f"k is {query.k!r}; it is a whole number")
    for pair in query.where:
        if isinstance(pair, str) or len(pair) not in (2, 3) or not all(isinstance(text, str) for text in pair):
            raise UsageError(f"{pair!r} is not a condition; write cir.conditions.Condition(column, value)")
    for reference in query.references:
        if not isinstance(reference, str | Path):
            _check_picture(reference)


def _check_picture(reference: Any) -> None:
    from PIL.Image import Image

    if not isinstance(reference, Image):
        raise UsageError(f"a reference is a {type(reference).__name__}; give a path, an id or a PIL image")
    if 0 in reference.size:
        raise UsageError("a reference is a picture without pixels")


def _check(query: Query, caption: str) -> None:
    if not query.references and not caption:
        raise UsageError("an empty query; give a reference (-i), a text (-t), or both")
    for text in (query.text, *query.negatives):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"{text!a}: not readable as text; write it in UTF-8")
    if not all(map(clean_caption, query.negatives)):
        raise UsageError("an empty negative; say what is not wanted, or leave it out")
    if query.k < 1:
        raise UsageError(f"k is {query.k}; ask for at least 1 hit")
