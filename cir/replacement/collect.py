"""Both models over the same images and the same questions: the costly part of a replacement, done once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cir.errors import DataError, MissingImageError, WeightsError
from cir.images import decode
from cir.indexer.writing.preconditions import keeps_tokens
from cir.replacement.questions import Anchor, needed_photos
from cir.replacement.paired_sample import Study, halves
from cir.search.searcher import Searcher
from cir.types import Query, ExposesQueryStates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cir.indexer.reading.gallery import Gallery
    from cir.types import Encoded, Encoder, ModelCard

    Floats = NDArray[np.float32]

BATCH = 32
SLICE_VALUES = 20  # a metadata column of more values than these is no set of slices

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Observation:
    """What was seen.

    Attributes:
        study: of both models.
        anchors: those it is about, in the order of its rows.
        images_per_second: of the new model, reading and decoding included.
    """

    study: Study
    anchors: Sequence[Anchor]
    images_per_second: float


def observe(
    index: Searcher,
    encoder: Encoder,
    made_by: ModelCard,
    anchors: Sequence[Anchor],
    *,
    sample: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Observation:
    """Encode the anchors and a sample of one space of an index by a new model, beside what is stored.

    Args:
        index: with the models that made it at hand.
        encoder: the new model.
        made_by: the model whose own space it is.
        anchors: questions, each with an answer among its images. Those whose reference, or all of whose answers, have
            no photo any more are left out.
        sample: images besides those that the anchors name.
        rng: draws the sample, and the half of the anchors that fits may see.
        progress: called with (images encoded, images to encode).

    Raises:
        MissingImageError: hardly an anchor has its photos.
        WeightsError: the new model's vectors are not of unit length.
    """
    gallery, space = index.gallery, made_by.space.id
    members = gallery.ids_in(space)
    inside = set(members)
    named = {name for one in anchors for name in needed_photos(one, inside)}
    others = [image_id for image_id in members if image_id not in named]
    drawn = rng.permutation(len(others))[:sample]
    ids = sorted([*named, *(others[place] for place in drawn)])
    started = time.perf_counter()
    encoded, ids = _encode(gallery, encoder, ids, progress)
    speed = len(ids) / max(time.perf_counter() - started, 1e-6)
    row = {image_id: number for number, image_id in enumerate(ids)}
    usable = [one for one in anchors if not row.keys().isdisjoint(one.targets) and _seen(index, one)]
    questions = [one.reference or one.caption for one in usable]
    if len(set(questions)) < 2:
        raise MissingImageError(
            f"the photos of {len(anchors) - len(usable)} of {len(anchors)} anchors are gone or have changed; bring "
            "them back, or keep other anchors with `cir anchors`"
        )
    right = np.zeros((len(usable), len(ids)), bool)
    for number, one in enumerate(usable):
        right[number, [row[target] for target in one.targets if target in row]] = True
    queries = [Query((one.reference,) if one.reference else (), one.caption) for one in usable]
    asked = index.vectors(queries)
    spaces = [None, space] if space in encoder.card.query_heads else [None]
    states, made = _queries(index, encoder, queries, spaces)
    study = Study(
        old_gallery=np.stack([gallery.stored_values(image_id) for image_id in ids]).astype(np.float32),
        new_gallery=encoded,
        old_queries=asked[space] if space == gallery.space.id else _made_by(index, space, queries),
        new_queries=made[None],
        head_queries=made.get(space),
        current=gallery.scores(asked, ids),
        references=np.array([row.get(one.reference, -1) for one in usable]),
        right=right,
        fit=halves(questions, rng),
        slices=_slices(gallery, usable),
        anchored=encoder.card.simplex.dims if encoder.card.simplex and made_by.simplex else 0,
        new_states=states,
    )
    return Observation(study, usable, speed)


def _seen(index: Searcher, anchor: Anchor) -> bool:
    """Whether the reference of an anchor can be shown to a model."""
    try:
        return not anchor.reference or bool(index.gallery.photo(anchor.reference, unchanged=True))
    except (DataError, OSError):
        return False


def _made_by(index: Searcher, space: str, queries: Sequence[Query]) -> Floats | None:
    """The queries by the model whose own space it is; None where that model is not here any more."""
    try:
        return index.made(space, queries)
    except WeightsError:
        return None


def _encode(
    gallery: Gallery, encoder: Encoder, ids: Sequence[str], progress: Progress | None
) -> tuple[Floats, list[str]]:
    """The new model's vectors (or tokens) of images; those whose photo is gone are left out."""
    kept, parts = [], []
    tokens = keeps_tokens(gallery.manifest, encoder.card)
    for start in range(0, len(ids), BATCH):
        pixels = []
        for image_id in ids[start : start + BATCH]:
            try:
                pixels.append(encoder.preprocess(decode(gallery.photo(image_id, unchanged=True), image_id)))
            except (DataError, OSError):
                continue
            kept.append(image_id)
        if pixels:
            parts.append(_values(encoder.encode_images(np.stack(pixels)), tokens))
        if progress:
            progress(min(start + BATCH, len(ids)), len(ids))
    if not parts:
        raise MissingImageError(f"{gallery.path}: none of {len(ids):,} photos is where it was indexed; bring them back")
    return np.concatenate(parts), kept


def _values(encoded: Encoded, tokens: bool) -> Floats:
    """What would decide the rank of these images."""
    values = encoded.tokens if encoded.vectors is None or (tokens and encoded.tokens is not None) else encoded.vectors
    assert values is not None  # an encoder gives at least one of the two
    if not (np.abs(np.linalg.norm(values, axis=-1) - 1) < 1e-2).all():  # also where one is NaN
        raise WeightsError("the new model gives vectors that are not of unit length; it cannot serve")
    return values


def _queries(
    index: Searcher, encoder: Encoder, queries: Sequence[Query], spaces: Sequence[str | None]
) -> tuple[Floats | None, dict[str | None, Floats]]:
    """What the new model says of queries about gallery images: its states where it shows them, and space -> vectors.

    Returns:
        (Q, width) float32 or None, and for every space, None for its own, (Q, D) float32, unit-norm.
    """
    states: dict[int, Floats] = {}
    made: dict[str | None, dict[int, Floats]] = {space: {} for space in spaces}
    told = [row for row, query in enumerate(queries) if not query.references]
    composed = [row for row, query in enumerate(queries) if query.references]
    for rows in [part[start : start + BATCH] for part in (told, composed) for start in range(0, len(part), BATCH)]:
        captions = [queries[row].text for row in rows]
        seen = [index.picture(queries[row].references[0]) for row in rows if queries[row].references]
        pixels = np.stack([encoder.preprocess(picture) for picture in seen]) if seen else None
        if isinstance(encoder, ExposesQueryStates):
            said = encoder.text_states(captions) if pixels is None else encoder.query_states(pixels, captions)
            states |= zip(rows, said, strict=True)
            for space, each in made.items():
                each |= zip(rows, encoder.project_states(said, space), strict=True)
            continue
        for space, each in made.items():
            if pixels is None:
                each |= zip(rows, encoder.encode_texts(captions, space), strict=True)
            else:
                each |= zip(rows, encoder.encode_queries(pixels, captions, space), strict=True)
    order = range(len(queries))
    vectors = {space: np.stack([each[row] for row in order]) for space, each in made.items()}
    return (np.stack([states[row] for row in order]) if states else None), vectors


def _slices(gallery: Gallery, anchors: Sequence[Anchor]) -> dict[str, NDArray[np.bool_]]:
    """Anchors by the metadata of their reference, for columns of few values."""
    told = [gallery.metadata(one.reference) if one.reference else {} for one in anchors]
    slices = {}
    for column in gallery.columns:
        values = {each[column] for each in told if column in each}
        if len(values) <= SLICE_VALUES:
            for value in sorted(values):
                slices[f"{column}={value}"] = np.array([each.get(column) == value for each in told])
    return slices
