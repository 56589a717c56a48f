"""The backbone of `small`: a ViT distilled from EfficientNet-Lite0, or EfficientNet-Lite0 itself?

    python bench/backbones.py DATA_ROOT --work WORK --start START --minutes 10 --output bench/results/DATE.json

WORK is the folder of a training (`cir train small --work WORK --start START`), which holds the feature maps. A small
ViT of the class of the official models learns to give the same 7 x 7 maps. Then linear probes are trained on the maps
of train photos and measured on held-out photos: what a probe cannot read from a map, a Q-Former hardly can.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir import devices
from cir.arrays import Floats, Rows
from cir.data import products
from cir.files import write_json
from cir.models import weights
from cir.models.backbones import VisionTransformer
from cir.training.config import read_config
from cir.training.features import FeatureStore
from cir.training.photo_source import PhotoSource, ProductPixels
from cir.training.sources import AttributeBatches, gather
from cir.training.tasks import feature_key

VIT = {"image_size": 224, "patch_size": 32, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3}
SEED, BATCH, RATE = 0, 32, 1e-3


class Student(nn.Module):
    """ViT with 7 x 7 patches and a linear layer to the teacher's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vision = VisionTransformer(**VIT, intermediate_size=768, qkv_bias=True)
        for parameter in self.vision.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        self.out = nn.Linear(VIT["hidden_size"], width)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.out(self.vision(pixels)[:, 1:])
        return out


def distil(
    source: PhotoSource, pixels: Callable[[int], Floats], mean: Tensor, std: Tensor, minutes: float
) -> tuple[Student, int]:
    """Train a student for that many minutes; the student, and the number of pictures it saw."""
    torch.manual_seed(SEED)
    student = Student(source.maps.shape[-1]).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.05)
    rows = source.places[source.trainable]
    rng, seen, started = np.random.default_rng(SEED), 0, time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        while (spent := (time.monotonic() - started) / 60) < minutes:
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1, (seen + BATCH) / 2000) * max(0.02, 1 - spent / minutes)
            chosen = rng.choice(rows, BATCH)
            batch = torch.from_numpy(np.stack(list(pool.map(pixels, chosen))))
            wanted = (torch.from_numpy(source.maps[chosen]).float() - mean) / std
            loss = F.smooth_l1_loss(student(batch), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen += BATCH
            if seen % (BATCH * 100) == 0:
                click.echo(f"{spent:.1f} min, {seen} pictures, loss {loss.item():.4f}", err=True)
    return student.eval(), seen


def probe(train: Tensor, classes: Tensor, held_out: Tensor, truth: Tensor) -> float:
    """Accuracy of a linear probe on pooled maps."""
    torch.manual_seed(SEED)
    layer = nn.Linear(train.shape[1], int(classes.max()) + 1)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=1e-3)
    for _ in range(400):
        loss = F.cross_entropy(layer(train), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float((layer(held_out).argmax(1) == truth).float().mean())


def pooled(maps: Tensor) -> Tensor:
    """(N, 49, W) -> (N, 2 W): mean and maximum over the positions of the map."""
    return torch.cat([maps.mean(1), maps.amax(1)], 1)


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--start", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, work: Path, start: Path, minutes: float, output: Path | None) -> None:
    """Compare the backbones and write the figures."""
    devices.keep_freed_memory()
    config = read_config("small-2")
    preprocess, batches = config.preprocess, config.batches
    assert preprocess is not None
    assert isinstance(batches, AttributeBatches)
    store = FeatureStore(work, nn.Identity(), preprocess, key=feature_key(config, weights.load(start)[0].vision))
    data = gather(batches, root, store)
    large, every = data.sources[:2]
    ids = {product for product in products.read_styles(root) if products.split_of(product) == "train"}

    def pixels(name: str) -> Callable[[int], Floats]:
        files = {product: image for product, image in products.product_images(root / name) if product in ids}
        return partial(ProductPixels(files, sorted(files)), preprocess)

    names = list(batches.sources)
    maps = torch.from_numpy(every.maps[np.random.default_rng(SEED).choice(len(every.maps), 2000)]).float()
    mean, std = maps.mean((0, 1)), maps.std((0, 1)) + 1e-3
    small_pixels, large_pixels = pixels(names[1]), pixels(names[0])
    student, seen = distil(every, small_pixels, mean, std, minutes)
    rows, held_out = np.flatnonzero(large.trainable), data.held_out[0].rows
    figures: dict[str, Any] = {}
    for backbone in ("efficientnet-lite0", "vit"):

        def features(chosen: Rows, backbone: str = backbone) -> Tensor:
            places = large.places[chosen]
            if backbone != "vit":
                return pooled((torch.from_numpy(large.maps[places]).float() - mean) / std)
            out = []
            with torch.inference_mode():
                for start in range(0, len(places), 64):
                    batch = np.stack([large_pixels(int(place)) for place in places[start : start + 64]])
                    out.append(pooled(student(torch.from_numpy(batch))))
            return torch.cat(out).clone()

        train, test = features(rows), features(held_out)
        figures[backbone] = {
            kind: round(
                probe(
                    train,
                    torch.from_numpy(large.table.codes[kind][rows]),
                    test,
                    torch.from_numpy(large.table.codes[kind][held_out]),
                ),
                4,
            )
            for kind in products.KINDS
        }
        click.echo(json.dumps({backbone: figures[backbone]}))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "accuracy of linear probes on held-out photos": figures,
        "train photos": len(rows),
        "held-out photos": len(held_out),
        "vit": VIT,
        "pictures the vit saw": seen,
        "minutes": minutes,
        "seed": SEED,
    }
    if output:
        write_json(output, result, indent=1)


if __name__ == "__main__":
    main()
