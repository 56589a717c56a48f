"""The kinds of model folders, told apart by the file that each has: what is asked of any of them goes through here.

card.json        SPRC, as this project stores it
combiner.json    a trained composition over a dual encoder
config.json      an encoder of the Hugging Face hub, or the dual encoder that `cir train` makes
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cir.errors import MissingDependencyError, UsageError, WeightsError
from cir.models import combiner_folder, folder
from cir.models.hub import files as hub
from cir.types import ModelCard

if TYPE_CHECKING:
    from cir.models.base_encoder import BaseEncoder
    from cir.types import Encoder

MARKS = (folder.CARD, combiner_folder.CARD, hub.CONFIG)
RUNTIMES = ("auto", "onnx", "torch")


def is_model(directory: Path) -> bool:
    """Whether a folder has the mark of a model, whole or not: one that cannot be read is mentioned, not overlooked."""
    return any(os.path.lexists(directory / mark) for mark in MARKS)


def read_card(directory: Path) -> ModelCard:
    """The card of a model folder, without loading its weights. Raises WeightsError."""
    if not os.path.lexists(directory / folder.CARD):
        if os.path.lexists(directory / combiner_folder.CARD):
            return combiner_folder.read_card(directory)
        if hub.is_hub_folder(directory):
            return hub.card_of(hub.read_files(directory))
    return folder.read_card(directory)


def files_of(directory: Path) -> list[Path]:
    """The files of a model. Raises WeightsError where one is missing or broken."""
    if os.path.lexists(directory / folder.CARD):
        return folder.files_of(directory)
    if os.path.lexists(directory / combiner_folder.CARD):
        return combiner_folder.files_of(directory)
    return hub.read_files(directory).all


def check(directory: Path) -> list[str]:
    """What is wrong with the files of a model, one line each; nothing is loaded. Empty if they are whole."""
    from cir.models.check import check as check_sprc

    if os.path.lexists(directory / folder.CARD):
        return check_sprc(directory)
    try:
        read_card(directory)
    except WeightsError as error:
        return [str(error)]
    return []


def load(directory: Path, device: str, runtime: str, model_dirs: Sequence[Path]) -> Encoder:
    """The encoder of a model folder.

    Args:
        directory, device, runtime, model_dirs: as for `cir.models.load_model`.

    Raises:
        WeightsError, UsageError, MissingDependencyError: as `cir.models.load_model`.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"the runtime is {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    if os.path.lexists(directory / folder.CARD) or not is_model(directory):
        return _load_sprc(directory, device, runtime)
    if runtime == "onnx":
        raise UsageError(f"{directory} has no ONNX graphs; leave out runtime")
    from cir import devices

    chosen = devices.choose(device)
    if chosen.type == "cpu":
        devices.keep_freed_memory()
    if os.path.lexists(directory / combiner_folder.CARD):
        from cir.models.combiner import load_combiner

        return load_combiner(directory, chosen, model_dirs)
    files = hub.read_files(directory)
    if files.kind == hub.OWN:
        from cir.models.small_dual import SmallDualEncoder

        return SmallDualEncoder(files, chosen)
    if files.architecture.composition == "joint":
        from cir.models.hub.joint import HubJointEncoder

        return HubJointEncoder(files, chosen)
    from cir.models.hub.dual import HubDualEncoder

    return HubDualEncoder(files, chosen)


def _load_sprc(directory: Path, device: str, runtime: str) -> BaseEncoder:
    from cir import devices
    from cir.models.graphs import has_graphs

    if runtime == "onnx" or (runtime == "auto" and has_graphs(directory) and devices.is_cpu(device)):
        from cir.models.onnx_encoder import OnnxEncoder

        if not devices.is_cpu(device):
            raise UsageError(f"ONNX graphs run on the CPU, not on {device}; leave out runtime")
        return OnnxEncoder(directory)

    try:
        from cir.models import weights
        from cir.models.encoder import SprcEncoder
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{directory} runs on torch here, but {error.name} is not installed; install all of cir: "
            f"pip install 'cir-engine[cpu]', or make ONNX graphs where it is: cir export-onnx {directory}"
        ) from None

    chosen = devices.choose(device)
    if chosen.type == "cpu":
        devices.keep_freed_memory()
    loaded = weights.load(directory, backbone=devices.backbone_precision(chosen))
    return SprcEncoder(*loaded, device=chosen, directory=directory)
