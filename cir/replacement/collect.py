"""Collecting a paired sample: the costly part of a study, done once per older space."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, Mask, Stored
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError, WeightsError
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.pipeline import PhotoT, encode_photos
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
        ids: of its images.
        images_per_second: throughput of the new model, reading and decoding included, as in a build.
    """

    sample: PairedSample
    queries: Sequence[JudgedQuery]
    ids: Sequence[str]
    images_per_second: float


@dataclass(frozen=True)
class SampleCollector:
    """Encodes judged queries and a sample of an index with a new model, beside what is stored.

    Attributes:
        searcher: the index, with the models that made it.
        encoder: the new model.
        sample: images to encode, drawn at random, besides those that the queries name.
        progress: called with (images encoded, images to encode).
    """

    searcher: Searcher
    encoder: Encoder
    sample: int
    progress: Progress | None = None

    def collect(self, made_by: ModelCard, queries: Sequence[JudgedQuery], rng: np.random.Generator) -> Collected:
        """Collect the paired sample of one space.

        Args:
            made_by: the model whose own space it is.
            queries: each with a target in the space, or without any that is known. Those without a photo of their
                reference, or of any target, are left out.
            rng: draws the sample, and the half of the queries that fits may see.

        Raises:
            MissingImageError: hardly any query has its photos.
            WeightsError: the new model's vectors are not unit-norm.
        """
        gallery, space, encoder = self.searcher.gallery, made_by.space.id, self.encoder
        drawn = [gallery.image(name) for name in _draw(gallery.ids_in(space), queries, self.sample, rng)]
        photos, new_gallery, speed = self.encode(drawn)
        rows = {photo.id: row for row, photo in enumerate(photos)}
        references = {query.reference: gallery.image(query.reference) for query in queries if query.reference}
        readable = {"", *(name for name, photo in references.items() if _readable(photo))}
        usable = [
            query
            for query in queries
            if query.reference in readable and not (query.targets and rows.keys().isdisjoint(query.targets))
        ]
        if len(set(groups(usable))) < 2:
            raise MissingImageError(
                f"the photos of {len(queries) - len(usable)} of {len(queries)} judged queries are gone or have "
                "changed; bring them back, or store other queries with `cir questions`"
            )
        pictures = [references.get(query.reference) for query in usable]
        new = encode_queries(encoder, pictures, [query.caption for query in usable], space)
        current = self.searcher.encode([query.query for query in usable])
        sample = PairedSample(
            old_gallery=np.stack([photo.stored for photo in photos]).astype(np.float32),
            new_gallery=new_gallery,
            old_queries=current.by_space[space] if space == gallery.space.id else self._encode_native(space, usable),
            new_queries=new.native,
            head_queries=new.head,
            current=gallery.scores(current, list(rows)),
            references=np.array([rows.get(query.reference, -1) for query in usable]),
            relevant=_relevant(usable, rows),
            fit_mask=group_split(groups(usable), rng),
            slices=_slices(pictures),
            simplex_dims=encoder.card.simplex.dims if encoder.card.simplex and made_by.simplex else 0,
            new_states=new.states,
            judged=_judged(usable, rows),
        )
        return Collected(sample, usable, list(rows), speed)

    def encode(self, photos: Sequence[PhotoT]) -> tuple[list[PhotoT], Floats, float]:
        """Encode photos as a build would.

        Returns:
            The photos that can be used; what would rank them, (n, E) vectors or (n, T, E) tokens, float32; and photos
            per second of the pipeline, by the clock.

        Raises:
            MissingImageError: no photo can be used.
            WeightsError: the new model's vectors are not unit-norm.
        """
        tokens = keeps_tokens(self.searcher.gallery.manifest, self.encoder.card)
        layout = Layout.of(self.encoder.card, tokens, "float32")
        by_digest: dict[bytes, Stored] = {}
        digests: dict[str, bytes] = {}
        done, started = 0, time.perf_counter()
        for batch in encode_photos(photos, self.encoder, layout):
            values = batch.tokens if layout.tokens else batch.vectors
            if values is not None:
                by_digest |= zip(batch.digests, values, strict=True)
            digests |= {photo.id: digest for photo, digest in batch.files}
            done += len(batch.files) + len(batch.unreadable)
            if self.progress:
                self.progress(done, len(photos))
        speed = len(photos) / max(time.perf_counter() - started, 1e-6)
        usable = [photo for photo in photos if digests.get(photo.id) in by_digest]
        if not usable:
            raise MissingImageError(f"none of {len(photos):,} photos is where it was indexed; bring them back")
        return usable, np.stack([by_digest[digests[photo.id]] for photo in usable]).astype(np.float32), speed

    def _encode_native(self, space: str, queries: Sequence[JudgedQuery]) -> Floats | None:
        """The queries by the model that made a space; None if its folder is missing."""
        try:
            return self.searcher.encode_native(space, [query.query for query in queries])
        except WeightsError:
            return None


def groups(queries: Sequence[JudgedQuery]) -> list[str]:
    """What keeps queries in one half: their reference, or their caption without one."""
    return [query.reference or query.caption for query in queries]


def _draw(members: Sequence[str], queries: Sequence[JudgedQuery], sample: int, rng: np.random.Generator) -> list[str]:
    """Ids of a space to encode: a random sample, and what queries need; ascending.

    Of queries that people have marked, all right answers. So once a pool of the sample is judged, the same sample is
    drawn again, and no unjudged image moves up into the first ten.
    """
    inside = set(members)
    drawn = {members[place] for place in rng.permutation(len(members))[:sample]}
    for query in queries:
        drawn |= query.targets & inside if query.wrong is not None else set(needed_images(query, inside))
    return sorted(drawn)


def _readable(photo: StoredImage) -> bool:
    try:
        return bool(photo.read())
    except (DataError, OSError):
        return False


def _relevant(queries: Sequence[JudgedQuery], rows: Mapping[str, int]) -> Mask:
    """(Q, N) bool: which images of the sample are targets; `rows` is id -> row of the sample."""
    relevant = np.zeros((len(queries), len(rows)), np.bool_)
    for number, query in enumerate(queries):
        relevant[number, [rows[target] for target in query.targets if target in rows]] = True
    return relevant


def _judged(queries: Sequence[JudgedQuery], rows: Mapping[str, int]) -> Mask | None:
    """(Q, N) bool: which images of the sample were judged; None if all were, for every query."""
    if all(query.wrong is None for query in queries):
        return None
    judged = np.ones((len(queries), len(rows)), np.bool_)
    for number, query in enumerate(queries):
        if query.wrong is not None:
            judged[number] = False
            judged[number, [rows[name] for name in query.targets | query.wrong if name in rows]] = True
    return judged


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
