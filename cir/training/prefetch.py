"""Triplets of the next steps, sampled by worker processes while an accelerator computes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from cir.training.encoded_triplets import SourcedTriplet
    from cir.training.photo_source import PhotoSource

Sample = Callable[[int], "list[SourcedTriplet]"]
MOST_WORKERS = 12


def workers() -> int:
    """How many processes prepare batches for an accelerator."""
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 1) - 1))


class Prefetch:
    """The triplets of each step. On a CPU they are sampled when they are asked for.

    Args:
        sample: step -> its triplets; depends on the step alone.
        sources: of the triplets.
        device: that trains.
    """

    def __init__(self, sample: Sample, sources: Sequence[PhotoSource], device: torch.device) -> None:
        self._sample, self._sources = sample, sources
        self._workers = 0 if device.type == "cpu" else workers()
        self._next = -1
        self._batches: Iterator[Any] = iter(())

    def __call__(self, step: int) -> list[SourcedTriplet]:
        """The triplets of a step."""
        if not self._workers:
            return self._sample(step)
        if step != self._next:
            loader = DataLoader(
                _Steps(self._sample, self._sources),
                batch_size=None,
                sampler=itertools.count(step),
                num_workers=self._workers,
                multiprocessing_context="fork",
                prefetch_factor=4,
            )
            self._batches = iter(loader)
        self._next = step + 1
        sampled = next(self._batches)
        return [
            (self._sources[number], replace(triplet, table=self._sources[number].table)) for number, triplet in sampled
        ]


class _Steps(Dataset[Any]):
    """Triplets with the numbers of their sources instead of the sources, which every process has already."""

    def __init__(self, sample: Sample, sources: Sequence[PhotoSource]) -> None:
        self._sample = sample
        self._numbers = {id(source): number for number, source in enumerate(sources)}

    def __getitem__(self, step: int) -> list[tuple[int, Any]]:
        return [
            (self._numbers[id(source)], replace(triplet, table=None))  # type: ignore[arg-type]
            for source, triplet in self._sample(step)
        ]
