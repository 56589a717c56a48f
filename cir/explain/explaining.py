"""Explaining hits: what their scores react to, and what the parts of the query do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cir.errors import UsageError
from cir.explain import occlusion
from cir.explain.explanation import Explanation
from cir.explain.maps import METHODS, Maps, Problems, differences, named
from cir.explain.parts import compared, left_out, sample_of
from cir.forks import no_fork
from cir.given import instance, names, printable, whole_number
from cir.search import Searcher
from cir.search.one_generation import on_one_generation
from cir.search.prepare import as_query, prepare

if TYPE_CHECKING:
    from cir.types import Query


def explain(
    searcher: Searcher, query: Query, hit_id: Any, *, method: str = "auto", grid: int = occlusion.GRID
) -> Explanation:
    """Why an image is a hit of a query; see `explain_many`."""
    return explain_many(searcher, query, [hit_id], method=method, grid=grid)[0]


def explain_many(
    searcher: Searcher, query: Query, hit_ids: Any, *, method: str = "auto", grid: int = occlusion.GRID
) -> list[Explanation]:
    """Why images are hits of a query.

    Nothing but the score is explained: `k`, conditions and exclusions of the query do not count, and the images need
    not be among its hits.

    Args:
        searcher: of the index; one generation of it is used from start to end.
        query: the query.
        hit_ids: ids of the gallery, or one.
        method: "occlusion" covers the pictures piece by piece, for any model; "gradients" takes the derivatives of a
            model of this project (SPRC) on torch, which is loaded if need be; "auto" chooses.
        grid: by occlusion, number of cells of a map in height and in width.

    Raises:
        UsageError: an empty query, an unknown method, an id that the gallery does not hold, an image that no search can
            find, or gradients of a model that gives none.
        MissingImageError, ImageDecodeError: a reference that cannot be read.
        CirError: nothing at all can be shown, for the reason that it gives. Where only something is missing, a note of
            the explanation says so.
    """
    started = time.perf_counter()
    searcher = instance(searcher, Searcher, "searcher", "open an index with cir.open_index(path)")
    query = as_query(query)
    if method not in METHODS:
        raise UsageError(f"the method is {method!r}; choose one of {', '.join(METHODS)}")
    wanted = names(hit_ids, "hit_ids")
    if not wanted:
        raise UsageError("no hit; name an image of the index")
    grid = whole_number(grid, "grid", 1, occlusion.LARGEST_GRID)
    explained = _explained(searcher, query, wanted, method, grid)
    seconds = (time.perf_counter() - started) / len(explained)
    return [replace(each, seconds=seconds) for each in explained]


@no_fork
@on_one_generation
def _explained(searcher: Searcher, query: Query, wanted: Sequence[str], method: str, grid: int) -> list[Explanation]:
    gallery = searcher.gallery
    images = [gallery.image(image_id) for image_id in wanted]
    (prepared,) = prepare(gallery, [query])
    parts = left_out(query)
    words = replace(query, references=(), negatives=()) if prepared.references and prepared.caption else None
    vectors = searcher.encode([query, *(each for part in parts for each in part.queries), *([words] if words else ())])
    scores = gallery.scores(vectors, [image.id for image in images])  # (B, n)
    for image, score in zip(images, scores[0].tolist(), strict=True):
        if not np.isfinite(score):
            raise UsageError(
                f"{printable(image.id)} is not searched: no validated mapping leads to the space of its vector; see "
                "`cir info`"
            )
    sample = sample_of(gallery, prepared.excluded)
    others = gallery.scores(vectors, sample)
    maps, problems = Maps(searcher, method, grid), Problems()
    over_references = maps.over_references(prepared, images, problems)
    over_hits = vectors[[0, len(vectors) - 1] if words else [0]]
    explanations = []
    for number, (image, references) in enumerate(zip(images, over_references, strict=True)):
        whole, *rest = compared(scores[:, number], sample, others, image.id)
        values = iter(rest)
        made = tuple(part.measured(whole, values) for part in parts)
        own = Problems(list(problems.notes), problems.first)
        heats = maps.over_hit(image, over_hits, own)
        if own.first is not None and not made and not heats and not any(references):
            raise own.first
        names_of = (named(reference, place) for place, reference in enumerate(query.references))
        over = [*zip(names_of, references, strict=True), (printable(image.id), heats[0] if heats else None)]
        explanations.append(
            Explanation(
                query=query,
                id=image.id,
                measured=whole,
                model=searcher.card.name,
                made_by=gallery.manifest.maker(image.space).name,
                references=references,
                hit=heats[0] if heats else None,
                words=heats[1] if len(heats) > 1 else None,
                parts=made,
                notes=(*own.notes, *differences(over, whole.score)),
                seconds=0.0,
            )
        )
    return explanations
