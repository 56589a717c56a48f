"""The task of the official recipes: SPRC's three losses on the annotated triplets of FashionIQ or CIRR.

What is the official code's: batches without replacement, the rest of an epoch dropped; FashionIQ's two captions joined
or taken alone at random; in-batch negatives; no augmentation; dropout in the Q-Former alone. What is ours: a part of
the train references is held out, and the best checkpoint is chosen on it, not on val.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from cir import devices
from cir.errors import DataError, ImageDecodeError, MissingImageError, WeightsError
from cir.data.annotations import find_pictures
from cir.data.fashioniq import join_captions
from cir.data.judged_query import JudgedQuery
from cir.data.protocols import TRAIN_SPLITS
from cir.images import ImageFile, Preprocess, decode
from cir.models import weights
from cir.models.sprc import Sprc, scores

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """What decides the batches.

    Attributes:
        dataset: "fashioniq" or "cirr".
        batch: triplets a step, over all devices.
        rtc_weight, align_weight: of the second and third loss; 1 and 1 for FashionIQ, 0.4 and 0.4 for CIRR.
        held_out: share of the train references whose triplets are kept apart; 0 trains on all, as the official code
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
        """Raises ValueError for what makes no batches."""
        if self.batch < 1 or self.workers < 1 or not 0 <= self.held_out < 1:
            raise ValueError("batch and workers are 1 or more, held_out is a share in [0, 1)")
        if f"{self.dataset}-train" not in TRAIN_SPLITS:
            known = ", ".join(name.removesuffix("-train") for name in TRAIN_SPLITS)
            raise ValueError(f"no data set {self.dataset!r} to train on; there are {known}")


@dataclass(frozen=True)
class Data:
    """Triplets with the pictures they name.

    Attributes:
        train, held_out: triplets; no reference is in both.
        images: id -> picture.
        keep_reference: whether the reference stays in the ranking when held-out queries are asked.
        unreadable: ids of pictures that are missing or broken and whose triplets are left out.
    """

    train: list[JudgedQuery]
    held_out: list[JudgedQuery]
    images: Mapping[str, ImageFile]
    keep_reference: bool
    unreadable: frozenset[str] = frozenset()


def read_triplets(settings: Settings, root: Path, *, allow_unreadable: bool = False) -> Data:
    """The train split of a data set in its official layout.

    Where broken pictures are allowed, every picture is opened once beforehand, so that their number is known before the
    first step and the same in every process and after every resumption.

    Raises:
        DataError: an annotation file is missing or not what it should be.
        MissingImageError: pictures are missing and that is not allowed.
    """
    triplets, places = TRAIN_SPLITS[f"{settings.dataset}-train"].read(root)
    images = {image.id: image for image in find_pictures(places)}
    gone = places.keys() - images.keys()
    if gone and not (allow_unreadable and images):
        raise MissingImageError(
            f"{root}: {len(gone):,} of {len(places):,} training images are missing, first {places[min(gone)]}"
            " (.png or .jpg); get them, or go on without with --allow-unreadable"
        )
    if allow_unreadable:
        broken = _broken(images, settings.workers)
        gone = gone | broken
        images = {name: image for name, image in images.items() if name not in broken}
    triplets = [one for one in triplets if one.reference in images and min(one.targets) in images]
    apart = [_share(one.reference) < settings.held_out for one in triplets]
    return Data(
        train=[one for one, kept in zip(triplets, apart, strict=True) if not kept],
        held_out=[one for one, kept in zip(triplets, apart, strict=True) if kept],
        images=images,
        keep_reference=settings.dataset == "fashioniq",
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


def rank_of(found: Tensor, targets: Tensor) -> Tensor:
    """(B, N) scores over images in the order of their ids, (B,) places -> (B,) rank of each, from 0; ties by id."""
    wanted = found.gather(1, targets[:, None])
    before = torch.arange(found.shape[1]) < targets[:, None]
    return ((found > wanted) | ((found == wanted) & before)).sum(dim=1)


def drawn_caption(captions: Sequence[str], rng: random.Random) -> str:
    """FashionIQ's caption of one step: "c1 and c2", "c2 and c1", c1 or c2, a quarter each; a single one as it is."""
    if len(captions) != 2:
        return captions[0]
    first, second = (caption.strip(".?, ") for caption in captions)
    return rng.choice([f"{first} and {second}", f"{second} and {first}", first, second])


def validation_caption(captions: Sequence[str]) -> str:
    """The caption that validation asks: FashionIQ's two joined, CIRR's as it is."""
    return join_captions(captions) if len(captions) > 1 else captions[0]


class TripletTask:
    """`cir.training.loop.Task` over annotated triplets.

    Args:
        model: where training starts; its trunk is frozen.
        name: of the model, as its card says it.
        settings: batches.
        seed: of every random choice.
        data: what to train on.
        preprocess, vocabulary: stored with the weights.

    Raises:
        DataError: fewer triplets than one batch takes.
        WeightsError: a model without gallery tokens, against which these losses are computed.
    """

    def __init__(
        self,
        model: Sprc,
        name: str,
        settings: Settings,
        seed: int,
        data: Data,
        preprocess: Preprocess,
        vocabulary: Path,
    ) -> None:
        if model.vision_proj is None:
            raise WeightsError(f"{name} starts from a model without gallery tokens; name one that `cir convert` made")
        if len(data.train) < settings.batch:
            raise DataError(f"{len(data.train)} triplets to train on, fewer than one batch of {settings.batch}")
        model.requires_grad_(True).vision.requires_grad_(False)
        self.model, self.name, self.settings, self.seed, self.data = model, name, settings, seed, data
        self.preprocess, self.vocabulary = preprocess, vocabulary
        self._pool = ThreadPoolExecutor(settings.workers)
        self._next: tuple[int, list[Future[Pixels]]] | None = None
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def left_out(self) -> int:
        return len(self.data.unreadable)

    @property
    def steps_an_epoch(self) -> int:
        """The triplets that do not fill a batch are dropped."""
        return len(self.data.train) // self.settings.batch

    def losses(self, step: int) -> dict[str, Tensor]:
        """The three losses on the batch of a step, weighted."""
        triplets = self._batch(step)
        pending = self._next[1] if self._next and self._next[0] == step else self._load(triplets)
        self._next = (step + 1, self._load(self._batch(step + 1)))
        pixels = [torch.from_numpy(one.result()) for one in pending]
        rng = random.Random(f"{self.seed} {step}")
        captions = [drawn_caption(one.captions, rng) for one in triplets]
        device = self.model.query_tokens.device
        references, targets = torch.stack(pixels).to(device).split(len(triplets))
        terms = self.model.losses(references, targets, captions)
        share = {"itc": 1.0, "rtc": self.settings.rtc_weight, "align": self.settings.align_weight}
        return {term: share[term] * value for term, value in terms.items()}

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.data.train))

    def _batch(self, step: int) -> list[JudgedQuery]:
        """This process's part of a batch."""
        epoch, place = divmod(step, self.steps_an_epoch)
        rows = self._order(epoch)[place * self.settings.batch : (place + 1) * self.settings.batch]
        rank, processes = devices.process()
        return [self.data.train[row] for row in rows[rank::processes]]

    def _load(self, triplets: Sequence[JudgedQuery]) -> list[Future[Pixels]]:
        """References, then targets."""
        names = [one.reference for one in triplets] + [min(one.targets) for one in triplets]
        return [self._pool.submit(self._pixels, name) for name in names]

    def _pixels(self, name: str) -> Pixels:
        image = self.data.images[name]
        try:
            return self.preprocess(decode(image.read(), image.path))
        except (ImageDecodeError, OSError) as error:
            raise DataError(
                f"{image.path}: cannot be read: {error}; mend it, or go on without with --allow-unreadable"
            ) from error

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """R@1, R@10 and R@50 of the held-out triplets over the images they name; nothing to choose by without any."""
        asked = self.data.held_out
        if not asked:
            return {"headline": 0.0}
        names = sorted({name for one in asked for name in (one.reference, *one.targets)})
        parts = [names[start : start + 32] for start in range(0, len(names), 32)]
        gallery = torch.cat([self.model.gallery_tokens(self._stack(part)).cpu() for part in parts])
        place = {name: i for i, name in enumerate(names)}
        ranks = []
        for start in range(0, len(asked), 32):
            queries = asked[start : start + 32]
            captions = [validation_caption(one.captions) for one in queries]
            vectors = self.model.query_vectors(self._stack([one.reference for one in queries]), captions)
            found = scores(vectors.cpu(), gallery)
            rows = torch.arange(len(queries))
            if not self.data.keep_reference:
                found[rows, [place[one.reference] for one in queries]] = -2
            ranks.append(rank_of(found, torch.tensor([place[min(one.targets)] for one in queries])))
        rank = torch.cat(ranks)
        figures = {f"held-out R@{k}": float((rank < k).float().mean()) for k in (1, 10, 50)}
        return {**figures, "headline": (figures["held-out R@10"] + figures["held-out R@50"]) / 2}

    def _stack(self, names: Sequence[str]) -> Tensor:
        """(B, 3, H, W) pixels of these images, on the model's device."""
        stacked = torch.from_numpy(np.stack(list(self._pool.map(self._pixels, names))))
        return stacked.to(self.model.query_tokens.device)

    def save(self, directory: Path, training: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        weights.save(
            directory,
            self.model,
            name=self.name,
            preprocess=self.preprocess,
            vocabulary=self.vocabulary,
            sum_weight=0.5,
            compact=False,
            training={
                **training,
                "held-out": {name: round(value, 4) for name, value in figures.items()},
                "triplets": len(self.data.train),
                "unreadable images": self.left_out,
            },
        )
