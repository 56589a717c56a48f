"""The task of the official recipes: SPRC's three losses on the annotated triplets of FashionIQ or CIRR.

As in the official code: batches without replacement, the rest of an epoch dropped; FashionIQ's two captions joined or
taken alone at random; in-batch negatives; no augmentation; dropout in the Q-Former alone. Different here: a part of the
train references is held out, and the best checkpoint is chosen on it instead of on val.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cir import devices
from cir.arrays import Floats, Rows
from cir.data.annotations import find_pictures
from cir.data.fashioniq import join_captions
from cir.data.judged_query import JudgedQuery
from cir.data.protocols import TRAIN_SPLITS
from cir.errors import DataError, ImageDecodeError, MissingImageError, WeightsError
from cir.images import ImageFile, decode
from cir.models import weights
from cir.models.sprc import Sprc, scores
from cir.training.validation import Validation

VALIDATION_BATCH = 32


@dataclass(frozen=True)
class TripletBatches:
    """The section [batches] of the task `triplets`.

    Attributes:
        dataset: "fashioniq" or "cirr".
        batch: triplets per step, over all devices.
        rtc_weight, align_weight: of the second and third loss; 1 and 1 for FashionIQ, 0.4 and 0.4 for CIRR.
        held_out: share of the train references whose triplets are held out; 0 trains on all, as the official code
            does, and keeps the last checkpoint.
        workers: threads that decode pictures.
    """

    dataset: str
    batch: int
    rtc_weight: float
    align_weight: float
    held_out: float = 0.05
    workers: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError for settings that give no batches."""
        if self.batch < 1 or self.workers < 1 or not 0 <= self.held_out < 1:
            raise ValueError("batch and workers are 1 or more, held_out is a share in [0, 1)")
        if f"{self.dataset}-train" not in TRAIN_SPLITS:
            known = ", ".join(name.removesuffix("-train") for name in TRAIN_SPLITS)
            raise ValueError(f"no data set {self.dataset!r} to train on; choose one of {known}")


@dataclass(frozen=True)
class TripletData:
    """Triplets with the pictures they name.

    Attributes:
        train, held_out: judged queries with one target each; no reference is in both.
        images: id -> picture.
        keep_reference: whether the reference stays in the ranking of held-out queries.
        unreadable: ids of pictures that are missing or broken, and whose triplets are left out.
    """

    train: Sequence[JudgedQuery]
    held_out: Sequence[JudgedQuery]
    images: Mapping[str, ImageFile]
    keep_reference: bool
    unreadable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TripletValidation(Validation):
    """Recalls of the held-out triplets.

    Attributes:
        headline: mean of R@10 and R@50.
        recalls: k -> R@k, as a share; empty if nothing is held out.
    """

    recalls: Mapping[int, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by the name it has in logs and in the model's card."""
        return {f"held-out R@{k}": value for k, value in self.recalls.items()} | {"headline": self.headline}


def read_triplets(batches: TripletBatches, root: Path, *, allow_unreadable: bool = False) -> TripletData:
    """The train split of a data set in its official layout.

    If broken pictures are allowed, every picture is opened once in advance, so that their number is known before the
    first step and equal in every process and after every resumption.

    Args:
        batches: names the data set, and the share that is held out.
        root: the data set's folder.
        allow_unreadable: leave out the triplets of missing and broken pictures.

    Raises:
        DataError: an annotation file is missing or malformed.
        MissingImageError: pictures are missing and that is not allowed.
    """
    triplets, places = TRAIN_SPLITS[f"{batches.dataset}-train"].read(root)
    images = {image.id: image for image in find_pictures(places)}
    gone = places.keys() - images.keys()
    if gone and not (allow_unreadable and images):
        raise MissingImageError(
            f"{root}: {len(gone):,} of {len(places):,} training images are missing, first {places[min(gone)]}"
            " (.png or .jpg); get them, or go on without them with --allow-unreadable"
        )
    if allow_unreadable:
        broken = _broken(images, batches.workers)
        gone = gone | broken
        images = {name: image for name, image in images.items() if name not in broken}
    triplets = [query for query in triplets if query.reference in images and query.targets <= images.keys()]
    apart = [_share(query.reference) < batches.held_out for query in triplets]
    return TripletData(
        train=[query for query, held_out in zip(triplets, apart, strict=True) if not held_out],
        held_out=[query for query, held_out in zip(triplets, apart, strict=True) if held_out],
        images=images,
        keep_reference=batches.dataset == "fashioniq",
        unreadable=frozenset(gone),
    )


def _broken(images: Mapping[str, ImageFile], workers: int) -> set[str]:
    """Names of the pictures that cannot be decoded."""

    def fails(name: str) -> bool:
        try:
            decode(images[name].read(), images[name].path)
        except (ImageDecodeError, OSError):
            return True
        return False

    with ThreadPoolExecutor(workers) as pool:
        names = tqdm(list(images), desc="opening the pictures", unit="image", mininterval=5, disable=None)
        return {name for name, failed in zip(images, pool.map(fails, names), strict=True) if failed}


def _share(name: str) -> float:
    """A fixed number in [0, 1) for an image id."""
    return int(hashlib.sha1(name.encode()).hexdigest()[:8], 16) / 2**32


def rank_of(similarities: Tensor, targets: Tensor) -> Tensor:
    """(B, N) similarities to images in the order of their ids, (B,) places -> (B,) ranks from 0; ties by id."""
    wanted = similarities.gather(1, targets[:, None])
    before = torch.arange(similarities.shape[1]) < targets[:, None]
    return ((similarities > wanted) | ((similarities == wanted) & before)).sum(dim=1)


def drawn_caption(captions: Sequence[str], rng: random.Random) -> str:
    """A caption for one step: of FashionIQ's two "c1 and c2", "c2 and c1", c1 or c2; a single caption unchanged."""
    if len(captions) != 2:
        return captions[0]
    first, second = (caption.strip(".?, ") for caption in captions)
    return rng.choice([f"{first} and {second}", f"{second} and {first}", first, second])


def validation_caption(captions: Sequence[str]) -> str:
    """The caption of a held-out query: FashionIQ's two joined, CIRR's unchanged."""
    return join_captions(captions) if len(captions) > 1 else captions[0]


def target_of(query: JudgedQuery) -> str:
    """The only target of a training triplet."""
    (target,) = query.targets
    return target


class TripletTask:
    """`cir.training.loop.Task` over annotated triplets.

    Args:
        model: where training starts; its backbone is frozen.
        description: name, preprocessing and vocabulary, which are stored with the weights.
        batches: what a batch holds, and the weights of the losses.
        seed: of every random choice.
        data: what to train on.

    Raises:
        DataError: the triplets do not fill a batch.
        WeightsError: the model has no gallery tokens, which these losses need.
    """

    def __init__(
        self,
        model: Sprc,
        description: weights.ModelDescription,
        batches: TripletBatches,
        seed: int,
        data: TripletData,
    ) -> None:
        if model.vision_proj is None:
            raise WeightsError(
                f"{description.name} starts from a model without gallery tokens; name one that `cir convert` made"
            )
        if len(data.train) < batches.batch:
            raise DataError(f"{len(data.train)} triplets to train on, fewer than one batch of {batches.batch}")
        model.requires_grad_(True).vision.requires_grad_(False)
        self.model, self.description, self.batches, self.seed, self.data = model, description, batches, seed, data
        self._pool = ThreadPoolExecutor(batches.workers)
        self._next: tuple[int, list[Future[Floats]]] | None = None
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.model

    @property
    def rates(self) -> Mapping[str, float]:
        """None is slower than the others."""
        return {}

    @property
    def left_out(self) -> int:
        """Number of pictures that are missing or broken, and not trained on."""
        return len(self.data.unreadable)

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches; the remaining triplets are dropped."""
        return len(self.data.train) // self.batches.batch

    def losses(self, step: int) -> dict[str, Tensor]:
        """The three losses on the batch of a step, weighted."""
        triplets = self._batch(step)
        pending = self._next[1] if self._next and self._next[0] == step else self._load(triplets)
        self._next = (step + 1, self._load(self._batch(step + 1)))
        pixels = [torch.from_numpy(future.result()) for future in pending]
        rng = random.Random(f"{self.seed} {step}")
        captions = [drawn_caption(query.captions, rng) for query in triplets]
        device = self.model.query_tokens.device
        references, targets = torch.stack(pixels).to(device).split(len(triplets))
        terms = self.model.losses(references, targets, captions)
        term_weights = {"itc": 1.0, "rtc": self.batches.rtc_weight, "align": self.batches.align_weight}
        return {term: term_weights[term] * value for term, value in terms.items()}

    def _shuffled(self, epoch: int) -> Rows:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.data.train))

    def _batch(self, step: int) -> list[JudgedQuery]:
        """This process's part of a batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[place * self.batches.batch : (place + 1) * self.batches.batch]
        rank, processes = devices.process()
        return [self.data.train[row] for row in rows[rank::processes]]

    def _load(self, triplets: Sequence[JudgedQuery]) -> list[Future[Floats]]:
        """The pixels of the references, then of the targets."""
        names = [query.reference for query in triplets] + [target_of(query) for query in triplets]
        return [self._pool.submit(self._pixels, name) for name in names]

    def _pixels(self, name: str) -> Floats:
        image = self.data.images[name]
        try:
            preprocess = self.description.preprocess
            return preprocess(decode(image.read(), image.path, preprocess.min_side))
        except (ImageDecodeError, OSError) as error:
            raise DataError(
                f"{image.path}: cannot be read: {error}; repair it, or go on without it with --allow-unreadable"
            ) from error

    @torch.inference_mode()
    def validate(self) -> TripletValidation:
        """R@1, R@10 and R@50 of the held-out triplets over the images they name."""
        held_out = self.data.held_out
        if not held_out:
            return TripletValidation(0.0)
        names = sorted({name for query in held_out for name in (query.reference, *query.targets)})
        parts = [names[start : start + VALIDATION_BATCH] for start in range(0, len(names), VALIDATION_BATCH)]
        gallery = torch.cat([self.model.gallery_tokens(self._stack(part)).cpu() for part in parts])
        place = {name: i for i, name in enumerate(names)}
        ranks = []
        for start in range(0, len(held_out), VALIDATION_BATCH):
            queries = held_out[start : start + VALIDATION_BATCH]
            captions = [validation_caption(query.captions) for query in queries]
            vectors = self.model.query_vectors(self._stack([query.reference for query in queries]), captions)
            similarities = scores(vectors.cpu(), gallery)
            if not self.data.keep_reference:
                similarities[torch.arange(len(queries)), [place[query.reference] for query in queries]] = -2
            ranks.append(rank_of(similarities, torch.tensor([place[target_of(query)] for query in queries])))
        rank = torch.cat(ranks)
        recalls = {k: float((rank < k).float().mean()) for k in (1, 10, 50)}
        return TripletValidation((recalls[10] + recalls[50]) / 2, recalls)

    def _stack(self, names: Sequence[str]) -> Tensor:
        """(B, 3, H, W) pixels of these images, on the model's device."""
        stacked = torch.from_numpy(np.stack(list(self._pool.map(self._pixels, names))))
        return stacked.to(self.model.query_tokens.device)

    def save(self, directory: Path, training: Mapping[str, Any], validation: TripletValidation) -> None:
        """Write the model directory."""
        figures = {
            "held-out": validation.to_json(),
            "triplets": len(self.data.train),
            "unreadable images": self.left_out,
        }
        description = replace(self.description, training={**training, **figures})
        weights.save(directory, self.model, description, compact=False)
