"""Which of EfficientNet's features tell everyday photos apart: the choice behind `cir.models.whole_picture`.

    python bench/image_side.py FLICKR8K --work WORK --output bench/results/DATE-image-side.json

Captions of Flickr8k's train ask for their photos: a small network over pooled features of the frozen backbone, and a
linear layer over MiniLM's sentence vectors, trained by contrast. Val, text to image, decides; test is not touched.
Compared are the features, the number of views of each photo, the width, and the dropout. One seed each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from minilm import MiniLM
from torch import Tensor, nn
from torch.nn import functional as F

from cir.data.captioned import read_split
from cir.files import write_json
from cir.models.efficientnet import EfficientNetLite0
from cir.models.pretrained import efficientnet_lite0_last, efficientnet_lite0_state
from cir.training import everyday, losses
from cir.training.config import read_config
from cir.training.features import FeatureStore
from cir.training.photo_source import PhotoSource
from cir.training.schedule import half_cosine
from cir.training.tasks import BACKBONE_PACKAGE, package

STAGES, VIEWS = (0, 2, 4, 6), 3
BATCH, WARMUP, EVERY = 512, 40, 100


@dataclass(frozen=True)
class Variant:
    """What is trained: features pooled from the map, from the last convolution, or both."""

    map: bool = True
    kinds: bool = True
    views: int = VIEWS
    hidden: int = 1024
    dims: int = 384
    dropout: float = 0.3


VARIANTS = {
    "map and last layer": Variant(),
    "map alone": Variant(kinds=False),
    "last layer alone": Variant(map=False),
    "photos as they are": Variant(views=1),
    "640 dims": Variant(dims=640),
    "hidden layer of 2,048": Variant(hidden=2048),
    "dropout of 0.5": Variant(dropout=0.5),
}


@dataclass(frozen=True)
class Data:
    """Pooled features and sentence vectors.

    Attributes:
        pooled: (rows of maps, 2 W + 1280).
        source: whose rows they are.
        train: number of photos to train on, which come first; val follows.
        sentences: photo by photo, (captions, 384) unit-norm.
    """

    pooled: Tensor
    source: PhotoSource
    train: int
    sentences: list[Tensor]


class Tower(nn.Module):
    """(B, features) -> (B, D) unit-norm."""

    def __init__(self, width: int, variant: Variant) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Dropout(variant.dropout),
            nn.Linear(width, variant.hidden),
            nn.GELU(),
            nn.Dropout(variant.dropout),
            nn.Linear(variant.hidden, variant.dims),
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.layers(features), dim=-1)


@torch.no_grad()
def gather(root: Path, work: Path) -> Data:
    """Features and sentence vectors of train and val; feature maps are stored in `work`."""
    weights = package(BACKBONE_PACKAGE) / "models"
    backbone = EfficientNetLite0(stages=STAGES)
    backbone.load_state_dict(efficientnet_lite0_state(weights))
    preprocess = read_config("small").preprocess
    assert preprocess is not None
    source, _ = everyday.captioned_photos(root, 0.0, VIEWS, FeatureStore(work, backbone, preprocess, key="bench"))
    last, pooled = efficientnet_lite0_last(weights), []
    for part in np.array_split(np.arange(len(source.maps)), 100):
        maps = torch.from_numpy(source.maps[part]).float()
        kinds = F.relu6(F.linear(maps[..., -320:], last["weight"], last["bias"])).mean(dim=1)
        pooled.append(torch.cat([maps.mean(dim=1), maps.amax(dim=1), kinds], dim=-1))
    splits = {split: read_split(root, split) for split in ("train", "val")}
    encoder = MiniLM()
    described = [captions for photos in splits.values() for captions in photos.values()]
    sentences = [torch.from_numpy(encoder(captions)) for captions in described]
    return Data(torch.cat(pooled), source, len(splits["train"]), sentences)


def train(data: Data, variant: Variant, steps: int) -> dict[str, Any]:
    """Train a variant; its recalls on val at its best validation."""
    torch.manual_seed(0)
    numbers = np.random.default_rng(0)
    of_map = data.pooled.shape[1] - 1280
    chosen = slice(0 if variant.map else of_map, None if variant.kinds else of_map)
    features = data.pooled[:, chosen]
    images, text = Tower(features.shape[1], variant), nn.Linear(data.sentences[0].shape[1], variant.dims)
    temperature = nn.Parameter(torch.tensor(0.05))
    parameters = [*images.parameters(), *text.parameters(), temperature]
    optimiser = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.98), weight_decay=0.05)
    best = {"R@1": 0.0, "R@10": 0.0, "step": 0}
    for step in range(steps):
        done = max(0, step - WARMUP) / (steps - WARMUP)
        for group in optimiser.param_groups:
            group["lr"] = 3e-4 * min((step + 1) / WARMUP, half_cosine(1, 0, done) + 0.005)
        photos = numbers.choice(data.train, BATCH, replace=False)
        at = data.source.maps_at(photos.tolist(), numbers if variant.views > 1 else None)
        said = torch.stack([data.sentences[photo][numbers.integers(len(data.sentences[photo]))] for photo in photos])
        similar = losses.cosines(F.normalize(text(said), dim=-1), images(features[torch.from_numpy(at)]))
        clamped = temperature.clamp(0.005, 0.5)
        loss = (losses.info_nce(similar, clamped) + losses.info_nce(similar.T, clamped)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % EVERY == 0:
            found = recalls(data, images.eval(), text, features) | {"step": step + 1}
            best = max(best, found, key=lambda each: each["R@1"] + each["R@10"])
            images.train()
    return best


@torch.inference_mode()
def recalls(data: Data, images: Tower, text: nn.Linear, features: Tensor) -> dict[str, float]:
    """R@1 and R@10 of all captions of val."""
    held_out = range(data.train, len(data.sentences))
    gallery = images(features[torch.from_numpy(data.source.maps_at(list(held_out)))])
    captions = F.normalize(text(torch.cat([data.sentences[photo] for photo in held_out])), dim=-1)
    own = torch.cat([torch.full((len(data.sentences[photo]),), place) for place, photo in enumerate(held_out)])
    similar = captions @ gallery.T
    better = (similar > similar.gather(1, own[:, None])).sum(dim=1)
    return {f"R@{k}": round(float((better < k).float().mean()), 4) for k in (1, 10)}


@click.command()
@click.argument("flickr8k", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=600, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(flickr8k: Path, work: Path, steps: int, output: Path | None) -> None:
    """Train every variant and write its figures."""
    data, found = gather(flickr8k, work), {}
    for name, variant in VARIANTS.items():
        found[name] = {**train(data, variant, steps), "variant": asdict(variant)}
        click.echo(f"{name:24} R@1 {found[name]['R@1']:.3f}  R@10 {found[name]['R@10']:.3f}")
    if output:
        date = datetime.now(UTC).date().isoformat()
        write_json(output, {"date": date, "steps": steps, "batch": BATCH, "val": found}, indent=1)


if __name__ == "__main__":
    main()
