"""Where models compute. The code for an accelerator needs none: it chooses a thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from cir import forks, load_model
from cir.forks import no_fork
from cir.models import computing
from cir.models.computing import compute, computes

CPU, ACCELERATOR = torch.device("cpu"), torch.device("cuda")


class Model:
    """Computes as encoders do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @computes
    def where(self, _: int = 0) -> tuple[int, bool]:
        """The thread that computes, and whether it is in inference mode."""
        return threading.get_ident(), torch.is_inference_mode_enabled()


def threads_of(model: Model) -> set[int]:
    barrier = threading.Barrier(4)

    def call(number: int) -> int:
        barrier.wait()  # so that four threads call
        thread, inference = model.where(number)
        assert inference
        return thread

    with ThreadPoolExecutor(4) as pool:
        return set(pool.map(call, range(4)))


def test_an_accelerator_has_one_thread_and_a_cpu_computes_where_it_is_called() -> None:
    assert len(threads_of(Model(CPU))) == 4
    (thread,) = threads_of(Model(ACCELERATOR))
    assert threads_of(Model(ACCELERATOR)) == {thread}  # of all models
    assert thread != threading.get_ident()
    assert not torch.is_inference_mode_enabled()


def test_work_may_contain_work() -> None:
    assert compute(ACCELERATOR, lambda: compute(ACCELERATOR, threading.get_ident)) == compute(
        ACCELERATOR, threading.get_ident
    )


def test_what_work_raises_reaches_the_caller() -> None:
    def work() -> None:
        raise ValueError("such work")

    for device in (CPU, ACCELERATOR):
        with pytest.raises(ValueError, match="such work"):
            compute(device, work)
    assert compute(ACCELERATOR, lambda: 5) == 5


def test_nobody_forks_meanwhile() -> None:
    def work() -> int:
        with no_fork:  # as what a model calls does: not another one at work, for which a fork would wait
            return forks._working

    assert compute(CPU, work) == compute(ACCELERATOR, work) == 1
    assert forks._working == 0


def test_encoders_compute_there(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_model(tiny_model, device="cpu", runtime="torch")
    pixels = encoder.preprocess(Image.new("RGB", (8, 8)))[None]
    asked: list[str] = []

    def noted(device: torch.device, work: object) -> object:
        asked.append(device.type)
        return compute(CPU, work)  # type: ignore[arg-type]

    monkeypatch.setattr(computing, "compute", noted)
    encoder.encode_images(pixels)
    encoder.encode_queries(pixels, ["in red"])
    encoder.encode_texts(["in red"])
    assert asked == ["cpu"] * 5  # states and heads of queries are two
