"""Segments made by processes on the machines of a Ray cluster: a build, a backfill, or the gallery of a benchmark.

Each process loads the model once, on a GPU of its own where Ray reports GPUs, and is given one segment after another:
which photos, and where the segment stays. It reads, encodes and writes by itself; what comes back is what became of
each photo. The segment of a process that is lost is given to another one. The process that asked keeps the lock and
the plan, and publishes.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cir import __version__, devices
from cir.cluster.process import EncodingProcess, MakeEncoder
from cir.errors import CirError, DataError
from cir.images.names import shown
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.segment_tasks import Recipe, RootedPhoto, SegmentResult, SegmentTask
from cir.indexer.writing.spreading import BATCH

LOSSES = 5  # of processes over one segment, or one after another while they start: then it is no accident
MOST_CORES = 4  # of a process without a GPU: more threads than that wait for each other
MOST_CORES_FOR_GPU = 8
TRIAL = 64  # photos that each process encodes in a trial
WORTH_A_TRIAL = 4096  # photos from which on a trial, of some seconds, is worth its time
GAIN = 1.1  # twice as many processes must be faster by this factor
BATCHES = (32, 64, 128, 256)  # tried on a GPU
PATIENCE = 60.0  # seconds without a process, after which a warning says so

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What a process takes of its machine, and for how many the cluster has room."""

    cpus: int
    gpus: int
    count: int

    @classmethod
    def of(cls, ray: Any, threads: int | None = None, use_gpus: bool = True) -> Shape:
        """The processes that suit a cluster: one for each GPU if there are any, else for each few cores."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        with_gpu = [each for each in machines if each.get("GPU", 0) >= 1]
        if with_gpu and use_gpus:
            share = min(int(each["CPU"] // each["GPU"]) for each in with_gpu)
            return cls(threads or max(1, min(MOST_CORES_FOR_GPU, share)), 1, sum(int(each["GPU"]) for each in with_gpu))
        cores = [int(each["CPU"]) for each in machines] or [1]
        cpus = threads or max(1, min(MOST_CORES, *cores))
        return cls(cpus, 0, max(1, sum(core // cpus for core in cores)))


@dataclass
class RaySpread:
    """Makes segments on a cluster that this process has joined (`cir.cluster.session`).

    Attributes:
        ray: the module, connected.
        make_encoder: gives the model in each process.
        processes: how many at most; as many as a trial finds worth it, if None.
        threads: of each process; by its share of its machine, if None.
        use_gpus: whether processes may take GPUs.
        tried: what the trials measured, images per second by "batches of 64", "2 processes" and the like.
        lost: how many processes were lost.
    """

    ray: Any
    make_encoder: MakeEncoder
    processes: int | None = None
    threads: int | None = None
    use_gpus: bool = True
    tried: dict[str, float] = field(default_factory=dict)
    lost: int = 0
    _pool: list[Any] = field(default_factory=list)

    def batch_size(self, photos: Sequence[RootedPhoto], layout: Layout) -> int:
        """As `Spread`. Measured on a GPU; without, it is as in one process, so that the vectors are the same."""
        if not self._shape.gpus or len(photos) < WORTH_A_TRIAL:
            return BATCH
        (actor,) = self.start(1)
        for size in BATCHES:
            some = photos[: 4 * size]
            self._get(actor.trial.remote(some, layout, size))  # fills caches, chooses kernels
            self.tried[f"batches of {size}"] = len(some) / self._get(actor.trial.remote(some, layout, size))
        return max(BATCHES, key=lambda size: self.tried[f"batches of {size}"])

    def make(self, tasks: Sequence[SegmentTask], recipe: Recipe) -> Iterator[SegmentResult]:
        """As `Spread`. Raises DataError also where one segment has cost several processes."""
        given, waiting = self.ray.put(recipe), deque(tasks)
        running: dict[Any, tuple[Any, SegmentTask | None]] = {}  # call -> its process, and the task of it
        idle: list[Any] = []
        losses: Counter[str] = Counter()
        try:
            for actor in self.start(self._count(tasks, recipe), wait=False):
                running[actor.pid.remote()] = actor, None  # answered when its model is loaded
            while waiting or any(task for _, task in running.values()):
                while waiting and idle:
                    actor, task = idle.pop(), waiting.popleft()
                    running[actor.make.remote(task, given, _visible_roots(task))] = actor, task
                done, _ = self.ray.wait(list(running), num_returns=1, timeout=PATIENCE)
                if not done and not any(task for _, task in running.values()):
                    log.warning("no process has started yet: the cluster has no %d free cores", self._shape.cpus)
                for call in done:
                    actor, finished = running.pop(call)
                    try:
                        result = self.ray.get(call)
                    except self.ray.exceptions.RayError as error:
                        self._lose(actor, finished, error, losses)
                        if finished:
                            waiting.append(finished)  # the others first: it may be to blame
                        actor = self.start(len(self._pool) + 1, wait=False)[-1]
                        running[actor.pid.remote()] = actor, None
                        continue
                    idle.append(actor)
                    losses.pop("", None)
                    if finished:
                        yield result
        finally:
            self.close()

    def close(self) -> None:
        """End the processes."""
        for actor in self._pool:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(actor)
        self._pool.clear()

    @property
    def _shape(self) -> Shape:
        return Shape.of(self.ray, self.threads, self.use_gpus)

    def _count(self, tasks: Sequence[SegmentTask], recipe: Recipe) -> int:
        """How many processes are worth it: doubled as long as a trial gets faster by it."""
        most = min(self.processes or self._shape.count, max(1, len(tasks)))
        photos = [photo for task in tasks for photo in task.photos]
        if self.processes or most == 1 or len(photos) < max(WORTH_A_TRIAL, TRIAL * most * 4):
            return most
        best, count = 0, 1
        while True:
            actors = self.start(count)
            shares = [photos[TRIAL * place : TRIAL * (place + 1)] for place in range(count)]
            seconds = self._get(
                [
                    actor.trial.remote(share, recipe.layout, recipe.batch_size)
                    for actor, share in zip(actors, shares, strict=True)
                ]
            )
            self.tried[f"{count} processes"] = rate = count * TRIAL / max(seconds)
            if best and rate < GAIN * self.tried[f"{best} processes"]:
                return best
            if count == most:
                return count
            best, count = count, min(2 * count, most)

    def start(self, count: int, *, wait: bool = True) -> list[Any]:
        """The first `count` processes, started if they are not there; with their model loaded if `wait`."""
        shape = self._shape
        while len(self._pool) < count:
            kind = self.ray.remote(num_cpus=shape.cpus, num_gpus=shape.gpus, max_restarts=0)(EncodingProcess)
            full = devices.is_full_precision()
            self._pool.append(kind.remote(self.make_encoder, shape.cpus, full, __version__))
        if wait:
            self._get([actor.pid.remote() for actor in self._pool[:count]])
        return self._pool[:count]

    def _get(self, references: Any) -> Any:
        """The results of calls in which no process may be lost. Raises the process's own error, or DataError."""
        try:
            return self.ray.get(references)
        except self.ray.exceptions.RayError as error:
            _raise_own(error)
            raise DataError(f"a process was lost in a trial: {_reason(error)}; run the same command again") from None

    def _lose(self, actor: Any, task: SegmentTask | None, error: Exception, losses: Counter[str]) -> None:
        """Note a lost process. Raises the process's own error, or DataError if a segment has cost several."""
        _raise_own(error)
        self.lost += 1
        self._pool.remove(actor)
        key = task.key if task else ""  # of those that had not started yet
        losses[key] += 1
        if losses[key] < LOSSES:
            return
        if task is None:
            raise DataError(f"{LOSSES} processes were lost before they had loaded the model: {_reason(error)}")
        first, last = shown(task.photos[0].id), shown(task.photos[-1].id)
        raise DataError(
            f"{LOSSES} processes were lost while they encoded {first} to {last}: {_reason(error)}; leave out what "
            "crashes them with --exclude, or give them more memory; run the same command to resume"
        )


def _raise_own(error: Exception) -> None:
    """Raise what a process itself has raised, and return where the process was lost."""
    for place in (error, *error.args):  # of an error in its start, the second
        own = getattr(place, "cause", None)
        if isinstance(own, CirError):
            raise own from None
        if isinstance(own, Exception):
            raise error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _visible_roots(task: SegmentTask) -> list[str]:
    """The roots of some photos that this process sees."""
    roots = dict.fromkeys(photo.root for photo in task.photos)
    return [root for root in roots if _is_there(root)]


@lru_cache(maxsize=1024)
def _is_there(root: str) -> bool:
    return bool(root) and os.path.exists(root)
