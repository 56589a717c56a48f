"""The device that models run on, and the precision; no other module decides them.

torch is imported by the functions that need it: importing it takes longer than a search.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from cir.errors import UsageError
from cir.threads import free_cores

if TYPE_CHECKING:
    import torch

# From glibc's malloc.h.
MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_THRESHOLD = -1, -3

DEVICES = ("auto", "cpu", "cuda", "mps")

# Every thread that encodes reads it, so it is not a context variable.
_full_precision = False


def is_cpu(name: str | torch.device = "auto") -> bool:
    """Whether a device, or what `choose` makes of "auto", is the CPU; torch is imported only where there may be a GPU.

    Raises:
        UsageError: as `choose`.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return True
    return choose(name).type == "cpu"


@cache
def _may_have_gpu() -> bool:
    """Whether torch is here and may find a device for itself: on Apple's chips, or where NVIDIA's driver counts one."""
    if importlib.util.find_spec("torch") is None:
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    count = ctypes.c_int(0)
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError, AttributeError):
            driver = ctypes.CDLL(library)
            if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
                return count.value > 0
    return False


def choose(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: the device is unknown, or this machine does not have it.
    """
    if isinstance(name, str) and name.split(":")[0] not in DEVICES:
        raise UsageError(f"unknown device {name!r}; choose one of {', '.join(DEVICES)}")

    import torch

    name = str(name) if isinstance(name, torch.device) else name
    if not isinstance(name, str):
        raise UsageError(f"the device is {name!r}; choose one of {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; choose one of {', '.join(DEVICES)}") from None
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False):
        raise UsageError(
            f"this machine has no {device.type} device that torch {torch.__version__} can use; try --device auto"
        )
    if name == "cuda" and process()[1] > 1:  # every process of a launch has its own GPU
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """A context in which every model of this process runs in float32, for figures that must equal another program's."""
    global _full_precision
    before, _full_precision = _full_precision, True
    try:
        yield
    finally:
        _full_precision = before


def is_full_precision() -> bool:
    """Whether models of this process run in float32 now."""
    return _full_precision


def backbone_precision(device: torch.device) -> torch.dtype:
    """Precision of the image backbone, the costly part: bfloat16 where the hardware multiplies it, else float32.

    The Q-Former stays in float32, as SPRC evaluates it.
    """
    import torch

    if _full_precision:
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def backbone_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which the backbone runs in `backbone_precision`."""
    import torch

    precision = backbone_precision(device)
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)


def training_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context for a training step: bfloat16 where the hardware multiplies it, else float32."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    stack = contextlib.ExitStack()
    precision = backbone_precision(device)
    if precision == torch.bfloat16:
        stack.enter_context(torch.autocast(device.type, dtype=precision))
        if device.type == "cpu":
            # In bfloat16 the backward pass of fused attention alone takes 1.6 times a whole step with plain attention.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    return stack


def process() -> tuple[int, int]:
    """Rank of this process and number of processes in an `accelerate launch` (or torchrun); (0, 1) without a launch."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes of a launch, in one collective; no effect without a launch.

    Every process must have gradients of the same parameters.
    """
    if process()[1] == 1:
        return
    from accelerate import PartialState
    from accelerate.utils import reduce
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    PartialState()  # the first call joins the launch
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    vector_to_parameters(reduce(parameters_to_vector(gradients), "mean"), gradients)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory.

    Returning large buffers to the system and fetching them again takes a fifth of a training step on a CPU, and a tenth
    of ViT-g's time in float32 (bench/full_size.py).
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(MALLOPT_MMAP_THRESHOLD, 2**30)
        library.mallopt(MALLOPT_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def shared_by(workers: int, device: torch.device) -> Iterator[None]:
    """Divide the free cores among `workers` threads that call the model at once; restored afterwards.

    Several threads with one core each use a CPU better than one thread that forks and joins within every layer. Cores
    that another job has are left out: a layer is finished when its last thread is, and that one would wait for its
    turn, layer after layer.
    """
    import torch

    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, min(before, free_cores()) // max(1, workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
