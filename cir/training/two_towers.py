"""What the tasks `dual` and `combiner` share: neither trains a backbone, so pictures and captions are encoded once."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cir.arrays import Floats, Stored
from cir.compositions import compose
from cir.images import Preprocess
from cir.models.dual_encoder import DualEncoder
from cir.training.attribute_validation import SUM_WEIGHTS, HeldOutVectors, Recalls
from cir.training.encoded_triplets import SourcedItem, SourcedTriplet
from cir.training.features import cached
from cir.training.photo_source import AttributeData, HeldOut
from cir.training.sources import AttributeBatches
from cir.training.validation import Validation

TEXTS_AT_ONCE = 128


@dataclass(frozen=True)
class TwoTowerValidation(Validation):
    """Figures over held-out products.

    Attributes:
        headline: R@1 + R@10 over all galleries, by the task's `judged`.
        recalls: "gallery system" -> recalls.
        weight: the share of the picture at which the sum is best, by R@10 on the first gallery.
    """

    recalls: Mapping[str, Recalls] = field(default_factory=dict)
    weight: float = 0.5

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by the name it has in logs and in the model's card."""
        figures: dict[str, float] = {}
        for name, recalls in self.recalls.items():
            figures |= recalls.named(name)
        return figures | {"sum weight": self.weight, "headline": self.headline}


@dataclass(frozen=True)
class FrozenPictures:
    """A folder with what a frozen dual encoder makes of training pictures: their features, not normalised."""

    folder: Path
    encoder: DualEncoder

    def compute(
        self, name: str, count: int, pixels: Callable[[Preprocess, int], Floats]
    ) -> tuple[Stored, dict[str, Stored]]:
        """(N, 1, D) float16 features of some pictures, computed once; see `FeatureStore.compute`."""
        path = self.folder / f"{name}-{self.encoder.card.digest[:8]}.npy"
        taken = partial(pixels, _AsPreprocess(self.encoder))  # type: ignore[arg-type]
        return cached(path, count, taken, _Features(self.encoder)), {}


class _AsPreprocess:
    """A dual encoder where a `Preprocess` is asked for."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._encoder, self.min_side = encoder, encoder.min_side

    def __call__(self, image: Any) -> Floats:
        return self._encoder.preprocess(image)


class _Features(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self._encoder.image_features(pixels.cpu().numpy()))[:, None]


class TwoTowerTask(ABC):
    """What both tasks share: triplets drawn once, their captions encoded once, and the held-out figures.

    Args:
        data: see `sources.gather`; a picture's features are (1, W).
        batches: what a batch holds; `cached_triplets` are drawn.
        seed: of every random choice.
        device: where to train.

    Attributes:
        judged: the system whose recalls choose the checkpoint.
    """

    judged = "composed"

    def __init__(self, data: AttributeData, batches: AttributeBatches, seed: int, device: torch.device) -> None:
        self.data, self.batches, self.seed, self.device = data, batches, seed, device
        self.tables = list({id(source.table): source.table for source in data.sources}.values())

    @property
    def rates(self) -> Mapping[str, float]:
        """None is slower than the others."""
        return {}

    @property
    def left_out(self) -> int:
        """0: a picture that cannot be read stops `gather`."""
        return 0

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What is trained."""

    @abstractmethod
    def encode_captions(self, captions: Sequence[str]) -> Floats:
        """B captions -> (B, W) float32 features, which training does not change."""

    @abstractmethod
    def vectors(self, pictures: Tensor, texts: Tensor | None) -> Tensor:
        """(B, W) features of pictures, and of captions -> (B, D) unit-norm: of the gallery, or composed."""

    @abstractmethod
    def text_vectors(self, texts: Tensor) -> Tensor:
        """(B, W) features of captions -> (B, D) unit-norm."""

    def draw(self, step: int) -> list[int]:
        """The rows of `triplets` that make the batch of a step."""
        numbers = np.random.default_rng([self.seed, step])
        return numbers.choice(len(self.triplets), self.batches.batch, replace=False).tolist()

    def pictures(self, items: Sequence[SourcedItem]) -> Tensor:
        """(B, W) float32 features of the pictures of B items."""
        values = np.concatenate([source.maps_of([row]) for source, row in items])[:, 0]
        return torch.from_numpy(values).float().to(self.device)

    @cached_property
    def triplets(self) -> list[SourcedTriplet]:
        """`cached_triplets` triplets, to rounding, in random order."""
        rng = random.Random(f"{self.seed} pool")
        shares, count = self.batches.sources, self.batches.cached_triplets
        drawn = [
            (source, triplet)
            for source in self.data.sources
            for triplet in source.sample(round(shares[source.name] * count), rng)
        ]
        random.Random(self.seed).shuffle(drawn)
        return drawn

    def encoded(self, captions: Sequence[str]) -> Tensor:
        """(B, W) features of captions; every distinct one is encoded once."""
        distinct = list(dict.fromkeys(captions))
        parts = [
            self.encode_captions(distinct[start : start + TEXTS_AT_ONCE])
            for start in tqdm(range(0, len(distinct), TEXTS_AT_ONCE), desc="encoding captions", mininterval=10)
        ]
        places = {caption: place for place, caption in enumerate(distinct)}
        return torch.from_numpy(np.concatenate(parts)[[places[caption] for caption in captions]]).to(self.device)

    @cached_property
    def _held_out_texts(self) -> list[Tensor]:
        return [self.encoded([query.caption for query in held_out.queries]) for held_out in self.data.held_out]

    @torch.inference_mode()
    def validate(self) -> TwoTowerValidation:
        """R@1 and R@10 on the held-out products, of what is trained and of picture, text, sum and slerp."""
        recalls: dict[str, Recalls] = {}
        headline, weight = 0.0, 0.5
        for number, (held_out, texts) in enumerate(zip(self.data.held_out, self._held_out_texts, strict=True)):
            encoded, images = self._held_out(held_out, texts)
            if not number:
                weight = max(SUM_WEIGHTS, key=lambda share: encoded.recall(_sum(images, encoded.text, share), 10))
            systems = {
                "composed": encoded.composed,
                "image": images,
                "text": encoded.text,
                "sum": _sum(images, encoded.text, weight),
                "slerp": _sum(images, encoded.text, weight, "slerp"),
            }
            for system, queries in systems.items():
                recalls[f"{held_out.source.name} {system}"] = encoded.recalls(queries)
            judged = recalls[f"{held_out.source.name} {self.judged}"]
            headline += judged.at1 + judged.at10
        return TwoTowerValidation(headline, recalls, weight)

    def _held_out(self, held_out: HeldOut, texts: Tensor) -> tuple[HeldOutVectors, Tensor]:
        place = {image_id: number for number, image_id in enumerate(held_out.ids)}
        references = torch.tensor([place[query.reference] for query in held_out.queries])
        pictures = self.pictures([(held_out.source, int(row)) for row in held_out.rows])
        targets = torch.zeros(len(references), len(place), dtype=torch.bool)
        for row, query in enumerate(held_out.queries):
            targets[row, [place[target] for target in query.targets]] = True
        gallery = self.vectors(pictures, None).cpu()
        composed = self.vectors(pictures[references], texts).cpu()
        encoded = HeldOutVectors(references, targets, gallery, composed, self.text_vectors(texts).cpu())
        return encoded, gallery[references]


def _sum(images: Tensor, texts: Tensor, weight: float, how: str = "sum") -> Tensor:
    return torch.from_numpy(compose(images.numpy(), texts.numpy(), how, weight))
