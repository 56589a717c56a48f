"""Sampled triplets, encoded by the Q-Former up to the projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cir.arrays import Rows
from cir.models.sprc import Sprc
from cir.training.sources import PhotoSource
from cir.training.triplet_sampling import AttributeTable, SampledTriplet

CACHE_BATCH = 128

SourcedTriplet = tuple[PhotoSource, SampledTriplet]  # with the source of its pictures
SourcedItem = tuple[PhotoSource, int]  # a source and a row of its table


@dataclass(frozen=True)
class EncodedTriplets:
    """B triplets and their Q-Former states, before any projection.

    Attributes:
        triplets: each with the source of its pictures.
        states: (B, width) of passes A and B.
        pictures: (2 B, width) of pass C, the mean over T: targets, then references. None if only heads are trained.
        description_states: (B, width) of pass D on the descriptions; None if they are not encoded yet.
        prompt: (B, T, width) of pass A; None if it is not trained.
    """

    triplets: Sequence[SourcedTriplet]
    states: Tensor
    pictures: Tensor | None = None
    description_states: Tensor | None = None
    prompt: Tensor | None = None

    @property
    def items(self) -> list[SourcedItem]:
        """The 2 B items: targets, then references."""
        targets = [(source, triplet.target) for source, triplet in self.triplets]
        return targets + [(source, triplet.reference) for source, triplet in self.triplets]

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedTriplets]) -> EncodedTriplets:
        """All parts in order, without `prompt`."""
        sides = [part.pictures.chunk(2) if part.pictures is not None else (None, None) for part in parts]
        return cls(
            [triplet for part in parts for triplet in part.triplets],
            torch.cat([part.states for part in parts]),
            _concatenated([target for target, _ in sides] + [reference for _, reference in sides]),
            _concatenated([part.description_states for part in parts]),
        )

    def select(self, rows: Rows) -> EncodedTriplets:
        """The triplets at some rows, without `prompt`."""
        both = np.concatenate([rows, rows + len(self.triplets)])
        return EncodedTriplets(
            [self.triplets[row] for row in rows],
            self.states[rows],
            None if self.pictures is None else self.pictures[both],
            None if self.description_states is None else self.description_states[rows],
        )


def _concatenated(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


class TripletEncoder:
    """Encodes sampled triplets from the stored feature maps of their pictures.

    Args:
        model: the model in training.
        with_pictures: encode targets and references for the gallery too; not needed where only heads are trained.
    """

    def __init__(self, model: Sprc, *, with_pictures: bool = True) -> None:
        self.model = model
        self._with_pictures = with_pictures

    def encode(
        self, triplets: Sequence[SourcedTriplet], mirroring: np.random.Generator | None = None
    ) -> EncodedTriplets:
        """Encode triplets, descriptions excepted; `mirroring` as in `maps`."""
        model = self.model
        reference = self.maps([(source, triplet.reference) for source, triplet in triplets], mirroring)
        ids, mask = model.tokenize([triplet.query.caption for _, triplet in triplets])
        prompt = model.sentence_prompt(reference, ids, mask)
        states = model.sentence_state(prompt, ids, mask)
        if not self._with_pictures:
            return EncodedTriplets(triplets, states)
        target = self.maps([(source, triplet.target) for source, triplet in triplets], mirroring)
        pictures = model.target_states(torch.cat([target, reference])).mean(dim=1)
        return EncodedTriplets(triplets, states, pictures, prompt=prompt)

    def description_states(self, batch: EncodedTriplets, rows: Sequence[int]) -> Tensor:
        """(len(rows), width) of pass D on the descriptions of some triplets of a batch."""
        if batch.description_states is not None:
            return batch.description_states[rows]
        descriptions = [batch.triplets[row][1].description for row in rows]
        return self.model.prompted_text_state(*self.model.tokenize(descriptions))

    @torch.no_grad()
    def encode_once(self, triplets: Sequence[SourcedTriplet]) -> EncodedTriplets:
        """Encode triplets and descriptions in eval mode, without mirroring, for a Q-Former that is not trained."""
        parts, training = [], self.model.training
        self.model.eval()
        for start in tqdm(range(0, len(triplets), CACHE_BATCH), desc="encoding triplets", unit="batch", mininterval=10):
            part = self.encode(triplets[start : start + CACHE_BATCH])
            states = self.description_states(part, range(len(part.triplets))) if self._with_pictures else None
            parts.append(replace(part, description_states=states, prompt=None))
        self.model.train(training)
        return EncodedTriplets.concatenate(parts)

    def maps(self, items: Sequence[SourcedItem], mirroring: np.random.Generator | None = None) -> Tensor:
        """(B, P, W) float32 feature maps, on the model's device.

        Args:
            items: B items with pictures.
            mirroring: mirror half of the pictures at random, by reversing the columns of their maps; none if None.
        """
        out = np.concatenate([source.maps_of([row]) for source, row in items])
        if mirroring is not None:
            mirrored = mirroring.random(len(out)) < 0.5
            side = int(out.shape[1] ** 0.5)
            grid = out[mirrored].reshape(-1, side, side, out.shape[-1])[:, :, ::-1]
            out[mirrored] = grid.reshape(-1, side * side, out.shape[-1])
        return torch.from_numpy(out).float().to(self.model.query_tokens.device)


def older_vectors(space: str, items: Sequence[SourcedItem]) -> Tensor:
    """(B, T, D) float32, unit-norm: the gallery of an older space, for B items."""
    return torch.from_numpy(np.concatenate([source.older_of(space, [row]) for source, row in items])).float()


def equal(
    tables: Sequence[AttributeTable],
    triplets: Sequence[SampledTriplet],
    items: Sequence[SourcedItem],
    *,
    described: bool = False,
) -> Tensor:
    """(B, N) bool: whether item n answers triplet b as well as its target does; False across tables.

    Args:
        tables: of all items.
        triplets: B triplets.
        items: N items.
        described: compare with the triplets' descriptions instead of their queries.
    """
    same = np.zeros((len(triplets), len(items)), bool)
    rows = np.array([row for _, row in items])
    for table in tables:
        inside = np.flatnonzero([source.table is table for source, _ in items])
        for number, triplet in enumerate(triplets):
            if triplet.table is table:
                matches = triplet.described_by if described else triplet.answered_by
                same[number, inside] = matches(rows[inside])
    return torch.from_numpy(same)
