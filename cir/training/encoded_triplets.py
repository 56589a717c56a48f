"""Sampled triplets, encoded by the Q-Former up to the projections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cir.arrays import Rows
from cir.models.sprc import Sprc
from cir.training.photo_source import PhotoSource
from cir.training.triplet_sampling import ItemTable, SampledTriplet

CACHE_BATCH, ACCELERATOR_BATCH = 128, 1024

SourcedTriplet = tuple[PhotoSource, SampledTriplet]  # with the source of its pictures
SourcedItem = tuple[PhotoSource, int]  # a source and a row of its table


@dataclass(frozen=True)
class EncodedTriplets:
    """B triplets and their Q-Former states, before any projection.

    Attributes:
        triplets: each with the source of its pictures.
        states: (B, width) of passes A and B.
        pictures: (2 B, width) of pass C, the mean over T: targets, then references. None if only heads are trained.
            Where the model sees whole pictures too, without their summary.
        pooled: (2 B, ...) pooled features for that summary; None for a model without it.
        description_states: (B, width) of pass D on the descriptions; None if they are not encoded yet.
        prompt: (B, T, width) of pass A; None if it is not trained.
        features: (2 B, P, W) maps of the pictures, for a teacher; None if they are not kept.
    """

    triplets: Sequence[SourcedTriplet]
    states: Tensor
    pictures: Tensor | None = None
    pooled: Tensor | None = None
    description_states: Tensor | None = None
    prompt: Tensor | None = None
    features: Tensor | None = None

    @property
    def items(self) -> list[SourcedItem]:
        """The 2 B items: targets, then references."""
        targets = [(source, triplet.target) for source, triplet in self.triplets]
        return targets + [(source, triplet.reference) for source, triplet in self.triplets]

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedTriplets]) -> EncodedTriplets:
        """All parts in order, without `prompt` and `features`."""
        return cls(
            [triplet for part in parts for triplet in part.triplets],
            torch.cat([part.states for part in parts]),
            _targets_first([part.pictures for part in parts]),
            _targets_first([part.pooled for part in parts]),
            _concatenated([part.description_states for part in parts]),
        )

    def select(self, rows: Rows) -> EncodedTriplets:
        """The triplets at some rows, without `prompt`."""
        both = np.concatenate([rows, rows + len(self.triplets)])
        return EncodedTriplets(
            [self.triplets[row] for row in rows],
            self.states[rows],
            None if self.pictures is None else self.pictures[both],
            None if self.pooled is None else self.pooled[both],
            None if self.description_states is None else self.description_states[rows],
        )


def _targets_first(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Targets of all parts, then references of all parts."""
    sides = [part.chunk(2) if part is not None else (None, None) for part in parts]
    return _concatenated([target for target, _ in sides] + [reference for _, reference in sides])


def _concatenated(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


class TripletEncoder:
    """Encodes sampled triplets from the stored feature maps of their pictures.

    Args:
        model: the model in training.
        with_pictures: encode targets and references for the gallery too; not needed where only heads are trained.
        keep_gallery: the gallery is not trained, and encoded as it will be stored: without dropout.
    """

    def __init__(self, model: Sprc, *, with_pictures: bool = True, keep_gallery: bool = False) -> None:
        self.model = model
        self._with_pictures, self._keep_gallery = with_pictures, keep_gallery
        self._maps: dict[int, Tensor] = {}

    def encode(self, triplets: Sequence[SourcedTriplet], varying: np.random.Generator | None = None) -> EncodedTriplets:
        """Encode triplets, descriptions excepted; `varying` as in `maps`."""
        model = self.model
        references = [(source, triplet.reference) for source, triplet in triplets]
        reference = self.maps(references, varying)
        ids, mask = model.tokenize([triplet.query.caption for _, triplet in triplets])
        prompt = model.sentence_prompt(reference, ids, mask)
        states = model.sentence_state(prompt, ids, mask)
        if not self._with_pictures:
            return EncodedTriplets(triplets, states)
        target = self.maps([(source, triplet.target) for source, triplet in triplets], varying)
        both = torch.cat([target, reference])
        pooled = None if model.whole is None or model.whole.summary is None else model.whole.pool(both)
        with self._as_stored():
            pictures = model.map_states(both).mean(dim=1)
        return EncodedTriplets(triplets, states, pictures, pooled, prompt=prompt, features=both)

    def picture_states(self, batch: EncodedTriplets) -> Tensor:
        """(2 B, width) of pass C, the summary of the whole picture included: targets, then references."""
        assert batch.pictures is not None
        summary = None if self.model.whole is None else self.model.whole.summary
        if summary is None or batch.pooled is None:
            return batch.pictures
        with self._as_stored():
            states: Tensor = batch.pictures + summary(batch.pooled)
        return states

    @contextmanager
    def _as_stored(self) -> Iterator[None]:
        """A finished gallery is encoded in eval mode and without gradients."""
        if not self._keep_gallery:
            yield
            return
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

    def description_states(self, batch: EncodedTriplets, rows: Sequence[int]) -> Tensor:
        """(len(rows), width) of pass D on the descriptions of some triplets of a batch."""
        if batch.description_states is not None:
            return batch.description_states[rows]
        descriptions = [batch.triplets[row][1].description for row in rows]
        return self.model.prompted_text_state(*self.model.tokenize(descriptions))

    @torch.no_grad()
    def encode_once(self, triplets: Sequence[SourcedTriplet], seed: int) -> EncodedTriplets:
        """Encode triplets and descriptions in eval mode, for a Q-Former that is not trained; `seed` of the views."""
        numbers = np.random.default_rng(seed)
        parts, training = [], self.model.training
        size = CACHE_BATCH if self.model.query_tokens.device.type == "cpu" else ACCELERATOR_BATCH
        self.model.eval()
        for start in tqdm(range(0, len(triplets), size), desc="encoding triplets", unit="batch", mininterval=10):
            part = self.encode(triplets[start : start + size], numbers)
            states = self.description_states(part, range(len(part.triplets)))
            parts.append(replace(part, description_states=states, prompt=None, features=None))
        self.model.train(training)
        return EncodedTriplets.concatenate(parts)

    def maps(self, items: Sequence[SourcedItem], varying: np.random.Generator | None = None) -> Tensor:
        """(B, P, W) float32 feature maps, on the model's device.

        Args:
            items: B items with pictures.
            varying: chooses among the views of a picture, and mirrors half of them by reversing the columns of their
                maps; the first view of each, unmirrored, if None.
        """
        device = self.model.query_tokens.device
        out: Tensor | None = None
        for source in dict.fromkeys(source for source, _ in items):
            places = [place for place, (owner, _) in enumerate(items) if owner is source]
            at = torch.from_numpy(source.maps_at([items[place][1] for place in places], varying))
            found = self._stored(source)[at.to(device)]
            out = found.new_empty(len(items), *found.shape[1:]) if out is None else out
            out[torch.tensor(places, device=device)] = found
        assert out is not None
        out = out.float()
        if varying is None:
            return out
        side = int(out.shape[1] ** 0.5)
        mirrored = torch.from_numpy(varying.random(len(out)) < 0.5).to(device)
        grid = out.unflatten(1, (side, side)).flip(2).flatten(1, 2)
        return torch.where(mirrored[:, None, None], grid, out)

    def _stored(self, source: PhotoSource) -> Tensor:
        """(views * N, P, W) float16 maps of a source, on the model's device: an accelerator's memory holds them all."""
        if id(source) not in self._maps:
            self._maps[id(source)] = torch.from_numpy(source.maps).to(self.model.query_tokens.device)
        return self._maps[id(source)]


def older_vectors(space: str, items: Sequence[SourcedItem]) -> Tensor:
    """(B, T, D) float32, unit-norm: the gallery of an older space, for B items."""
    return torch.from_numpy(np.concatenate([source.older_of(space, [row]) for source, row in items])).float()


def equal(
    tables: Sequence[ItemTable],
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
