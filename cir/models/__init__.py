"""Models by name: packaged models, folders, the folders that `CIR_MODELS` lists, and ids of the Hugging Face hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cir import known
from cir.errors import WeightsError
from cir.files import is_temporary
from cir.forks import no_fork
from cir.given import one_name, paths
from cir.models import kinds
from cir.models.hub.snapshot import cached, fetch, is_hub_id
from cir.models.kinds import files_of, is_model, read_card
from cir.types import ModelCard

if TYPE_CHECKING:
    from cir.types import Encoder

PACKAGED = Path(__file__).parents[1] / "weights"
ALIASES = {"small": "small-4", "small-lite": "small-lite-2"}
DEFAULT = "small"
SEARCH_PATH = "CIR_MODELS"

log = logging.getLogger(__name__)


@no_fork
def load_model(
    name: str | Path = DEFAULT, *, device: str = "auto", model_dirs: Sequence[Path] = (), runtime: str = "auto"
) -> Encoder:
    """Load an encoder of queries and galleries.

    On a CPU, a model with ONNX graphs (`cir export-onnx`) runs on ONNX Runtime, and torch is not imported. With torch
    on a CPU the process no longer returns freed memory to the system (`devices.keep_freed_memory`): models run faster.

    Args:
        name: "small" or another packaged name, a model directory, the name of a folder under `model_dirs` or under the
            folders in the environment variable `CIR_MODELS`, or an id of the Hugging Face hub: OWNER/MODEL, with
            @REVISION for a certain one.
        device: "auto", "cpu", "cuda" or "mps".
        model_dirs: folders whose subfolders are models.
        runtime: "auto", as above; "onnx" or "torch" to ask for one.

    Raises:
        WeightsError: no such model exists, or its files do not fit each other.
        UsageError: this machine has no such device, or there is no such runtime.
        MissingDependencyError: the model needs torch, which is not installed.
    """
    folders = paths(model_dirs, "model_dirs")
    return kinds.load(find(name, folders), device, runtime, folders)


def available(model_dirs: Sequence[Path] = ()) -> list[Path]:
    """Directories of the models that have names, broken ones included: packaged models first."""
    folders = [PACKAGED, *_search_path(model_dirs)]
    return [path for folder in folders for path in _subfolders(folder) if is_model(path)]


def find(name: str | Path, model_dirs: Sequence[Path] = ()) -> Path:
    """The directory of a model.

    Args:
        name, model_dirs: as for `load_model`.

    Raises:
        UsageError: not a name.
        WeightsError: no such model exists; the message lists the places that were searched.
    """
    name = one_name(name, "the name of a model")
    packaged = PACKAGED / ALIASES.get(str(name), str(name))
    if is_model(packaged) and os.sep not in str(name):
        return packaged
    if os.path.isdir(name):
        return Path(name)
    for folder in _search_path(model_dirs):
        if is_model(folder / str(name)):
            return folder / str(name)
    if is_hub_id(str(name)):
        return fetch(str(name))
    names = ", ".join([*ALIASES, *(path.name for path in _subfolders(PACKAGED) if is_model(path))])
    raise WeightsError(
        f"no model {str(name)!r}: not one of {names}, not a folder, not under --model-dir or {SEARCH_PATH}, and no id "
        "of the hub (OWNER/MODEL)"
    )


def find_for(card: ModelCard, model_dirs: Sequence[Path] = ()) -> Path:
    """The directory of exactly the model that made an index: it is looked for by its digest, whatever its name.

    Packaged models come first, then the folders in which this user has had the model (`cir.known`), then those under
    `model_dirs` and `CIR_MODELS`. Broken models on the way are logged as warnings and passed over.

    Args:
        card: the card stored in the index.
        model_dirs: folders that are models, or whose subfolders are.

    Raises:
        WeightsError: the model is missing, the only model of that name has other weights, or the index knows no more
            than its name.
    """
    if card.only_named:
        raise WeightsError(
            f"the vectors were made by {card.name}, which cir does not have, so no text and no picture can be encoded; "
            "search by stored vectors (-i ID), or by vectors of your own (Searcher.search_vectors)"
        )
    namesake = None
    for directory in _candidates(card, model_dirs):
        try:
            found = read_card(directory)
            if found.digest == card.digest:
                files_of(directory)  # raises where one is missing
                return directory
        except WeightsError as error:
            log.warning("a model was passed over: %s", error)
            continue
        if found.name == card.name:
            namesake = directory
    if namesake is not None:
        raise WeightsError(
            f"{namesake} is called {card.name} but is another model than the one that made the index "
            f"({card.digest}); put the right model under --model-dir, or rebuild the index"
        )
    gone = [str(folder) for folder in known.model_folders(card.digest)]
    raise WeightsError(
        f"the model {card.name} ({card.digest}) that made the index is not here"
        f"{f' (it was in {gone[0]})' if gone else ''}; "
        f"{_where_from(card)}put its folder under --model-dir or {SEARCH_PATH}, or rebuild the index with "
        "`cir build-index`"
    )


def _candidates(card: ModelCard, model_dirs: Sequence[Path]) -> Iterator[Path]:
    """Folders with a card that may be a certain model, each once."""
    folders = [*_subfolders(PACKAGED), *known.model_folders(card.digest), *cached(card.source)]
    for folder in _search_path(model_dirs):
        folders += [folder, *_subfolders(folder)]
    return (folder for folder in dict.fromkeys(folders) if is_model(folder))


def _where_from(card: ModelCard) -> str:
    """How a model of the hub is fetched, for a message; empty for another."""
    if "hub_id" not in card.source:
        return ""
    revision = card.source.get("revision")
    return f"fetch it: hf download {card.source['hub_id']}{f' --revision {revision}' if revision else ''}, or "


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; those of writers in progress are skipped, and a missing folder has none."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
    return [folder / name for name in names if not is_temporary(name) and os.path.isdir(folder / name)]


def _search_path(model_dirs: Sequence[Path]) -> Iterator[Path]:
    yield from paths(model_dirs, "model_dirs")
    for entry in os.environ.get(SEARCH_PATH, "").split(os.pathsep):
        if entry:
            yield Path(entry)
