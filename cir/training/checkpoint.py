"""The checkpoint of a training: its parameters, the optimiser's state, and how far it is. Read as a foreign file is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cir.errors import WeightsError
from cir.files import parse_json
from cir.models.tensor_file import read_header
from cir.models.weights import write_tensors
from cir.training.schedule import Count
from cir.typed_json import from_json

CHECKPOINT = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of a parameter, beside its step


@dataclass
class Progress:
    """How far a training is; `best` is the headline of the model in `out`, None before the first validation."""

    step: Count = 0
    best: float | None = None
    seconds: float = 0.0


def write_checkpoint(
    path: Path,
    named: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    done: Progress,
    facts: Mapping[str, Any],
) -> None:
    """Replace the checkpoint atomically: a kill leaves the previous or the new one."""
    tensors = {f"parameter.{name}": value.detach() for name, value in named.items()}
    for name, value in named.items():
        tensors |= {f"optimiser.{key}.{name}": state for key, state in optimiser.state.get(value, {}).items()}
    metadata = {"done": json.dumps(vars(done)), "facts": json.dumps(facts)}
    write_tensors(path, {key: value.contiguous() for key, value in tensors.items()}, metadata)


def check_work(work: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another training's checkpoint; called before any costly work.

    Raises:
        WeightsError: the folder holds one.
    """
    path = work / CHECKPOINT
    if not path.is_file():
        return
    try:
        known = parse_json(read_header(path).metadata["facts"])
    except (WeightsError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not a checkpoint: {error}; delete it to start anew") from None
    if known != json.loads(json.dumps(dict(facts))):
        raise WeightsError(
            f"{path}: a checkpoint of another configuration; name another --work, or delete it to start anew"
        )


def resume(
    path: Path,
    named: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> Progress:
    """The progress at a checkpoint, whose tensors are loaded; the start if there is no checkpoint."""
    if not path.is_file():
        return Progress()
    check_work(path.parent, facts)
    from safetensors import SafetensorError, safe_open

    try:
        header = read_header(path)
        done = from_json(Progress, parse_json(header.metadata["done"]))
        _check_tensors(header.shapes(), named)
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for key, value in tensors.items():
                part, _, name = key.partition(".")
                if part == "parameter":
                    named[name].copy_(value)
                else:
                    state, _, name = name.partition(".")
                    placed = value if state == "step" else value.to(named[name].device)
                    optimiser.state[named[name]][state] = placed
    except (SafetensorError, WeightsError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a checkpoint of this training: {error}; delete it to start anew") from None
    return done


def _check_tensors(shapes: Mapping[str, tuple[int, ...]], named: Mapping[str, nn.Parameter]) -> None:
    """Raise ValueError unless a checkpoint has every parameter in its shape, and AdamW's state of no others."""
    wanted = {f"parameter.{name}": tuple(value.shape) for name, value in named.items()}
    states = {f"optimiser.{state}.{name}": tuple(value.shape) for name, value in named.items() for state in MOMENTS}
    steps = {f"optimiser.step.{name}": () for name in named}
    known = {**wanted, **states, **steps}
    wrong = [name for name, shape in shapes.items() if known.get(name) != shape]
    if absent := sorted((wanted.keys() - shapes.keys()) | set(wrong)):
        raise ValueError(f"missing, unknown or of another shape: {', '.join(absent[:3])}")
