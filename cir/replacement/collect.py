"""Collecting a paired sample: the costly part of a study, done once per older space."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, Stored
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError, WeightsError
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.pipeline import encode_photos
from cir.indexer.writing.preconditions import keeps_tokens
from cir.replacement.encode_queries import encode_queries
from cir.replacement.paired_sample import PairedSample, group_split
from cir.replacement.questions import needed_images
from cir.search.searcher import Searcher
from cir.types import Encoder, ModelCard, Progress

MAX_SLICE_VALUES = 20  # a metadata column with more values is not a set of slices


@dataclass(frozen=True)
class Collected:
    """A paired sample and what it is about.

    Attributes:
        sample: both models' vectors.
        queries: the judged queries, in the order of its rows.
        images_per_second: throughput of the new model, reading and decoding included, as in a build.
    """

    sample: PairedSample
    queries: Sequence[JudgedQuery]
    images_per_second: float


def collect_sample(
    searcher: Searcher,
    encoder: Encoder,
    made_by: ModelCard,
    queries: Sequence[JudgedQuery],
    *,
    sample: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Collected:
    """Encode judged queries and a sample of one space with a new model, beside what is stored.

    Args:
        searcher: the index, with the models that made it.
        encoder: the new model.
        made_by: the model whose own space it is.
        queries: each with a target in the space. Those without a photo of their reference, or of any target, are left
            out.
        sample: images beyond those that the queries name.
        rng: draws the sample, and the half of the queries that fits may see.
        progress: called with (images encoded, images to encode).

    Raises:
        MissingImageError: hardly any query has its photos.
        WeightsError: the new model's vectors are not unit-norm.
    """
    gallery, space = searcher.gallery, made_by.space.id
    started = time.perf_counter()
    drawn = [gallery.image(image_id) for image_id in _draw(gallery.ids_in(space), queries, sample, rng)]
    layout = Layout.of(encoder.card, keeps_tokens(gallery.manifest, encoder.card), "float32")
    photos, new_gallery = _encode_photos(drawn, encoder, layout, progress)
    speed = len(drawn) / max(time.perf_counter() - started, 1e-6)
    rows = {photo.id: row for row, photo in enumerate(photos)}
    references = {query.reference: gallery.image(query.reference) for query in queries if query.reference}
    readable = {"", *(name for name, photo in references.items() if _readable(photo))}
    usable = [query for query in queries if query.reference in readable and not rows.keys().isdisjoint(query.targets)]
    groups = [query.reference or query.caption for query in usable]
    if len(set(groups)) < 2:
        raise MissingImageError(
            f"the photos of {len(queries) - len(usable)} of {len(queries)} judged queries are gone or have changed; "
            "bring them back, or store other queries with `cir questions`"
        )
    relevant = np.zeros((len(usable), len(photos)), np.bool_)
    for number, query in enumerate(usable):
        relevant[number, [rows[target] for target in query.targets if target in rows]] = True
    searches = [query.query for query in usable]
    current = searcher.encode(searches)
    made_here = space == gallery.space.id
    pictures = [references.get(query.reference) for query in usable]
    new = encode_queries(encoder, pictures, [query.caption for query in usable], space)
    paired = PairedSample(
        old_gallery=np.stack([photo.stored for photo in photos]).astype(np.float32),
        new_gallery=new_gallery,
        old_queries=current.by_space[space] if made_here else _encode_native(searcher, space, usable),
        new_queries=new.native,
        head_queries=new.head,
        current=gallery.scores(current, list(rows)),
        references=np.array([rows.get(query.reference, -1) for query in usable]),
        relevant=relevant,
        fit=group_split(groups, rng),
        slices=_slices(pictures),
        simplex_dims=encoder.card.simplex.dims if encoder.card.simplex and made_by.simplex else 0,
        new_states=new.states,
    )
    return Collected(paired, usable, speed)


def _draw(members: Sequence[str], queries: Sequence[JudgedQuery], sample: int, rng: np.random.Generator) -> list[str]:
    """Ids of a space to encode: those that queries need, and a random sample of the others; ascending."""
    inside = set(members)
    needed = {name for query in queries for name in needed_images(query, inside)}
    others = [image_id for image_id in members if image_id not in needed]
    return sorted([*needed, *(others[place] for place in rng.permutation(len(others))[:sample])])


def _encode_photos(
    photos: Sequence[StoredImage], encoder: Encoder, layout: Layout, progress: Progress | None
) -> tuple[list[StoredImage], Floats]:
    """The photos that can be used, and what would rank them: (n, E) vectors or (n, T, E) tokens, float32."""
    by_digest: dict[bytes, Stored] = {}
    digests: dict[str, bytes] = {}
    done = 0
    for batch in encode_photos(photos, encoder, layout):
        values = batch.tokens if layout.tokens else batch.vectors
        if values is not None:
            by_digest |= zip(batch.digests, values, strict=True)
        digests |= {photo.id: digest for photo, digest in batch.files}
        done += len(batch.files) + len(batch.unreadable)
        if progress:
            progress(done, len(photos))
    usable = [photo for photo in photos if digests.get(photo.id) in by_digest]
    if not usable:
        raise MissingImageError(f"none of {len(photos):,} photos is where it was indexed; bring them back")
    return usable, np.stack([by_digest[digests[photo.id]] for photo in usable]).astype(np.float32)


def _readable(photo: StoredImage) -> bool:
    try:
        return bool(photo.read())
    except (DataError, OSError):
        return False


def _encode_native(searcher: Searcher, space: str, queries: Sequence[JudgedQuery]) -> Floats | None:
    """The queries by the model that made a space; None if its folder is missing."""
    try:
        return searcher.encode_native(space, [query.query for query in queries])
    except WeightsError:
        return None


def _slices(references: Sequence[StoredImage | None]) -> dict[str, Mask]:
    """Queries by the metadata of their reference, for columns of few values."""
    metadata = [photo.metadata if photo else {} for photo in references]
    slices = {}
    for column in sorted({column for row in metadata for column in row}):
        values = {row[column] for row in metadata if column in row}
        if len(values) <= MAX_SLICE_VALUES:
            for value in sorted(values):
                slices[f"{column}={value}"] = np.array([row.get(column) == value for row in metadata])
    return slices
