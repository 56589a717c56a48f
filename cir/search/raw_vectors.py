"""Queries that people have as vectors already, put into every space in which a gallery is searched."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cir.arrays import Floats, Mask, has_direction, norms_of, unit
from cir.conditions import Conditions, as_conditions
from cir.errors import SpaceMismatchError, UsageError
from cir.given import kind, shown
from cir.indexer.reading.ranking import RankingOptions
from cir.mappings import Maps
from cir.query_vectors import QueryVectors
from cir.types import DEFAULT_RECALL

if TYPE_CHECKING:
    from cir.indexer.reading.gallery import Gallery

log = logging.getLogger(__name__)


def search_vectors(
    gallery: Gallery,
    vectors: Any,
    k: int,
    where: Conditions = None,
    exact: bool = False,
    recall: float = DEFAULT_RECALL,
) -> list[list[tuple[str, float]]]:
    """The best k (id, score) for each of B vectors, best first, ties by id. No model is needed.

    Vectors of the serving model are mapped to older spaces where a mapping of vectors leads there. Where only a query
    head does, those images are left out, and a warning counts them.

    Args:
        gallery: what to search.
        vectors: (B, D) in the serving model's own space, of any length but zero: they are normalised.
        k: number of hits.
        where: conditions that hits meet, as in `Query`: "colour=red", {"colour": "red"}, or several.
        exact: compare with every image.
        recall: the share of the best images that an approximate search must find, as in `Searcher.search_many`.

    Raises:
        UsageError: vectors of another shape or not finite, an unknown metadata column, k below 1, or a
            recall out of range.
        SpaceMismatchError: all images are of older spaces that only a query head reaches.
    """
    given = as_vectors(vectors, gallery.card.dims, gallery.card.name)
    conditions = as_conditions(where)
    queries, allowed = in_every_space(gallery, given)
    if conditions:
        chosen = gallery.select(conditions)
        allowed = chosen if allowed is None else chosen & allowed
    return gallery.search(queries, RankingOptions(k, allowed, exact, recall=recall))


def as_vectors(given: Any, dims: int, name: str) -> Floats:
    """(B, D) float32, unit-norm: vectors of any length but zero, in any numeric type; one (D,) is a B of one.

    Args:
        given: what was given.
        dims: D.
        name: of the model, for messages.

    Raises:
        UsageError: another shape, no numbers, a vector of zeros, or values that are not finite.
    """
    try:
        values = np.asarray(given)
    except ValueError:
        raise UsageError(f"vectors are {shown(given)}, of different lengths; give an array (B, D)") from None
    if values.dtype.kind not in "fiu":
        raise UsageError(f"vectors are {kind(given)} of {values.dtype}; give an array (B, D) of numbers")
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != dims:
        raise UsageError(f"vectors have the shape {np.shape(given)}; those of {name} are (B, {dims})")
    doubled = values.astype(np.float64)
    norms = norms_of(doubled)
    bad = np.flatnonzero(~has_direction(norms))
    if len(bad):
        raise UsageError(f"vector {bad[0]} is zero or not finite, or too short or long to be normalised; leave it out")
    return unit((doubled / norms[:, None]).astype(np.float32))


def in_every_space(gallery: Gallery, vectors: Floats) -> tuple[QueryVectors, Mask | None]:
    """Vectors of the serving model's own space in every space that a gallery is searched in.

    Args:
        gallery: the gallery.
        vectors: (B, D) float32, unit-norm.

    Returns:
        The queries, and the rows that they can find; None for all. Where a query head is what reaches an older space,
        its images are left out, with a warning: a head maps no vectors.

    Raises:
        SpaceMismatchError: none of the images can be found.
    """
    by_space, left_out = {}, []
    for space in gallery.query_spaces:
        mapping = gallery.mappings.get(space)
        if space == gallery.space.id:
            by_space[space] = vectors
        elif mapping is not None and mapping.maps is Maps.QUERIES:
            by_space[space] = mapping.map(vectors)
        else:
            by_space[space] = np.zeros((len(vectors), gallery.manifest.spaces[space].dims), np.float32)
            left_out.append(space)
    if not left_out:
        return QueryVectors(by_space), None
    allowed = gallery.rows.live()
    for entry, start in zip(gallery.entries, gallery.rows.starts, strict=False):
        if entry.space in left_out:
            allowed[start : start + entry.rows] = False
    count = sum(map(gallery.count_in, left_out))
    heads = ", ".join(str(gallery.mappings[space].route) for space in left_out)
    problem = (
        f"{count:,} images of older models are reached by a query head ({heads}), which encodes pictures and texts "
        "and maps no vectors"
    )
    if len(left_out) == len(by_space):
        raise SpaceMismatchError(f"{gallery.folder}: {problem}; search with queries, or run `cir backfill`")
    log.warning("%s: %s; they are left out", gallery.folder, problem)
    return QueryVectors(by_space), allowed
