"""Where models run, and in which precision: decided here and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from cir.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: an unknown device, or one this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; choose one of {', '.join(DEVICES)}") from None
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False):
        raise UsageError(
            f"this machine has no {device.type} device that torch {torch.__version__} can use; try --device auto"
        )
    return device


def trunk_precision(device: torch.device) -> torch.dtype:
    """Precision of the image trunk, the costly part: bfloat16 where the hardware multiplies it, else float32.

    The Q-Former stays in float32, as SPRC evaluates it.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


@contextlib.contextmanager
def shared_by(workers: int, device: torch.device) -> Iterator[None]:
    """Divide the cores among `workers` threads that will call the model at once; restored afterwards.

    Several threads of one core each keep a CPU fuller than one thread that forks and joins within every layer.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, before // max(1, workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
