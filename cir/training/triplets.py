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
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cir import devices
from cir.errors import DataError, ImageDecodeError, MissingImageError
from cir.eval.annotations import find_pictures, read_entries, read_json
from cir.eval.fashioniq import CATEGORIES
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


@dataclass(frozen=True)
class Triplet:
    """A reference, what annotators said, and a target; both are image ids."""

    reference: str
    target: str
    captions: tuple[str, ...]


@dataclass
class Data:
    """Triplets with the pictures they name.

    Attributes:
        train, held_out: triplets; no reference is in both.
        images: id -> picture.
        keep_reference: whether the reference stays in the ranking when held-out queries are asked.
        unreadable: ids of pictures that are missing or broken and whose triplets are left out.
    """

    train: list[Triplet]
    held_out: list[Triplet]
    images: Mapping[str, ImageFile]
    keep_reference: bool
    unreadable: set[str] = field(default_factory=set)


def read_triplets(settings: Settings, root: Path, *, allow_unreadable: bool = False) -> Data:
    """The train split of a data set in its official layout.

    Raises:
        DataError: an annotation file is missing or not what it should be.
        MissingImageError: pictures are missing and that is not allowed.
    """
    if settings.dataset not in READERS:
        raise DataError(f"no data set {settings.dataset!r} to train on; there are {', '.join(READERS)}")
    triplets, places = READERS[settings.dataset](root)
    images = {image.id: image for image in find_pictures(places)}
    gone = places.keys() - images.keys()
    if gone and not (allow_unreadable and images):
        raise MissingImageError(
            f"{root}: {len(gone):,} of {len(places):,} training images are missing, first {places[min(gone)]}"
            " (.png or .jpg); get them, or go on without with --allow-unreadable"
        )
    triplets = [one for one in triplets if one.reference in images and one.target in images]
    apart = [_share(one.reference) < settings.held_out for one in triplets]
    return Data(
        train=[one for one, kept in zip(triplets, apart, strict=True) if not kept],
        held_out=[one for one, kept in zip(triplets, apart, strict=True) if kept],
        images=images,
        keep_reference=settings.dataset == "fashioniq",
        unreadable=set(gone),
    )


def _read_fashioniq(root: Path) -> tuple[list[Triplet], dict[str, Path]]:
    """All three categories pooled, as the official trainer does."""
    triplets = [
        Triplet(entry["candidate"], entry["target"], tuple(entry["captions"]))
        for category in CATEGORIES
        for entry in read_entries(
            root / "captions" / f"cap.{category}.train.json", {"candidate": str, "target": str, "captions": list}
        )
    ]
    names = {name for one in triplets for name in (one.reference, one.target)}
    return triplets, {name: root / "images" / name for name in names}


def _read_cirr(root: Path) -> tuple[list[Triplet], dict[str, Path]]:
    annotations = root / "cirr" if (root / "cirr").is_dir() else root
    path = annotations / "image_splits" / "split.rc2.train.json"
    files: dict[str, str] = read_json(path, dict, "a table of image names and files")
    captions = annotations / "captions" / "cap.rc2.train.json"
    entries = read_entries(captions, {"reference": str, "target_hard": str, "caption": str})
    triplets = [Triplet(entry["reference"], entry["target_hard"], (entry["caption"],)) for entry in entries]
    unknown = {name for one in triplets for name in (one.reference, one.target)} - files.keys()
    if unknown:
        raise DataError(f"{path}: does not know {min(unknown)!r}, which {captions.name} names; take the official files")
    return triplets, {name: root / PurePosixPath(file).with_suffix("") for name, file in files.items()}


READERS = {"fashioniq": _read_fashioniq, "cirr": _read_cirr}


def _share(name: str) -> float:
    """A fixed number in [0, 1) for an image id."""
    return int(hashlib.sha1(name.encode()).hexdigest()[:8], 16) / 2**32


def drawn_caption(captions: Sequence[str], rng: random.Random) -> str:
    """FashionIQ's caption of one step: "c1 and c2", "c2 and c1", c1 or c2, a quarter each; a single one as it is."""
    if len(captions) != 2:
        return captions[0]
    first, second = (caption.strip(".?, ") for caption in captions)
    return rng.choice([f"{first} and {second}", f"{second} and {first}", first, second])


class TripletTask:
    """`cir.training.loop.Task` over annotated triplets.

    Args:
        model: where training starts; its trunk is frozen.
        name: of the model, as its card says it.
        settings: batches.
        seed: of every random choice.
        data: what to train on.
        preprocess, vocabulary: stored with the weights.
        allow_unreadable: leave out triplets with a broken picture, and count the pictures, instead of stopping.
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
        *,
        allow_unreadable: bool = False,
    ) -> None:
        if len(data.train) < settings.batch:
            raise DataError(f"{len(data.train)} triplets to train on, fewer than one batch of {settings.batch}")
        model.requires_grad_(True).vision.requires_grad_(False)
        self.model, self.name, self.settings, self.seed, self.data = model, name, settings, seed, data
        self.preprocess, self.vocabulary, self.allow_unreadable = preprocess, vocabulary, allow_unreadable
        self._pool = ThreadPoolExecutor(settings.workers)
        self._next: tuple[int, list[Future[Pixels | None]]] | None = None
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def steps_an_epoch(self) -> int:
        """The triplets that do not fill a batch are dropped."""
        return len(self.data.train) // self.settings.batch

    def losses(self, step: int) -> dict[str, Tensor]:
        """The three losses on the batch of a step, weighted."""
        triplets = self._batch(step)
        pending = self._next[1] if self._next and self._next[0] == step else self._load(triplets)
        self._next = (step + 1, self._load(self._batch(step + 1)))
        pixels = [one.result() for one in pending]
        rng = random.Random(f"{self.seed} {step}")
        captions, references, targets = [], [], []
        for one, reference, target in zip(triplets, pixels[: len(triplets)], pixels[len(triplets) :], strict=True):
            caption = drawn_caption(one.captions, rng)
            if reference is not None and target is not None:
                captions.append(caption)
                references.append(reference)
                targets.append(target)
        if not captions:
            raise DataError(f"step {step}: no picture of the batch can be read; is this the right folder?")
        device = self.model.query_tokens.device
        terms = self.model.losses(
            torch.from_numpy(np.stack(references)).to(device), torch.from_numpy(np.stack(targets)).to(device), captions
        )
        share = {"itc": 1.0, "rtc": self.settings.rtc_weight, "align": self.settings.align_weight}
        return {term: share[term] * value for term, value in terms.items()}

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.data.train))

    def _batch(self, step: int) -> list[Triplet]:
        """This process's part of a batch."""
        epoch, place = divmod(step, self.steps_an_epoch)
        rows = self._order(epoch)[place * self.settings.batch : (place + 1) * self.settings.batch]
        rank, processes = devices.process()
        return [self.data.train[row] for row in rows[rank::processes]]

    def _load(self, triplets: Sequence[Triplet]) -> list[Future[Pixels | None]]:
        """References, then targets."""
        names = [one.reference for one in triplets] + [one.target for one in triplets]
        return [self._pool.submit(self._pixels, name) for name in names]

    def _pixels(self, name: str) -> Pixels | None:
        image = self.data.images[name]
        try:
            return self.preprocess(decode(image.read(), image.path))
        except (ImageDecodeError, OSError) as error:
            if not self.allow_unreadable:
                raise DataError(
                    f"{image.path}: cannot be read: {error}; mend it, or go on without with --allow-unreadable"
                ) from error
            self.data.unreadable.add(name)
            return None

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """R@1, R@10 and R@50 of the held-out triplets over the images they name; nothing to choose by without any."""
        asked = self.data.held_out
        if not asked:
            return {"headline": 0.0}
        names = sorted({name for one in asked for name in (one.reference, one.target)})
        place = {name: i for i, name in enumerate(names)}
        tokens: dict[str, Tensor] = {}
        for start in range(0, len(names), 32):
            part = names[start : start + 32]
            batch = self._stack(part)
            if batch is not None:
                found, pixels = batch
                tokens |= dict(zip(found, self.model.gallery_tokens(pixels).float().cpu(), strict=True))
        names = [name for name in names if name in tokens]
        place = {name: i for i, name in enumerate(names)}
        gallery = torch.stack([tokens[name] for name in names])
        asked = [one for one in asked if one.reference in place and one.target in place]
        ranks = []
        for start in range(0, len(asked), 32):
            queries = asked[start : start + 32]
            batch = self._stack([one.reference for one in queries])
            assert batch is not None
            captions = [" and ".join(caption.strip(".?, ") for caption in one.captions) for one in queries]
            vectors = self.model.query_vectors(batch[1], captions).float().cpu()
            found_scores = scores(vectors, gallery)
            if not self.data.keep_reference:
                found_scores[torch.arange(len(queries)), [place[one.reference] for one in queries]] = -2
            wanted = found_scores[torch.arange(len(queries)), [place[one.target] for one in queries]]
            ranks.append((found_scores > wanted[:, None]).sum(dim=1))
        rank = torch.cat(ranks)
        figures = {f"held-out R@{k}": float((rank < k).float().mean()) for k in (1, 10, 50)}
        return {**figures, "headline": (figures["held-out R@10"] + figures["held-out R@50"]) / 2}

    def _stack(self, names: Sequence[str]) -> tuple[list[str], Tensor] | None:
        """The names that can be read and their pixels (B, 3, H, W)."""
        loaded = [(name, pixels) for name, pixels in zip(names, self._pool.map(self._pixels, names), strict=True)]
        kept = [(name, pixels) for name, pixels in loaded if pixels is not None]
        if not kept:
            return None
        stacked = torch.from_numpy(np.stack([pixels for _, pixels in kept]))
        return [name for name, _ in kept], stacked.to(self.model.query_tokens.device)

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
                "unreadable images": len(self.data.unreadable),
            },
        )
