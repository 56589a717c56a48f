"""Do the maps of `cir explain` show where a change is? On the rendered wardrobe, where that is known.

    python bench/explain.py --output bench/results/DATE-explain.json

Queries that change sleeves or neckline, of pictures that no model was trained on, each explained with one of its right
answers. For every map the share of its mass that lies inside the part that the caption is about, against

- the part's share of the picture, which is what a map that shows nothing reaches;
- the same within the garment alone, so that a map is not praised for finding the garment;
- the mass in that part when the same words ask for a colour instead, which says whether the map follows the words.

A model with random weights is the control.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from cir import Query, build_index, models
from cir.arrays import Floats
from cir.data import wardrobe
from cir.data.attribute_benchmarks import WARDROBE_PICTURES, load_wardrobe
from cir.explain.explanation import HeatMap
from cir.explain.gradients import Gradients, PartsOf, Score, integrated
from cir.explain.occlusion import Occlusion
from cir.explain.pictures import photo_of, picture_of
from cir.files import write_json
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.models import weights
from cir.models.encoder import SprcEncoder
from cir.search import Searcher
from cir.search.prepare import prepare
from cir.stats import compare, mean

CHANGED = {"sleeves": ("short", "long"), "neckline": ("round", "v-neck", "collar", "turtleneck", "hood")}
OVER = ("reference", "hit", "words", "hit for a colour", "words for a colour")
AGAINST = {"hit": "hit for a colour", "words": "words for a colour"}


@dataclass(frozen=True)
class Pair:
    """A query about one attribute, and a right answer.

    Attributes:
        query: the query.
        hit: id of the answer.
        attribute: "sleeves" or "neckline".
        colour: the same query, asking for the colour of the answer.
    """

    query: Query
    hit: str
    attribute: str
    colour: Query


@dataclass(frozen=True)
class Places:
    """Where things are in a picture of the wardrobe.

    Attributes:
        part: (H, W) float32, how much of each pixel shows the part that is spoken of.
        garment: (H, W) likewise, the garment.
    """

    part: Floats
    garment: Floats


def pairs_of(folder: Path, seed: int) -> tuple[list[Pair], Mapping[str, wardrobe.Garment]]:
    """The pairs of a wardrobe in a folder, and the garment of every picture."""
    catalogue = wardrobe.write(folder, WARDROBE_PICTURES, seed=seed)
    garments = dict(catalogue)
    pairs = []
    for query in load_wardrobe(folder, queries=2000).queries:
        if query.headline and query.kind in CHANGED:
            target = min(query.targets)
            shown = {getattr(garments[name], query.kind) for name in (query.reference, target)}
            if shown <= set(CHANGED[query.kind]):
                colour = replace(query.query, text=f"in {garments[target].colour}")
                pairs.append(Pair(query.query, target, query.kind, colour))
    return pairs, garments


def places(garments: Mapping[str, wardrobe.Garment], image_id: str, attribute: str, seed: int) -> Places:
    """Where an attribute is in a picture."""
    drawn = wardrobe.seed_of(seed, list(garments).index(image_id))
    garment = garments[image_id]
    return Places(wardrobe.where(garment, attribute, seed=drawn), wardrobe.where(garment, seed=drawn))


def shares(heat: HeatMap, where: Places) -> dict[str, float]:
    """How much of a map's mass, and of the picture, is inside the part: of the picture, and of the garment alone.

    An empty map counts as one that is the same everywhere.
    """
    side = where.part.shape[0]
    values = np.kron(heat.values, np.ones((side // len(heat.values),) * 2, np.float32))
    values = values if values.any() else np.ones_like(values)
    inside = float((values * where.garment).sum())
    return {
        "mass": float((values * where.part).sum() / values.sum()),
        "area": float(where.part.mean()),
        "mass within": float((values * where.part).sum() / inside) if inside > 0 else 0.0,
        "area within": float(where.part.sum() / where.garment.sum()),
    }


def gradient_times_features(score: Score, blank: Tensor, actual: Tensor) -> Tensor:
    """One gradient, at the picture, in place of those on the way to it."""
    there = actual[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(there).sum(), there)
    return ((actual - blank) * gradient[0]).sum(dim=-1)


def grad_cam(score: Score, blank: Tensor, actual: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017): channels weighted by their mean gradient."""
    there = actual[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(there).sum(), there)
    return (actual * gradient[0].mean(dim=1, keepdim=True)).sum(dim=-1)


def attention_times_gradient(sprc: nn.Module) -> PartsOf:
    """Cross-attention times its gradient, where positive, over heads, query tokens and layers (Chefer et al., 2021)."""

    def parts_of(score: Score, blank: Tensor, actual: Tensor) -> Tensor:
        attended: list[Tensor] = []

        def keep(module: nn.Module, given: Any, out: Any) -> None:
            attended.append(out[1])

        crossed = [module for name, module in sprc.qformer.named_modules() if name.endswith("crossattention.attention")]
        hooks = [module.register_forward_hook(keep) for module in crossed]
        before, sprc.qformer.config._attn_implementation = sprc.qformer.config._attn_implementation, "eager"
        try:
            scores = score(actual[None].clone().requires_grad_())
        finally:
            sprc.qformer.config._attn_implementation = before
            for hook in hooks:
                hook.remove()
        gradients = torch.autograd.grad(scores.sum(), attended)
        each = [(a * g).clamp(min=0).mean(dim=(1, 2)) for a, g in zip(attended, gradients, strict=True)]
        return torch.stack(each).sum(dim=0)  # (R, P)

    return parts_of


def ways(searcher: Searcher, encoder: SprcEncoder) -> dict[str, Occlusion | Gradients]:
    """The methods, by name."""
    return {
        "occlusion": Occlusion(searcher),
        "integrated gradients": Gradients(searcher, integrated),
        "gradient x features": Gradients(searcher, gradient_times_features),
        "grad-cam": Gradients(searcher, grad_cam),
        "attention x gradient": Gradients(searcher, attention_times_gradient(encoder.sprc)),
    }


def maps(searcher: Searcher, way: Occlusion | Gradients, pair: Pair) -> dict[str, HeatMap]:
    """The maps of one pair, by what they are over."""
    (prepared,) = prepare(searcher.gallery, [pair.query])
    image = searcher.gallery.image(pair.hit)
    asked = (pair.query, replace(pair.query, references=()), pair.colour, replace(pair.colour, references=()))
    vectors = searcher.encode(asked)
    picture = picture_of(prepared.references[0], searcher.encoder)
    (over_reference,) = way.over_references(pair.query, {0: picture}, [image])
    over_hit = way.over_hit(image, photo_of(image, searcher.encoder), vectors)
    return dict(zip(OVER, (over_reference[0], *over_hit), strict=True))


def randomised(sprc: nn.Module, seed: int) -> None:
    """Give a network random weights that keep the size of what passes through it."""
    torch.manual_seed(seed)
    for module in sprc.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    for tokens in (sprc.query_tokens, sprc.prompt_tokens):
        nn.init.normal_(tokens)


def figures(rows: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]] | None) -> dict[str, Any]:
    """Means of some maps, what the part's mass is above its area, and above that of other maps of the same pictures."""
    found: dict[str, Any] = {"maps": len(rows)}
    for within in ("", " within"):
        mass, area = ([row[f"{name}{within}"] for row in rows] for name in ("mass", "area"))
        found |= {f"mass{within}": round(mean(mass), 4), f"area{within}": round(mean(area), 4)}
        found |= difference(f"above{within}", mass, area)
    if others is not None:
        found |= difference("follows", [row["mass"] for row in rows], [row["mass"] for row in others])
    return found


def difference(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """A paired difference of means, with its interval."""
    found = compare(ours, theirs)
    return {name: round(found.difference, 4), f"{name} ci95": [round(bound, 4) for bound in found.ci95]}


def measured(
    searcher: Searcher, way: Occlusion | Gradients, pairs: Sequence[Pair], where: Callable[[str, str], Places]
) -> dict[str, dict[str, Any]]:
    """What the maps of a method are over -> attribute -> figures."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for attribute in CHANGED:
        rows: dict[str, list[dict[str, float]]] = defaultdict(list)
        for pair in pairs:
            if pair.attribute == attribute:
                for over, heat in maps(searcher, way, pair).items():
                    picture = pair.query.references[0] if over == "reference" else pair.hit
                    rows[over].append(shares(heat, where(picture, attribute)))
        for over, values in rows.items():
            found[over][attribute] = figures(values, rows.get(AGAINST.get(over, "")))
    return found


@click.command()
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--pairs", "count", default=100, show_default=True, help="Of each attribute, at most.")
@click.option("--seed", default=2, show_default=True, help="Of the wardrobe.")
@click.option("--weights", "weighted", multiple=True, type=click.Choice(["trained", "random"]), help="Both by default.")
@click.option("--output", type=click.Path(path_type=Path))
def main(model: str, count: int, seed: int, weighted: tuple[str, ...], output: Path | None) -> None:
    """Measure, print, and write."""
    result: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "model": model, "seed": seed, "figures": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "wardrobe"
        every, garments = pairs_of(folder, seed)
        pairs = [pair for kind in CHANGED for pair in [each for each in every if each.attribute == kind][:count]]
        needed = {name for pair in pairs for name in (pair.query.references[0], pair.hit)}

        def where(image_id: str, attribute: str) -> Places:
            return places(garments, image_id, attribute, seed)

        for kind in weighted or ("trained", "random"):
            sprc, card, preprocess = weights.load(models.find(model))
            if kind == "random":
                randomised(sprc, seed)
            encoder = SprcEncoder(sprc, card, preprocess, device=torch.device("cpu"))
            index = Path(scratch) / f"{kind}.index"
            build_index([image for image in scan([folder]) if image.id in needed], index, encoder)
            searcher = Searcher(Gallery.open(index), lambda card, encoder=encoder: encoder)
            for name, way in ways(searcher, encoder).items():
                found = measured(searcher, way, pairs, where)
                result["figures"].setdefault(kind, {})[name] = found
                for over, kinds in found.items():
                    for attribute, values in kinds.items():
                        click.echo(f"{kind}, {name}, over {over}, {attribute}: {values}")
                if output:
                    write_json(output, result, indent=1)


if __name__ == "__main__":
    main()
