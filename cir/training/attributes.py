"""The task that trains `small`: composed queries sampled from attributes, over feature maps of a frozen backbone.

Its losses are SPRC's, adapted to attributes. A caption is written for a pair of items, and all other items that answer
it are left out of the negatives. Pass D learns from descriptions of the target ("men's navy t-shirt") instead of the
relative caption, because that is what people type without a reference.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from cir.models import weights
from cir.models.sprc import Sprc
from cir.training.attribute_losses import AttributeLosses
from cir.training.attribute_validation import AttributeValidation, validate
from cir.training.class_map import Classes, class_map
from cir.training.encoded_triplets import EncodedTriplets, SourcedTriplet, TripletEncoder
from cir.training.photo_source import AttributeData
from cir.training.prefetch import Prefetch
from cir.training.sources import AttributeBatches
from cir.training.teacher import Teacher


class AttributeTask:
    """`cir.training.loop.Task` over product photos and the wardrobe.

    Args:
        model: what to train; its backbone is frozen.
        description: name, preprocessing and vocabulary, which are stored with the weights; with `heads_only` all that
            the finished model's card holds.
        batches: what a batch holds, and the weights of the losses.
        seed: of every random choice.
        data: see `sources.gather`.
        predecessors: the class map that this model continues, if its gallery has a simplex.
        heads_only: train only the query heads for older spaces; the rest of the model stays as it is.
        teacher: a predecessor whose vectors are imitated.
    """

    def __init__(
        self,
        model: Sprc,
        description: weights.ModelDescription,
        batches: AttributeBatches,
        seed: int,
        data: AttributeData,
        *,
        predecessors: Classes | None = None,
        heads_only: bool = False,
        teacher: Teacher | None = None,
    ) -> None:
        _freeze(
            model,
            projections_only=bool(batches.cached_triplets),
            heads_only=heads_only,
            still_text=not batches.text_rate,
            keep_gallery=batches.keep_gallery,
        )
        self.model, self.description, self.batches, self.seed, self.data = model, description, batches, seed, data
        self._heads_only = heads_only
        tables = list({id(source.table): source.table for source in data.sources}.values())
        simplex = model.config.simplex
        known = predecessors or {}
        if batches.keep_gallery:
            self.classes = known
        else:
            self.classes = class_map(simplex, tables, known) if simplex else {}
        self._encoder = TripletEncoder(model, with_pictures=not heads_only, keep_gallery=batches.keep_gallery)
        self._losses = AttributeLosses(self._encoder, batches, tables, self.classes, teacher)
        self._sampled = Prefetch(self._sample_step, data.sources, model.query_tokens.device)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.model

    @property
    def rates(self) -> Mapping[str, float]:
        """Text layers, and the summary of whole pictures -> their share of the learning rate."""
        shares = {}
        for name, _ in self.model.named_parameters():
            if _reads_text(name):
                shares[name] = self.batches.text_rate
            elif name.startswith("whole."):
                shares[name] = self.batches.whole_rate
        return shares

    @property
    def left_out(self) -> int:
        """0: a picture that cannot be read stops `gather`."""
        return 0

    def losses(self, step: int) -> dict[str, Tensor]:
        """The weighted terms of the batch of a step."""
        numbers = np.random.default_rng([self.seed, step])
        if self.batches.cached_triplets:
            chosen = numbers.choice(len(self._cached.triplets), self.batches.batch, replace=False)
            batch = self._cached.select(chosen)
        else:
            batch = self._encoder.encode(self._sampled(step), numbers)
        count = len(batch.triplets)
        rng = random.Random(f"{self.seed} {step} described")
        described = sorted(rng.sample(range(count), min(self.batches.descriptions, count)))
        return self._losses(batch, described)

    def validate(self) -> AttributeValidation:
        """Figures on the held-out products."""
        return validate(self._encoder, self.data.held_out)

    def save(self, directory: Path, training: Mapping[str, Any], validation: AttributeValidation) -> None:
        """Write the model directory; further heads leave a finished model's card as it is, and add their record."""
        record = {**training, "held-out": validation.to_json()}
        if self._heads_only:
            described = replace(self.description, training={**self.description.training, "heads": record})
        else:
            described = replace(
                self.description,
                sum_weight=validation.sum_weight,
                min_scores=validation.min_scores,
                gallery_kinds=validation.gallery_kinds,
                classes=self.classes,
                training=record,
            )
        weights.save(directory, self.model, described)

    def _sample_step(self, step: int) -> list[SourcedTriplet]:
        """The triplets of a step."""
        return self._sample(self.batches.batch, random.Random(f"{self.seed} {step}"))

    def _sample(self, count: int, rng: random.Random) -> list[SourcedTriplet]:
        """Triplets of every source by its share; their number is `count` to rounding."""
        shares = self.batches.sources
        return [
            (source, triplet)
            for source in self.data.sources
            for triplet in source.sample(round(shares[source.name] * count), rng)
        ]

    @cached_property
    def _cached(self) -> EncodedTriplets:
        """`cached_triplets` triplets, to rounding, encoded once."""
        steps = range(round(self.batches.cached_triplets / self.batches.batch))
        triplets = [triplet for step in steps for triplet in self._sampled(step)]
        random.Random(self.seed).shuffle(triplets)  # so that every batch holds triplets of all sources
        return self._encoder.encode_once(triplets, self.seed)


def _reads_text(name: str) -> bool:
    """Whether a parameter belongs to the layers that came from the sentence encoder, as its name tells."""
    if "crossattention" in name:
        return False
    layers = (".attention.", ".intermediate.", ".output.")
    return name.startswith(("qformer.layernorm", "embeddings.")) or any(layer in name for layer in layers)


def _asks_only(name: str) -> bool:
    """Whether a parameter takes part in queries and in no gallery vector, as its name tells.

    Query tokens, attention and query feed-forwards make gallery vectors; the text feed-forwards read captions alone.
    """
    if name.startswith("qformer."):
        return "attention." not in name and any(part in name for part in (".intermediate.", ".output."))
    shared = ("query_tokens", "ln_vision.", "gallery_proj.", "vision_proj.", "vision.", "whole.summary.", "whole.last.")
    return not name.startswith(shared)


def _freeze(model: Sprc, *, projections_only: bool, heads_only: bool, still_text: bool, keep_gallery: bool) -> None:
    """Let gradients into the parameters that are trained, and into no others."""
    # Word embeddings stay frozen: they are stored in int8, and words that training never sees keep their place among
    # those it sees.
    model.embeddings.word_embeddings.requires_grad_(False)
    model.vision.requires_grad_(False)
    if model.whole is not None:
        model.whole.last.requires_grad_(False)
    if still_text:
        for name, value in model.named_parameters():
            if _reads_text(name):
                value.requires_grad_(False)
    if keep_gallery:
        for name, value in model.named_parameters():
            value.requires_grad_(value.requires_grad and _asks_only(name))
    if heads_only or projections_only:
        model.requires_grad_(False)
        model.query_heads.requires_grad_(True)
    if projections_only and not heads_only:
        assert model.gallery_proj is not None  # `make_task` has checked it
        trained: list[nn.Module | nn.Parameter] = [model.text_proj, model.gallery_proj, model.temp]
        if model.whole is not None and model.whole.summary is not None:
            trained.append(model.whole.summary)
        for part in trained:
            part.requires_grad_(True)
