"""Which composition suits an index: chosen on half of its judged queries, measured on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cir.arrays import Mask
from cir.data.judged_query import JudgedQuery
from cir.eval.engine import Retriever
from cir.model_card import APART
from cir.query_vectors import QueryVectors
from cir.types import Query

WEIGHTS = tuple(round(0.1 * i, 1) for i in range(1, 10))
DEPTHS = (1, 10)


@dataclass(frozen=True)
class Composed:
    """One composition, measured.

    Attributes:
        how, weight: which.
        recalls: "R@1", "R@10" -> share of the measured queries answered.
    """

    how: str
    weight: float
    recalls: dict[str, float]


def compare(retriever: Retriever, queries: Sequence[JudgedQuery], *, seed: int = 0) -> tuple[list[Composed], int]:
    """Every composition at the share of the picture that is best for it, the best first; and how many were measured.

    Queries of one reference stay in one half, and a reference is not among its own hits.

    Args:
        retriever: an index whose model encodes picture and caption apart.
        queries: judged queries with a reference and a caption.
        seed: of the halves.
    """
    rng = np.random.default_rng(seed)
    names = sorted({query.reference for query in queries})
    chosen = set(rng.permutation(names)[: len(names) // 2].tolist())
    fits = np.array([query.reference in chosen for query in queries])
    pictures = retriever.encode([Query(query.reference) for query in queries])
    texts = retriever.encode([Query(text=query.caption) for query in queries])
    found = []
    for how in APART:
        hits = {weight: _hits(retriever, queries, _composed(pictures, texts, how, weight)) for weight in WEIGHTS}
        best = max(WEIGHTS, key=lambda weight: sum(float(mask[fits].mean()) for mask in hits[weight].values()))
        recalls = {f"R@{depth}": float(mask[~fits].mean()) for depth, mask in hits[best].items()}
        found.append((sum(float(mask[fits].mean()) for mask in hits[best].values()), Composed(how, best, recalls)))
    ordered = [composed for _, composed in sorted(found, key=lambda pair: -pair[0])]
    return ordered, int((~fits).sum())


def _composed(pictures: QueryVectors, texts: QueryVectors, how: str, weight: float) -> QueryVectors:
    if how == "product":
        return pictures.product(texts, weight)
    if how == "slerp":
        return pictures.slerp(texts, weight)
    return (weight * pictures + (1 - weight) * texts).unit()


def _hits(retriever: Retriever, queries: Sequence[JudgedQuery], vectors: QueryVectors) -> dict[int, Mask]:
    """Depth -> (Q,) bool: whether a target is among the first hits."""
    ranked = retriever.rank(vectors, max(DEPTHS), exclude=[frozenset({query.reference}) for query in queries])
    return {
        depth: np.array(
            [
                any(image_id in query.targets for image_id, _ in hits[:depth])
                for query, hits in zip(queries, ranked, strict=True)
            ]
        )
        for depth in DEPTHS
    }
