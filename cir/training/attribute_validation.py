"""Validation of the task `attributes`: recall over held-out products, and the figures for the model's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cir.model_card import GalleryKind
from cir.models.sprc import scores
from cir.training.encoded_triplets import TripletEncoder, older_vectors
from cir.training.photo_source import HeldOut
from cir.training.validation import Validation
from cir.types import Simplex

# Share of answerable held-out queries that may be reported as not confident; it sets the card's `min_scores`.
FALSE_ALARMS = 0.05
OUTSIDE = 0.05  # share of a kind's own pictures that are farther from its centre than its card says
SUM_WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))
BATCH = 128


@dataclass(frozen=True)
class Recalls:
    """R@1 and R@10, as shares of the queries."""

    at1: float
    at10: float

    def named(self, name: str) -> dict[str, float]:
        """Both by name, such as "wardrobe R@1"."""
        return {f"{name} R@1": self.at1, f"{name} R@10": self.at10}


@dataclass(frozen=True)
class AttributeValidation(Validation):
    """Figures of a model over held-out products.

    Attributes:
        headline: sum of R@1 and R@10 over all galleries.
        galleries: source -> recalls of composed queries.
        texts: source -> recalls of captions that each describe one image, where the gallery has such.
        baselines: source -> R@10 of the best of image, text and, at the best weight, their sum.
        sum_curve: share of the image -> R@10 of the *sum* baseline.
        simplex_at10: R@10 of composed queries on the simplex dims alone; None without a simplex.
        older: id of each older space -> recalls of its query head over its model's gallery.
        older_simplex: the same of the native queries on the simplex dims alone, where both models have the simplex.
        gallery_kinds: the galleries as kinds, for the card.
    """

    galleries: Mapping[str, Recalls] = field(default_factory=dict)
    texts: Mapping[str, Recalls] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    sum_curve: Mapping[float, float] = field(default_factory=dict)
    simplex_at10: float | None = None
    older: Mapping[str, Recalls] = field(default_factory=dict)
    older_simplex: Mapping[str, Recalls] = field(default_factory=dict)
    gallery_kinds: tuple[GalleryKind, ...] = ()

    @property
    def min_scores(self) -> dict[str, float]:
        """For the card: "composed" and "text" -> the lowest of all galleries, so that it holds for every one."""
        floors = [kind.min_scores for kind in self.gallery_kinds]
        return {form: min(floor[form] for floor in floors) for form in (floors[0] if floors else ())}

    @property
    def sum_weight(self) -> float:
        """The share of the image at which the *sum* baseline is best; a half if it was not measured."""
        return max(self.sum_curve, key=self.sum_curve.__getitem__, default=0.5)

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by the name it has in logs and in the model's card."""
        curve = {f"sum {share:.2f} R@10": value for share, value in self.sum_curve.items()}
        return self._recalls | curve | self._others

    @property
    def summary(self) -> dict[str, float]:
        """The figures for a progress line: all but the curve of the *sum* baseline."""
        return self._recalls | self._others

    @property
    def _recalls(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for source, recalls in self.galleries.items():
            figures |= recalls.named(source)
            figures[f"{source} best baseline R@10"] = self.baselines[source]
        for source, recalls in self.texts.items():
            figures |= recalls.named(f"{source} text")
        return figures

    @property
    def _others(self) -> dict[str, float]:
        figures = {} if self.simplex_at10 is None else {"simplex R@10": self.simplex_at10}
        for space, recalls in self.older.items():
            figures |= recalls.named(f"older {space[:6]}")
            if space in self.older_simplex:
                figures |= self.older_simplex[space].named(f"simplex over {space[:6]}")
        figures |= {f"min score {kind}": value for kind, value in self.min_scores.items()}
        return figures | {"headline": self.headline}


@dataclass(frozen=True)
class HeldOutVectors:
    """A held-out gallery and its queries, encoded; all unit-norm float32.

    Attributes:
        references: (Q,) place of each reference in the gallery.
        targets: (Q, N) bool, the right answers.
        gallery: (N, D).
        composed, text: (Q, D), queries with and without the reference.
        descriptions: (C, D), captions that each describe one image; C may be 0.
        described: (C,) place of that image in the gallery.
        older: id of each older space -> its model's gallery (N, T, D), and the queries of the head for it (Q, D).
    """

    references: Tensor
    targets: Tensor
    gallery: Tensor
    composed: Tensor
    text: Tensor
    older: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    descriptions: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    described: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def text_recalls(self) -> Recalls:
        """R@1 and R@10 of the descriptions."""
        similarities = self.descriptions @ self.gallery.T
        own = similarities.gather(1, self.described[:, None])
        better = (similarities > own).sum(dim=1)
        return Recalls(*(float((better < k).float().mean()) for k in (1, 10)))

    def recalls(self, queries: Tensor, gallery: Tensor | None = None) -> Recalls:
        """R@1 and R@10 of (Q, D) queries, over the model's own gallery or an older one (N, T, D)."""
        ranked = self._scores(queries, gallery)
        return Recalls(*(self._recall(ranked, k) for k in (1, 10)))

    def recall(self, queries: Tensor, k: int) -> float:
        """Share of (Q, D) queries with a right answer among the first k."""
        return self._recall(self._scores(queries), k)

    def kind(self, name: str) -> GalleryKind:
        """The gallery as a kind, with the floors that hold for it."""
        centre = F.normalize(self.gallery.mean(dim=0), dim=0)
        least = float((self.gallery @ centre).quantile(OUTSIDE))
        floors = {"composed": self.min_score(self.composed), "text": self.min_text_score()}
        return GalleryKind.of(name, centre.numpy(), least, floors)

    def min_score(self, queries: Tensor) -> float:
        """The score that the best hit reaches for all but `FALSE_ALARMS` of (Q, D) queries, all of them answerable."""
        return float(self._scores(queries).amax(dim=1).quantile(FALSE_ALARMS))

    def min_text_score(self) -> float:
        """The same of descriptions, or, where there are none, of captions without their references."""
        if not len(self.descriptions):
            return self.min_score(self.text)
        return float((self.descriptions @ self.gallery.T).amax(dim=1).quantile(FALSE_ALARMS))

    def _recall(self, ranked: Tensor, k: int) -> float:
        found = self.targets.gather(1, ranked.topk(k).indices)
        return float(found.any(dim=1).float().mean())

    def _scores(self, queries: Tensor, gallery: Tensor | None = None) -> Tensor:
        """(Q, D) -> (Q, N); a query's own reference is ranked last."""
        similarities = queries @ self.gallery.T if gallery is None else scores(queries, gallery)
        similarities[torch.arange(len(queries)), self.references] = -2
        return similarities


@torch.inference_mode()
def encode_held_out(encoder: TripletEncoder, held_out: HeldOut) -> HeldOutVectors:
    """Encode a held-out gallery and its queries, with the model in eval mode."""
    model, source, queries = encoder.model.eval(), held_out.source, held_out.queries
    place = {image_id: number for number, image_id in enumerate(held_out.ids)}
    references = [place[query.reference] for query in queries]
    items = [(source, int(row)) for row in held_out.rows]
    gallery, composed, text = [], [], []
    older: dict[str, list[Tensor]] = {space: [] for space in model.query_heads}
    for start in range(0, len(items), BATCH):
        gallery.append(model.project_vector(model.target_states(encoder.maps(items[start : start + BATCH]))))
    for start in range(0, len(queries), BATCH):
        maps = encoder.maps([items[reference] for reference in references[start : start + BATCH]])
        ids, mask = model.tokenize([query.caption for query in queries[start : start + BATCH]])
        states = model.sentence_state(model.sentence_prompt(maps, ids, mask), ids, mask)
        composed.append(model.project_query(states))
        for space, parts in older.items():
            parts.append(model.project_query(states, space))
        text.append(model.prompted_text_vector(ids, mask))
    descriptions = []
    for start in range(0, len(held_out.descriptions), BATCH):
        captions = [caption for caption, _ in held_out.descriptions[start : start + BATCH]]
        descriptions.append(model.prompted_text_vector(*model.tokenize(captions)).cpu())
    targets = torch.zeros(len(queries), len(place), dtype=torch.bool)
    for row, query in enumerate(queries):
        targets[row, [place[target] for target in query.targets]] = True
    return HeldOutVectors(
        torch.tensor(references),
        targets,
        torch.cat(gallery).cpu(),
        torch.cat(composed).cpu(),
        torch.cat(text).cpu(),
        {space: (older_vectors(space, items), torch.cat(parts).cpu()) for space, parts in older.items()},
        torch.cat(descriptions) if descriptions else torch.zeros(0, model.config.dims),
        torch.tensor([place for _, place in held_out.descriptions], dtype=torch.long),
    )


def validate(encoder: TripletEncoder, galleries: Sequence[HeldOut]) -> AttributeValidation:
    """Recalls of composed queries on each held-out gallery; on the first also every figure for the card."""
    vectors = [encode_held_out(encoder, held_out) for held_out in galleries]
    recalls = {
        held_out.source.name: encoded.recalls(encoded.composed)
        for held_out, encoded in zip(galleries, vectors, strict=True)
    }
    texts = {
        held_out.source.name: encoded.text_recalls()
        for held_out, encoded in zip(galleries, vectors, strict=True)
        if held_out.descriptions
    }
    headline = sum(value.at1 + value.at10 for value in (*recalls.values(), *texts.values()))
    if not vectors:
        return AttributeValidation(headline)
    first, simplex = vectors[0], encoder.model.config.simplex
    curves = [_sum_curve(encoded) for encoded in vectors]
    best = {held_out.source.name: max(curve.values()) for held_out, curve in zip(galleries, curves, strict=True)}
    return AttributeValidation(
        headline,
        galleries=recalls,
        texts=texts,
        baselines=best,
        sum_curve=curves[0],
        simplex_at10=first.recall(_on_simplex(first.composed, simplex), 10) if simplex else None,
        older={space: first.recalls(queries, gallery) for space, (gallery, queries) in first.older.items()},
        older_simplex=_older_simplex(first, simplex) if simplex else {},
        gallery_kinds=tuple(
            encoded.kind(held_out.source.name) for held_out, encoded in zip(galleries, vectors, strict=True)
        ),
    )


def _sum_curve(vectors: HeldOutVectors) -> dict[float, float]:
    """Share of the image -> R@10 of the *sum* baseline."""
    image = vectors.gallery[vectors.references]
    return {
        share: vectors.recall(F.normalize(share * image + (1 - share) * vectors.text, dim=-1), 10)
        for share in SUM_WEIGHTS
    }


def _older_simplex(vectors: HeldOutVectors, simplex: Simplex) -> dict[str, Recalls]:
    """Recalls on the simplex dims alone over each older gallery of the same dims."""
    queries = _on_simplex(vectors.composed, simplex)
    return {
        space: vectors.recalls(queries, gallery)
        for space, (gallery, _) in vectors.older.items()
        if gallery.shape[-1] == queries.shape[-1]
    }


def _on_simplex(queries: Tensor, simplex: Simplex) -> Tensor:
    """(Q, D) -> (Q, D) unit-norm, with the free dims set to zero."""
    return F.normalize(queries * (torch.arange(queries.shape[1]) < simplex.dims), dim=-1)
