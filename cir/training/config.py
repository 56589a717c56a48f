"""Training configurations: a TOML file holds the model's size, the batches and the optimiser.

A configuration without [batches.kinds], of any task but `triplets`, takes the shared shares of `caption_kinds.toml`.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from cir.errors import UsageError
from cir.files import read_regular
from cir.images import Preprocess
from cir.model_card import Name, SimplexBlock, Weight
from cir.models.config import SprcConfig
from cir.models.small_dual import DualSizes
from cir.models.stationary import product
from cir.training.loop import Recipe
from cir.training.sources import AttributeBatches
from cir.training.triplets import TripletBatches
from cir.typed_json import Within, from_json

LONGEST = 1_000_000  # bytes; the shipped configurations have 3,000


@dataclass(frozen=True)
class _Kind:
    task: Literal["attributes", "triplets", "dual", "combiner"]


@dataclass(frozen=True)
class _Simplex:
    """The section [simplex]; the vertices follow from it."""

    blocks: Annotated[tuple[SimplexBlock, ...], Within(1, 64)]
    free_weight: Weight


@dataclass(frozen=True, kw_only=True)
class _AttributeFile(_Kind):
    """The sections of a file, as they are written."""

    name: Name
    recipe: Recipe
    batches: AttributeBatches
    model: SprcConfig | None = None
    preprocess: Preprocess | None = None
    simplex: _Simplex | None = None


@dataclass(frozen=True, kw_only=True)
class _TripletFile(_AttributeFile):
    batches: TripletBatches  # type: ignore[assignment]


@dataclass(frozen=True)
class CombinerSizes:
    """The section [model] of a combiner: P and H of Baldrati et al. (2022)."""

    projection: Annotated[int, Within(1, 65_536)]
    hidden: Annotated[int, Within(1, 65_536)]


@dataclass(frozen=True, kw_only=True)
class _DualFile(_AttributeFile):
    model: DualSizes  # type: ignore[assignment]
    preprocess: Preprocess


@dataclass(frozen=True, kw_only=True)
class _CombinerFile(_AttributeFile):
    model: CombinerSizes  # type: ignore[assignment]


_FILES: dict[str, type[_AttributeFile]] = {
    "attributes": _AttributeFile,
    "triplets": _TripletFile,
    "dual": _DualFile,
    "combiner": _CombinerFile,
}


@dataclass(frozen=True)
class Config:
    """A parsed configuration file.

    Attributes:
        name: of the new model.
        recipe: the section [recipe].
        batches: the section [batches]; its type decides the task.
        model, preprocess: for a model built from pretrained parts, its simplex included; None for a model that
            continues another. The type of `model` tells the tasks `dual` and `combiner`.
        text: the whole configuration, which goes into the model's card.
    """

    name: str
    recipe: Recipe
    batches: AttributeBatches | TripletBatches
    model: SprcConfig | DualSizes | CombinerSizes | None
    preprocess: Preprocess | None
    text: str


def read_config(name: str | Path) -> Config:
    """The configuration at that path, or the shipped configuration of that name ("small", "fashioniq", "cirr").

    Raises:
        UsageError: the file does not exist, is not TOML, or has a missing or unknown key.
    """
    shipped = files("cir.training").joinpath("configs", f"{name}.toml")
    path = Path(name)
    there = os.path.isfile(path)
    if not there and str(name) not in _shipped():
        raise UsageError(f"no configuration {str(name)!r}: neither a file nor a shipped one ({', '.join(_shipped())})")
    try:
        return _parse(read_regular(path, LONGEST).decode() if there else shipped.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}; check the file") from None
    except ValueError as error:  # includes a file that is not TOML, or not UTF-8
        raise UsageError(f"{name}: not a training configuration: {error}; compare with the shipped ones") from None


def _parse(text: str) -> Config:
    """Raises ValueError for a text that is no configuration."""
    values = _toml(text)
    kind = from_json(_Kind, {"task": values.get("task")}).task
    batches = values.get("batches")
    if kind != "triplets" and isinstance(batches, dict) and "kinds" not in batches:
        text = f"{text.rstrip()}\n\n{files('cir.training').joinpath('caption_kinds.toml').read_text(encoding='utf-8')}"
        values = _toml(text)
    file = from_json(_FILES[kind], values)
    if bool(file.recipe.steps) == bool(file.recipe.epochs):
        raise ValueError("a recipe has either steps or epochs")
    model: SprcConfig | DualSizes | CombinerSizes | None = file.model
    if isinstance(model, SprcConfig) and file.simplex:
        model = replace(model, simplex=product(file.simplex.blocks, file.simplex.free_weight))
    return Config(file.name, file.recipe, file.batches, model, file.preprocess, text)


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _shipped() -> list[str]:
    folder = files("cir.training").joinpath("configs")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
