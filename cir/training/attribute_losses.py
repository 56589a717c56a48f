"""The loss terms of the task `attributes`.

SPRC's three losses (contrastive on composed queries, contrastive on pass D, alignment of the prompt), a contrastive
loss per query head for an older space, and the terms that keep a gallery on a simplex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from cir.models.sprc import scores
from cir.training import losses
from cir.training.class_map import Classes, VertexLoss
from cir.training.encoded_triplets import EncodedTriplets, SourcedItem, TripletEncoder, equal, older_vectors
from cir.training.sources import AttributeBatches
from cir.training.teacher import Teacher
from cir.training.triplet_sampling import ItemTable

OLDER_TEMPERATURE = 0.07  # fixed, because the older gallery's vectors do not change


class AttributeLosses:
    """Computes the loss terms of a batch.

    Args:
        encoder: with the model in training.
        batches: the weights of the terms.
        tables: of all items in the batches.
        classes: the class on each vertex, for a model with a simplex.
        teacher: a predecessor whose vectors are imitated.
    """

    def __init__(
        self,
        encoder: TripletEncoder,
        batches: AttributeBatches,
        tables: Sequence[ItemTable],
        classes: Classes,
        teacher: Teacher | None = None,
    ) -> None:
        self._teacher = teacher
        self._encoder, self._model, self._batches, self._tables = encoder, encoder.model, batches, tables
        self._simplex = self._model.config.simplex
        self._vertex_loss = VertexLoss(self._simplex, classes, tables) if self._simplex else None

    def __call__(self, batch: EncodedTriplets, described: Sequence[int]) -> dict[str, Tensor]:
        """Name -> weighted term, a scalar.

        Args:
            batch: B triplets; only terms of older heads are computed if it has no `pictures`.
            described: rows of the batch whose descriptions train pass D.
        """
        model, items, triplets = self._model, batch.items, [triplet for _, triplet in batch.triplets]
        answered = equal(self._tables, triplets, items).to(batch.states.device)
        texts = self._texts(batch, described)
        older = self._older(batch.states, texts, items, answered)
        if batch.pictures is None:
            return older
        composed = model.project_query(batch.states)
        # The references are negatives too: the answer must differ from them.
        features = model.gallery_features(self._encoder.picture_states(batch)[:, None])
        vectors = model.normalise_gallery(features, detach_simplex=True)
        terms = {"itc": losses.info_nce(losses.cosines(composed, vectors), self._temperature(), answered)} | older
        terms |= self._simplex_terms(batch, features, vectors, answered)
        if self._teacher is not None:
            imitated = self._teacher.terms(batch, composed, vectors)
            terms |= {name: self._batches.imitation_weight * value for name, value in imitated.items()}
        if texts is not None:
            similarities = losses.cosines(model.project_query(texts.states), vectors[texts.order])
            terms["rtc"] = self._batches.rtc_weight * texts.contrast(similarities, self._temperature())
        if batch.prompt is not None:
            terms["align"] = self._batches.align_weight * model.alignment(batch.prompt.float())
        return terms

    def _temperature(self) -> Tensor:
        return self._model.temp.clamp(0.005, 0.5)

    def _simplex_terms(
        self, batch: EncodedTriplets, features: Tensor, vectors: Tensor, answered: Tensor
    ) -> dict[str, Tensor]:
        """The terms against the vertices and on the simplex dims; none for a model without a simplex."""
        if self._simplex is None or self._vertex_loss is None:
            return {}
        weights, dims, count = self._batches, self._simplex.dims, len(batch.states)
        placed = [(source.table, row) for source, row in batch.items]
        terms = {"vertex": weights.vertex_weight * self._vertex_loss(features, placed)}
        queries = self._model.text_proj(batch.states)
        if weights.query_vertex_weight:
            terms["query vertex"] = weights.query_vertex_weight * self._vertex_loss(queries, placed[:count])
        if weights.simplex_weight:
            inside = [F.normalize(values[:, :dims], dim=-1) for values in (queries, vectors)]
            contrast = losses.info_nce(losses.cosines(*inside), self._temperature(), answered)
            terms["simplex"] = weights.simplex_weight * contrast
        return terms

    def _texts(self, batch: EncodedTriplets, described: Sequence[int]) -> _Texts | None:
        """The descriptions of some triplets; None if there are none."""
        if not described:
            return None
        items, triplets = batch.items, [triplet for _, triplet in batch.triplets]
        order = [*described, *(row for row in range(len(triplets)) if row not in set(described))]
        same = equal(self._tables, [triplets[row] for row in described], [items[row] for row in order], described=True)
        states = self._encoder.description_states(batch, described)
        return _Texts(states, order, same.to(states.device))

    def _older(
        self, states: Tensor, texts: _Texts | None, items: Sequence[SourcedItem], answered: Tensor
    ) -> dict[str, Tensor]:
        """Contrastive terms per head for an older space, against that gallery's vectors of the same items."""
        model, terms = self._model, {}
        for space in model.query_heads:
            stored = older_vectors(space, items).to(states.device)
            similarities = scores(model.project_query(states, space), stored)
            terms[f"older {space[:6]}"] = losses.info_nce(similarities, OLDER_TEMPERATURE, answered)
            if texts is not None:
                similarities = scores(model.project_query(texts.states, space), stored[texts.order])
                contrast = texts.contrast(similarities, OLDER_TEMPERATURE)
                terms[f"older texts {space[:6]}"] = self._batches.rtc_weight * contrast
        return terms


@dataclass(frozen=True)
class _Texts:
    """Descriptions of some triplets of a batch, for pass D.

    Attributes:
        states: (C, width) of pass D.
        order: rows of the batch whose targets they are compared with: each description's own first, then all others.
        same: (C, len(order)) bool, whether a description is true of a target.
    """

    states: Tensor
    order: Sequence[int]
    same: Tensor

    def contrast(self, similarities: Tensor, temperature: Tensor | float) -> Tensor:
        """(C, len(order)) cosines -> scalar: from descriptions to pictures, and from their own pictures back."""
        own = slice(len(self.states))
        there = losses.info_nce(similarities, temperature, self.same)
        back = losses.info_nce(similarities[:, own].T, temperature, self.same[:, own].T)
        return (there + back) / 2
