"""A predecessor as a teacher: a model in training imitates its vectors of what the predecessor knows."""

from __future__ import annotations

import torch
from torch import Tensor

from cir.models.sprc import Sprc
from cir.training.encoded_triplets import EncodedTriplets


class Teacher:
    """Knowledge distillation from a model over the same backbone, in the teacher's own space.

    A vector to imitate says more about a picture than its place in one batch does, so that a student of another
    architecture needs a fraction of the triplets (Hinton et al., 2015).

    Args:
        model: the teacher; its features of a picture are those of the student, and its vectors have the same dims.
        sources: names of the sources that it knows.
    """

    def __init__(self, model: Sprc, sources: set[str]) -> None:
        self._model, self._sources = model.eval().requires_grad_(False), sources

    def terms(self, batch: EncodedTriplets, composed: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        """The mean distance, 1 - cosine, between the student's and the teacher's unit-norm vectors.

        Args:
            batch: B triplets with `features`.
            composed: (B, D) queries by the student.
            vectors: (2 B, D) gallery vectors by the student, targets, then references.
        """
        model, count = self._model, len(batch.triplets)
        known = [row for row, (source, _) in enumerate(batch.triplets) if source.name in self._sources]
        if batch.features is None or not known:
            return {}
        rows = torch.tensor(known, device=vectors.device)
        both = torch.cat([rows, rows + count])
        with torch.no_grad():
            ids, mask = model.tokenize([batch.triplets[row][1].query.caption for row in known])
            prompt = model.sentence_prompt(batch.features[rows + count], ids, mask)
            queries = model.project_query(model.sentence_state(prompt, ids, mask))
            gallery = model.project_vector(model.target_states(batch.features[both]))
        return {
            "imitated queries": (1 - (composed[rows] * queries).sum(dim=-1)).mean(),
            "imitated gallery": (1 - (vectors[both] * gallery).sum(dim=-1)).mean(),
        }
