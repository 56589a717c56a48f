"""Which image side for `small`: a ViT taught by EfficientNet-Lite0, or EfficientNet-Lite0 itself?

    python bench/trunks.py DATA_ROOT --work WORK --minutes 10 --output bench/results/DATE-trunks.json

WORK is the folder of a training (`cir train small --work WORK`): it holds the feature maps. A small ViT of the class of
the official models learns to give the same 7 x 7 maps; then linear probes on train photos are read from both on the
held-out photos. What a probe cannot read from a map, a Q-Former can hardly.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir import devices
from cir.data import products
from cir.models.sprc import VisionTransformer
from cir.training.config import read_config
from cir.training.sources import Source, _Pixels, gather

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


def distil(source: Source, pixels: _Pixels, mean: Tensor, std: Tensor, minutes: float) -> tuple[Student, int]:
    """Teach for so many minutes; the student and how many pictures it saw."""
    torch.manual_seed(SEED)
    student = Student(source.maps.shape[-1]).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.05)
    rows = source.places[source.among]
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
    """(N, 49, W) -> (N, 2 W): mean and maximum over places."""
    return torch.cat([maps.mean(1), maps.amax(1)], 1)


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, work: Path, minutes: float, output: Path | None) -> None:
    """Compare the trunks and write the figures."""
    devices.keep_freed_memory()
    config = read_config("small")
    sources, held_out = gather(config.batches, root, work, nn.Identity(), config.preprocess)
    large, every = sources[0], sources[1]
    styles = products.read_styles(root)

    def pixels(name: str, source: Source) -> _Pixels:
        ids = sorted(p for p in styles if products.split_of(p) == "train")
        files = {p: image for p, image in products.product_images(root / name) if p in set(ids)}
        return _Pixels(files, sorted(files), config.preprocess)

    names = list(config.batches.sources)
    maps = torch.from_numpy(every.maps[np.random.default_rng(SEED).choice(len(every.maps), 2000)]).float()
    mean, std = maps.mean((0, 1)), maps.std((0, 1)) + 1e-3
    small_pixels, large_pixels = pixels(names[1], every), pixels(names[0], large)
    student, seen = distil(every, small_pixels, mean, std, minutes)
    rows, apart = np.flatnonzero(large.among), held_out[0].rows
    figures: dict[str, Any] = {}
    for trunk in ("efficientnet-lite0", "vit"):

        def features(chosen: Any, trunk: str = trunk) -> Tensor:
            places = large.places[chosen]
            if trunk != "vit":
                return pooled((torch.from_numpy(large.maps[places]).float() - mean) / std)
            out = []
            with torch.inference_mode():
                for start in range(0, len(places), 64):
                    batch = np.stack([large_pixels(int(place)) for place in places[start : start + 64]])
                    out.append(pooled(student(torch.from_numpy(batch))))
            return torch.cat(out).clone()

        train, test = features(rows), features(apart)
        figures[trunk] = {
            kind: round(
                probe(
                    train,
                    torch.from_numpy(large.table.codes[kind][rows]),
                    test,
                    torch.from_numpy(large.table.codes[kind][apart]),
                ),
                4,
            )
            for kind in products.KINDS
        }
        click.echo(json.dumps({trunk: figures[trunk]}))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "accuracy of linear probes on held-out photos": figures,
        "train photos": len(rows),
        "held-out photos": len(apart),
        "vit": VIT,
        "pictures the vit saw": seen,
        "minutes": minutes,
        "seed": SEED,
    }
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
