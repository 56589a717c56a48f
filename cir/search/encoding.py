"""From prepared queries to unit-norm vectors in one space.

Reference and caption are encoded together by SPRC's passes A and B, a caption alone by pass D; a reference alone is its
own gallery vector. Encoders that know picture and caption only apart (CLIP and its like) compose the two vectors, and a
reference that is stored needs no photo. Several references are averaged, and each negative is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cir import compositions
from cir.arrays import Floats, unit
from cir.errors import SpaceMismatchError, UsageError
from cir.mappings import Maps
from cir.model_card import APART
from cir.query_vectors import QueryVectors
from cir.threads import map_batches
from cir.types import Encoder, ExposesQueryStates

if TYPE_CHECKING:
    from cir.indexer.reading.gallery import Gallery
    from cir.mappings import SpaceMapping
    from cir.search.prepare import PreparedQuery, Reference
    from cir.types import ModelCard

# Share of a negative's direction that is subtracted. At 1 a query is more about what it is not than about what it is.
NEGATIVE_WEIGHT = 0.5
BATCH = 16  # queries that one thread encodes at once


@dataclass(frozen=True)
class SpaceEncoder:
    """Encodes queries into one space.

    Attributes:
        load: gives the model; called when a query first needs it.
        older_space: id of an older space to encode for; None for the model's own.
        fitted_head: a fitted query head for it; None for a head of the model.
        apart: the card of a model that encodes picture and caption apart, which says how they are composed; else None.
    """

    load: Callable[[], Encoder]
    older_space: str | None = None
    fitted_head: SpaceMapping | None = None
    apart: ModelCard | None = None

    @classmethod
    def native(cls, card: ModelCard, load: Callable[[ModelCard], Encoder]) -> SpaceEncoder:
        """The encoder of a model's own space."""
        return cls(lambda: load(card), apart=card if card.composition in APART else None)

    def compose(self, references: Sequence[Reference], captions: Sequence[str]) -> Floats:
        """B references and captions -> (B, D) float32, unit-norm; in parallel where that pays."""
        model = self.load()

        def encode(rows: slice) -> Floats:
            pixels = np.stack([model.preprocess(reference.picture(model.min_side)) for reference in references[rows]])
            if self.fitted_head is not None:
                return self.fitted_head.map(self._states(model).query_states(pixels, captions[rows]))
            return model.encode_queries(pixels, captions[rows], self.older_space)

        vectors: Floats = np.concatenate(map_batches(encode, len(captions), BATCH, model.shared_by))
        return vectors

    def texts(self, captions: Sequence[str]) -> Floats:
        """B captions without a reference -> (B, D) float32, unit-norm; in parallel where that pays."""
        model = self.load()

        def encode(rows: slice) -> Floats:
            if self.fitted_head is not None:
                return self.fitted_head.map(self._states(model).text_states(captions[rows]))
            return model.encode_texts(captions[rows], self.older_space)

        vectors: Floats = np.concatenate(map_batches(encode, len(captions), BATCH, model.shared_by))
        return vectors

    def images(self, references: Sequence[Reference], *, vectors: bool) -> Floats:
        """(B, D) float32, unit-norm: references as the gallery of this space would hold them; in parallel if it pays.

        Args:
            references: what to encode.
            vectors: whether the gallery holds one vector per image, not only tokens.

        Raises:
            UsageError: the model gives neither vectors nor tokens.
        """
        if self.older_space is not None or self.fitted_head is not None:
            # A query head encodes no images, but a query with an empty caption lies near its reference.
            return self.compose(references, [""] * len(references))
        model = self.load()

        def encode(rows: slice) -> Floats:
            pixels = np.stack([model.preprocess(reference.picture(model.min_side)) for reference in references[rows]])
            encoded = model.encode_images(pixels)
            if encoded.vectors is not None and vectors:
                return encoded.vectors
            if encoded.tokens is None:
                raise UsageError(
                    f"{model.card.name} gives neither vectors nor tokens; rebuild the index with another model"
                )
            return unit(encoded.tokens.mean(axis=1))

        made: Floats = np.concatenate(map_batches(encode, len(references), BATCH, model.shared_by))
        return made

    @staticmethod
    def _states(model: Encoder) -> ExposesQueryStates:
        if not isinstance(model, ExposesQueryStates):
            raise SpaceMismatchError(f"{model.card.name} does not expose the query states that a fitted head projects")
        return model


def encode_in_every_space(
    gallery: Gallery, encoder_for: Callable[[str], SpaceEncoder], queries: Sequence[PreparedQuery]
) -> QueryVectors:
    """Queries in every space that a gallery is searched in.

    Args:
        gallery: the gallery.
        encoder_for: id of a space -> the encoder of queries for it.
        queries: B prepared queries.
    """

    if gallery.card.composition == "product" and any(query.composed for query in queries):
        pictures = _encode_everywhere(gallery, encoder_for, [query.pictures_alone() for query in queries])
        texts = _encode_everywhere(gallery, encoder_for, [query.text_alone() for query in queries])
        return pictures.product(texts, gallery.card.sum_weight)
    return _encode_everywhere(gallery, encoder_for, queries)


def _encode_everywhere(
    gallery: Gallery, encoder_for: Callable[[str], SpaceEncoder], queries: Sequence[PreparedQuery]
) -> QueryVectors:
    def encode(space: str, rows: Sequence[int]) -> Floats:
        return encode_in(gallery, space, encoder_for(space), [queries[row] for row in rows])

    native, everything = gallery.space.id, range(len(queries))
    mapped = {
        space: mapping
        for space, mapping in gallery.mappings.items()
        if mapping.maps is Maps.QUERIES and space in gallery.query_spaces
    }
    vectors = {space: encode(space, everything) for space in gallery.query_spaces if space not in mapped}
    if mapped:
        # For "more like this" the stored vector of a reference is better than a mapped one, and needs no photo.
        stored = {space: _stored_rows(gallery, space, queries) for space in mapped}
        own = vectors.get(native)
        if own is None:
            spared = set.intersection(*map(set, stored.values()))
            rows = [row for row in everything if row not in spared]
            own = np.zeros((len(queries), gallery.space.dims), np.float32)
            own[rows] = encode(native, rows)
        for space, mapping in mapped.items():
            vectors[space] = mapping.map(own)
            vectors[space][stored[space]] = encode(space, stored[space])
    return QueryVectors(vectors)


def _stored_rows(gallery: Gallery, space: str, queries: Sequence[PreparedQuery]) -> list[int]:
    """Rows of image-only queries whose references are all stored in a space."""
    return [
        row
        for row, query in enumerate(queries)
        if query.only_images
        and all(
            reference.id is not None and gallery.image(reference.id).query_space == space
            for reference in query.references
        )
    ]


def encode_in(gallery: Gallery, space: str, encoder: SpaceEncoder, queries: Sequence[PreparedQuery]) -> Floats:
    """(B, D) float32, unit-norm: queries in one space, by the encoder of that space."""
    out = np.zeros((len(queries), gallery.manifest.spaces[space].dims), np.float32)
    composed = [
        (row, reference) for row, query in enumerate(queries) if query.composed for reference in query.references
    ]
    if composed and encoder.apart is not None:
        rows = sorted({row for row, _ in composed})
        pictures = unit(_summed_pictures(gallery, space, encoder, [queries[row] for row in rows]))
        texts = encoder.texts([queries[row].caption for row in rows])
        texts[[not queries[row].caption for row in rows]] = 0  # a blank caption is none
        out[rows] = compositions.compose(pictures, texts, encoder.apart.composition, encoder.apart.sum_weight)
    elif composed:
        rows = [row for row, _ in composed]
        vectors = encoder.compose([reference for _, reference in composed], [queries[row].caption for row in rows])
        np.add.at(out, rows, vectors)
    _add_texts(out, encoder, [(row, query.caption) for row, query in enumerate(queries) if _is_text(query)])
    only = [row for row, query in enumerate(queries) if not query.composed and not query.caption and query.references]
    if only:
        out[only] += _summed_pictures(gallery, space, encoder, [queries[row] for row in only])
    out = unit(out)
    negatives = ((row, text) for row, query in enumerate(queries) for text in query.query.negatives)
    _add_texts(out, encoder, negatives, -NEGATIVE_WEIGHT)
    return unit(out)


def _is_text(query: PreparedQuery) -> bool:
    return bool(query.caption) and not query.composed


def _add_texts(out: Floats, encoder: SpaceEncoder, texts: Iterable[tuple[int, str]], weight: float = 1.0) -> None:
    """Add to (B, D) rows the weighted vectors of texts, each (row, text)."""
    pairs = list(texts)
    if pairs:
        vectors = encoder.texts([text for _, text in pairs]) * np.float32(weight)
        np.add.at(out, [row for row, _ in pairs], vectors)


def _summed_pictures(gallery: Gallery, space: str, encoder: SpaceEncoder, queries: Sequence[PreparedQuery]) -> Floats:
    """(B, D) float32, not normalised: for each query the sum of the vectors of its references.

    A vector is the stored one of a reference, or one encoded now.
    """
    out = np.zeros((len(queries), gallery.manifest.spaces[space].dims), np.float32)
    unknown = []
    for row, query in enumerate(queries):
        for reference in query.references:
            image = gallery.image(reference.id) if reference.id is not None else None
            if image is not None and image.query_space == space:
                out[row] += image.vector
            else:
                unknown.append((row, reference))
    if unknown:
        vectors = gallery.layout.vectors or space != gallery.space.id
        encoded = encoder.images([reference for _, reference in unknown], vectors=vectors)
        np.add.at(out, [row for row, _ in unknown], encoded)
    return out


def check_space(gallery: Gallery, card: ModelCard, space: str, *, heads: bool = False) -> None:
    """Refuse a model whose own space is another. Raises SpaceMismatchError.

    Args:
        gallery: the gallery, for the message.
        card: of the model.
        space: id of the space to search.
        heads: a query head for the space is enough.
    """
    if card.space.id != space and not (heads and space in card.query_heads):
        raise SpaceMismatchError(
            f"{gallery.folder} holds vectors of {gallery.card.name} ({gallery.card.digest}), which {card.name} "
            f"({card.digest}) cannot search; query without --model, or rebuild: "
            f"cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
        )
