"""Where the torch models of this process compute: in the calling thread on a CPU, in one thread on an accelerator."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch

from cir.errors import UsageError
from cir.forks import inherited, no_fork

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()


class OnDevice(Protocol):
    """An encoder whose model lies on a device."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""


SelfT = TypeVar("SelfT", bound=OnDevice)
ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def computes(method: Callable[Concatenate[SelfT, P], R]) -> Callable[Concatenate[SelfT, P], R]:
    """Decorate the method of an encoder that computes on its device: `compute`, in inference mode."""
    inference = torch.inference_mode()(method)

    @wraps(method)
    def run(self: SelfT, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return compute(self.device, partial(inference, self, *args, **kwargs))

    return run


def compute(device: torch.device, work: Callable[[], R]) -> R:
    """Do some work of a model; nobody forks meanwhile.

    A CPU computes in several threads at once. An accelerator takes one batch after another, and all from one thread:
    torch keeps the convolutions that cuDNN has prepared for each thread apart, so every thread prepares them anew. That
    is the likely reason why 16 threads encoded no faster than a CPU (docs/scale.md).

    Raises:
        UsageError: this process was forked from one that uses the accelerator; else what the work raises.
    """
    with no_fork:
        if device.type == "cpu":
            return work()
        with _lock:  # else threads that come first at once would each make one
            thread = _thread()
        return thread.run(work)


def placed(module: ModuleT, device: torch.device) -> ModuleT:
    """The module on its device, in eval mode. Raises as `compute`."""
    return compute(device, lambda: module.to(device).eval())


class _Thread:
    """One thread of the process that opened the accelerator; a forked process cannot use it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cir-device")
        self._ident: int = self._pool.submit(threading.get_ident).result()

    def run(self, work: Callable[[], Any]) -> Any:
        """The result of some work in the thread, from any thread."""
        if os.getpid() != self._process:
            raise UsageError(
                "a forked process cannot use its parent's accelerator; open the index in the new process, or start it "
                "with 'spawn'"
            )
        if threading.get_ident() == self._ident:
            return work()
        return self._pool.submit(inherited(lambda _: work()), None).result()


@cache
def _thread() -> _Thread:
    return _Thread()
