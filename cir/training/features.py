"""Features of training pictures, computed once and stored: training itself then decodes no pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cir import devices
from cir.arrays import Floats, Stored
from cir.errors import DataError
from cir.files import write_atomically
from cir.images import Preprocess
from cir.models.sprc import Sprc
from cir.training.prefetch import workers

CPU_BATCH, ACCELERATOR_BATCH = 64, 256  # pictures encoded at once


class OlderGallery(nn.Module):
    """What an older model's gallery stores: (B, 3, H, W) -> (B, T, D) unit-norm, its tokens, or its vector as T = 1.

    Args:
        model: the older model.
        over_maps: take (B, P, W), what its backbone has made of the pictures, instead of pixels.
    """

    def __init__(self, model: Sprc, *, over_maps: bool = False) -> None:
        super().__init__()
        self.model, self._over_maps = model, over_maps

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.model.target_states(pixels if self._over_maps else self.model.image_features(pixels))
        if self.model.gallery_proj is None:
            return self.model.project_tokens(states)
        return self.model.project_vector(states)[:, None]


@dataclass(frozen=True)
class FeatureStore:
    """A folder with the features of training pictures, under the backbone in training and under older models.

    Attributes:
        folder: of the files.
        backbone, preprocess: of the model to train.
        older: id of each older space -> the model that defines it, with its preprocessing.
        key: of whatever else decides the features (`tasks.feature_key`); part of the files' names, so that a folder
            never gives the features of other settings.
    """

    folder: Path
    backbone: nn.Module
    preprocess: Preprocess
    older: Mapping[str, tuple[Sprc, Preprocess]] = field(default_factory=dict)
    key: str = ""

    def compute(
        self, name: str, count: int, pixels: Callable[[Preprocess, int], Floats]
    ) -> tuple[Stored, dict[str, Stored]]:
        """The features of some pictures, read from the folder if they are there.

        Args:
            name: of the files; the same name means the same pictures.
            count: N, number of pictures.
            pixels: preprocessing and number of a picture -> (3, H, W) float32; called from several threads.

        Returns:
            Feature maps (N, P, W) float16, and id of each older space -> (N, T, D) float16, unit-norm, the content of
            the older model's gallery.

        Raises:
            DataError: a file holds another number of pictures, or the disk is full.
        """
        name = f"{name}-{self.key}" if self.key else name
        maps = cached(self.folder / f"{name}.npy", count, partial(pixels, self.preprocess), self.backbone)
        older = {}
        for space, (model, preprocess) in self.older.items():
            path = self.folder / f"{name}-{space}.npy"
            if preprocess == self.preprocess and alike(model.vision, self.backbone):
                gallery = OlderGallery(model, over_maps=True)
                older[space] = cached(path, count, lambda number: maps[number].astype(np.float32), gallery)
            else:
                older[space] = cached(path, count, partial(pixels, preprocess), OlderGallery(model))
        return maps, older


def alike(backbone: nn.Module, other: nn.Module) -> bool:
    """Whether two backbones give the same features: their weights are the same in float16, in which they are stored."""
    ours, theirs = backbone.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        value.shape == theirs[name].shape and torch.equal(value.half(), theirs[name].half())
        for name, value in ours.items()
    )


def cached(path: Path, count: int, pixels: Callable[[int], Floats], encoder: nn.Module) -> Stored:
    """The output of an encoder for `count` pictures, read from a file, or computed and written there.

    Args:
        path: a .npy file; it appears when it is complete.
        count: N, number of pictures.
        pixels: number of a picture -> (3, H, W) float32; called from several threads, or processes.
        encoder: (B, 3, H, W) -> (B, ...).

    Returns:
        (N, ...) float16.

    Raises:
        DataError: the file holds another number of pictures, no picture is given, or the disk is full.
    """
    if path.is_file():
        return _stored(path, count)
    if not count:
        raise DataError(f"no images to compute {path} from; check the folder of the data set")
    device = devices.choose()
    encoder = encoder.to(device).eval()
    batches = _batches(pixels, count, device)
    with torch.inference_mode(), devices.backbone_autocast(device):

        def encode(batch: Tensor) -> Floats:
            encoded: Floats = encoder(batch.to(device)).float().cpu().numpy()
            return encoded

        first = encode(next(batches))
        shape = (count, *first.shape[1:])
        with write_atomically(path, need=2 * int(np.prod(shape))) as temporary:
            maps = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            maps[: len(first)] = first
            done = len(first)
            for batch in tqdm(batches, desc=path.stem, unit="batch", mininterval=10):
                maps[done : done + len(batch)] = encode(batch)
                done += len(batch)
            maps.flush()
    return np.asarray(maps)


def _batches(pixels: Callable[[int], Floats], count: int, device: torch.device) -> Iterator[Tensor]:
    """(B, 3, H, W) float32 of all pictures in order, read by threads, or by processes where an accelerator waits."""
    if device.type == "cpu":
        with ThreadPoolExecutor(4) as pool:
            for start in range(0, count, CPU_BATCH):
                read = pool.map(pixels, range(start, min(start + CPU_BATCH, count)))
                yield torch.from_numpy(np.stack(list(read)))
        return
    pictures = _Pictures(pixels, count)
    yield from DataLoader(pictures, batch_size=ACCELERATOR_BATCH, num_workers=workers(), multiprocessing_context="fork")


class _Pictures(Dataset[Floats]):
    """Pictures by number, for `DataLoader`."""

    def __init__(self, pixels: Callable[[int], Floats], count: int) -> None:
        self._pixels, self._count = pixels, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Floats:
        return self._pixels(number)


def _stored(path: Path, count: int) -> Stored:
    """(N, ...) float16 of a file that `cached` wrote. Raises DataError for another file."""
    try:
        mapped = np.load(path, mmap_mode="r")  # refuses a shape that the file is too short for
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"{path}: not a file of features: {error}; delete it") from None
    if mapped.dtype != np.float16 or mapped.ndim < 2 or len(mapped) != count:
        raise DataError(f"{path} holds {len(mapped)} images of {mapped.dtype}, not {count} of float16; delete it")
    return np.array(mapped)
