"""Collecting a paired sample without judged questions: relevant is what the new model would find itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cir.arrays import Floats, Mask, unit
from cir.data.judged_query import JudgedQuery
from cir.errors import MissingImageError, WeightsError
from cir.query import Query
from cir.replacement.collect import Collected, SampleCollector
from cir.replacement.encode_queries import encode_queries
from cir.replacement.fidelity import kinds_of
from cir.replacement.made_queries import make_queries
from cir.replacement.paired_sample import PairedSample
from cir.replacement.photos import GivenPhoto, GivenPhotos, StoredPhoto, draw
from cir.search.searcher import Searcher
from cir.types import ModelCard

MIN_PAIRS = 200  # images that both models have encoded; with 100 a mapping breaks even at best (ridge, real photos)
HELD_OUT = 3  # one of three images is kept out of the fits, and queries are answered from those


def collect_without_judgements(
    collector: SampleCollector, made_by: ModelCard, given: GivenPhotos | None, seed: int
) -> tuple[Collected, str]:
    """Collect the paired sample of one space, with queries made for it.

    Args:
        collector: the index, the new model, and how many images to encode.
        made_by: the model whose own space it is; where its folder is missing, it answers no texts.
        given: photos to read in place of those that were indexed.
        seed: of the sample and the queries.

    Returns:
        The sample, and what its texts were made from.

    Raises:
        MissingImageError: too few photos.
        WeightsError: the new model's vectors are not unit-norm.
    """
    rng = np.random.default_rng(seed)
    gallery, encoder, space = collector.searcher.gallery, collector.encoder, made_by.space.id
    members = gallery.ids_in(space)
    drawn = draw(gallery, members, given, collector.sample, rng)
    photos, new_gallery, speed = collector.encode(drawn) if drawn else ([], np.zeros((0, 1), np.float32), 0.0)
    if len(photos) < MIN_PAIRS:
        problem = (
            f"{len(photos):,} of its {len(members):,} images have a photo that can be read, {MIN_PAIRS} are needed"
        )
        raise MissingImageError(f"{problem} to fit a mapping")
    held_out: Mask = rng.permutation(len(photos)) < len(photos) // HELD_OUT
    made = make_queries(photos, held_out, seed)
    by_id = {photo.id: (row, photo) for row, photo in enumerate(photos)}
    references = np.array([by_id[query.reference][0] if query.reference else -1 for query in made.queries])
    pictures = [by_id[query.reference][1] if query.reference else None for query in made.queries]
    new = encode_queries(encoder, pictures, [query.caption for query in made.queries], space)
    alone = kinds_of(made.queries)["image"]
    new.native[alone] = _vectors(new_gallery)[references[alone]]  # an image is searched by its own vector
    current, old_queries = _encode_old(collector.searcher, space, made.queries, pictures, list(by_id))
    sample = PairedSample(
        old_gallery=np.stack([photo.stored for photo in photos]).astype(np.float32),
        new_gallery=new_gallery,
        old_queries=old_queries,
        new_queries=new.native,
        head_queries=new.head,
        current=current,
        references=references,
        relevant=np.zeros((len(made.queries), len(photos)), np.bool_),
        fit_mask=made.fit_mask,
        slices={},
        simplex_dims=encoder.card.simplex.dims if encoder.card.simplex and made_by.simplex else 0,
        new_states=new.states,
        held_out=held_out,
        labelled=False,
    )
    sample = replace(sample, relevant=_first_hits(sample, held_out))
    return Collected(sample, made.queries, list(by_id), speed), made.source


def _first_hits(sample: PairedSample, held_out: Mask) -> Mask:
    """(Q, N) the new model's own first hit, of the held-out images for a query that is measured, else of the others."""
    scores = np.where(sample.fit_mask[:, None] != held_out, sample.reindexed, -np.inf)
    with_reference = np.flatnonzero(sample.references >= 0)
    scores[with_reference, sample.references[with_reference]] = -np.inf
    relevant: Mask = np.zeros(scores.shape, np.bool_)
    relevant[np.arange(len(scores)), scores.argmax(axis=1)] = True
    return relevant


def _encode_old(
    searcher: Searcher,
    space: str,
    queries: Sequence[JudgedQuery],
    pictures: Sequence[StoredPhoto | None],
    ids: Sequence[str],
) -> tuple[Floats, Floats | None]:
    """(Q, N) scores of the index as it is, NaN for queries that its model cannot encode; and (Q, D) their vectors by
    the model that made the space, or None if it cannot encode all of them."""
    scores = np.full((len(queries), len(ids)), np.nan, np.float32)
    vectors = np.zeros((len(queries), searcher.gallery.manifest.spaces[space].dims), np.float32)
    complete = True
    for members in kinds_of(queries).values():
        rows = np.flatnonzero(members)
        asked = [_query(queries[row], pictures[row]) for row in rows.tolist()]
        try:
            encoded = searcher.encode(asked)
            scores[rows] = searcher.gallery.scores(encoded, ids)
            native = space == searcher.gallery.space.id
            vectors[rows] = encoded.by_space[space] if native else searcher.encode_native(space, asked)
        except WeightsError:  # a model of which only the name is known, or whose folder is missing
            complete = False
    return scores, vectors if complete else None


def _query(query: JudgedQuery, picture: StoredPhoto | None) -> Query:
    """The query as the index is asked: a photo that is given anew is not where the index looks for it."""
    if isinstance(picture, GivenPhoto) and query.caption:
        return Query((picture.file,), query.caption)
    return query.query


def _vectors(gallery: Floats) -> Floats:
    """(N, D) one vector per image; the mean of its tokens without one."""
    return gallery if gallery.ndim == 2 else unit(gallery.mean(axis=1))
