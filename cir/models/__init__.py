"""Models by name: the ones inside this package, folders, and what `CIR_MODELS` points at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cir.errors import WeightsError
from cir.types import ModelCard

if TYPE_CHECKING:
    from cir.models.encoder import SprcEncoder

PACKAGED = Path(__file__).parents[1] / "weights"
ALIASES = {"small": "small-3", "small-lite": "small-lite-1"}
RETIRED = ("small-1", "small-2")  # once in the package: their indexes are told so
DEFAULT = "small"
SEARCH_PATH = "CIR_MODELS"


def load_model(name: str | Path = DEFAULT, *, device: str = "auto", model_dirs: Sequence[Path] = ()) -> SprcEncoder:
    """Load an encoder of queries and galleries.

    On a CPU the process keeps memory that it frees from then on (`devices.keep_freed_memory`): models run faster by it.

    Args:
        name: "small" or another name inside the package, a model directory, or the name of one under `model_dirs` or
            the folders in the environment variable `CIR_MODELS`.
        device: "auto", "cpu", "cuda" or "mps".
        model_dirs: folders whose subfolders are models.

    Raises:
        WeightsError: there is no such model, or its files do not fit.
        UsageError: no such device.
    """
    from cir import devices
    from cir.models import weights
    from cir.models.encoder import SprcEncoder

    chosen = devices.choose(device)
    if chosen.type == "cpu":
        devices.keep_freed_memory()
    directory = find(name, model_dirs)
    loaded = weights.load(directory, trunk=devices.trunk_precision(chosen))
    return SprcEncoder(*loaded, device=chosen, directory=directory)


def available(model_dirs: Sequence[Path] = ()) -> list[Path]:
    """Directories of the models that can be named: packaged ones first."""
    folders = [PACKAGED, *_folders(model_dirs)]
    return [path for folder in folders for path in sorted(folder.glob("*")) if _is_model(path)]


def find(name: str | Path, model_dirs: Sequence[Path] = ()) -> Path:
    """The directory of a model. Raises WeightsError naming where was looked."""
    packaged = PACKAGED / ALIASES.get(str(name), str(name))
    if _is_model(packaged) and os.sep not in str(name):
        return packaged
    if Path(name).is_dir():
        return Path(name)
    for folder in _folders(model_dirs):
        if _is_model(folder / str(name)):
            return folder / str(name)
    known = ", ".join([*ALIASES, *sorted(path.name for path in PACKAGED.iterdir() if _is_model(path))])
    raise WeightsError(
        f"no model {str(name)!r}: not one of {known}, not a folder, not under --model-dir or {SEARCH_PATH}"
    )


def find_for(card: ModelCard, hint: str | None = None, model_dirs: Sequence[Path] = ()) -> Path:
    """The directory of exactly the model that an index names: right digest, wherever it lies now.

    Args:
        card: the card stored in the index.
        hint: where the model lay when the index was built.
        model_dirs: where else to look.

    Raises:
        WeightsError: it is nowhere, or only a model of that name with other weights is.
    """
    from cir.models.weights import read_card

    candidates = [PACKAGED / card.name, *([Path(hint)] if hint else [])]
    for folder in _folders(model_dirs):
        candidates += [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    other = None
    for directory in candidates:
        if _is_model(directory):
            found = read_card(directory)
            if found.digest == card.digest:
                return directory
            if found.name == card.name:
                other = directory
    if other is not None:
        raise WeightsError(
            f"{other} is called {card.name} but has other weights than the model that made the index "
            f"({card.digest}); put the right one under --model-dir, or rebuild the index"
        )
    if card.name in RETIRED:
        raise WeightsError(
            f"the index was made by {card.name}, which has left the package for {ALIASES[DEFAULT]}; "
            f"rebuild it: cir build-index IMAGES -o NEW.index (or put the folder of {card.name} under --model-dir)"
        )
    raise WeightsError(
        f"the model {card.name} ({card.digest}) that made the index is not here; "
        f"put its folder under --model-dir or {SEARCH_PATH}, or rebuild the index with `cir build-index`"
    )


def _is_model(directory: Path) -> bool:
    return (directory / "card.json").is_file()


def _folders(model_dirs: Sequence[Path]) -> Iterator[Path]:
    yield from model_dirs
    for entry in os.environ.get(SEARCH_PATH, "").split(os.pathsep):
        if entry:
            yield Path(entry)
