"""Training configurations: a TOML file holds the model's size, the batches and the optimiser.

A configuration of the task `attributes` without [batches.kinds] takes the shared shares of `caption_kinds.toml`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cir.errors import UsageError
from cir.images import Preprocess
from cir.models.config import SprcConfig
from cir.models.stationary import product
from cir.training.loop import Recipe
from cir.training.schedule import OneCycle
from cir.training.sources import AttributeBatches
from cir.training.triplets import TripletBatches
from cir.types import SimplexBlock

TASKS = {"attributes": AttributeBatches, "triplets": TripletBatches}


@dataclass(frozen=True)
class Config:
    """A parsed configuration file.

    Attributes:
        name: of the new model.
        recipe: the section [recipe].
        batches: the section [batches]; its type decides the task.
        model, preprocess: for a model built from pretrained parts, its simplex included; None for a model that
            continues another.
        text: the whole configuration, which goes into the model's card.
    """

    name: str
    recipe: Recipe
    batches: AttributeBatches | TripletBatches
    model: SprcConfig | None
    preprocess: Preprocess | None
    text: str


def read_config(name: str | Path) -> Config:
    """The configuration at that path, or the shipped configuration of that name ("small", "fashioniq", "cirr").

    Raises:
        UsageError: the file does not exist, is not TOML, or has a missing or unknown key.
    """
    shipped = files("cir.training").joinpath("configs", f"{name}.toml")
    path = Path(name)
    if not path.is_file() and not shipped.is_file():
        raise UsageError(f"no configuration {str(name)!r}: neither a file nor a shipped one ({', '.join(_shipped())})")
    try:
        return _parse((path if path.is_file() else shipped).read_text(encoding="utf-8"))
    except (KeyError, TypeError, ValueError) as error:  # ValueError includes a file that is not TOML, or not UTF-8
        raise UsageError(f"{name}: not a training configuration: {error}; compare with the shipped ones") from None


def _parse(text: str) -> Config:
    """Raises KeyError, TypeError or ValueError for a text that is no configuration."""
    values = tomllib.loads(text)
    if values["task"] == "attributes" and "kinds" not in values["batches"]:
        text = f"{text.rstrip()}\n\n{files('cir.training').joinpath('caption_kinds.toml').read_text(encoding='utf-8')}"
        values = tomllib.loads(text)
    model, preprocess = values.get("model"), values.get("preprocess")
    if model and "simplex" in values:
        blocks = [SimplexBlock(**block) for block in values["simplex"]["blocks"]]
        model["simplex"] = product(blocks, values["simplex"]["free_weight"])
    return Config(
        name=values["name"],
        recipe=_recipe(values["recipe"]),
        batches=TASKS[values["task"]](**values["batches"]),
        model=SprcConfig(**model) if model else None,
        preprocess=Preprocess.from_json(preprocess) if preprocess else None,
        text=text,
    )


def _recipe(values: dict[str, Any]) -> Recipe:
    if "betas" in values:
        values["betas"] = tuple(values["betas"])
    if "one_cycle" in values:
        values["one_cycle"] = OneCycle(**values["one_cycle"])
    if bool(values.get("steps")) == bool(values.get("epochs")):
        raise ValueError("a recipe has either steps or epochs")
    return Recipe(**values)


def _shipped() -> list[str]:
    folder = files("cir.training").joinpath("configs")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
