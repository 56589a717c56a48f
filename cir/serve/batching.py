"""The one queue: queries that come together are answered together.

A query that finds the engine idle is answered at once. Those that come while a batch is computed wait, and are the next
batch. While there are several clients, a batch waits for as many queries as the last one had, until a deadline a few
milliseconds away: the clients of one batch ask again at about the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from cir.serve.metrics import Metrics
from cir.serve.problems import busy
from cir.serve.settings import Settings

J = TypeVar("J")
A = TypeVar("A")


@dataclass(eq=False)
class _Waiting(Generic[J, A]):
    job: J
    answer: asyncio.Future[A | Exception]
    since: float


class Batcher(Generic[J, A]):
    """A bounded queue of jobs, and the task that answers them in batches, one batch at a time.

    Args:
        answer: jobs -> their answers, or what is wrong with each; called in the executor, never twice at once.
        executor: of one thread.
        settings: how many may wait, how long, and how large a batch is.
        metrics: where batches are counted.
    """

    def __init__(
        self,
        answer: Callable[[list[J]], Sequence[A | Exception]],
        executor: Executor,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._answer, self._executor = answer, executor
        self._settings, self._metrics = settings, metrics
        self._queue: deque[_Waiting[J, A]] = deque()
        self._arrived = asyncio.Event()
        self._expected = 1
        self._speed = 0.05  # seconds per query, lately
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many jobs wait."""
        return sum(not waiting.answer.done() for waiting in self._queue)

    @property
    def is_full(self) -> bool:
        """Whether no further job may wait."""
        return len(self) >= self._settings.waiting

    async def answers(self, jobs: Sequence[J]) -> list[A | Exception]:
        """The answers to some jobs, or what is wrong with each. Cancelling it drops those that have not begun.

        Raises:
            Refused: too many wait already, or it took too long.
        """
        if self._closed:
            raise busy("the server is stopping", 5, status=503)
        ahead = len(self)
        if ahead + len(jobs) > self._settings.waiting:
            self._metrics.refused.labels("queue").inc()
            raise busy(f"{ahead:,} queries are waiting already; try again later", ahead * self._speed)
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        given = [_Waiting[J, A](job, loop.create_future(), now) for job in jobs]
        self._queue.extend(given)
        self._arrived.set()
        try:
            async with asyncio.timeout(self._settings.patience):
                return list(await asyncio.gather(*(waiting.answer for waiting in given)))
        except TimeoutError:
            self._metrics.refused.labels("patience").inc()
            message = f"no answer within {self._settings.patience:g} seconds; try again later"
            raise busy(message, ahead * self._speed, status=503) from None
        finally:
            for waiting in given:
                waiting.answer.cancel()

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Answer nothing more; a batch that is being computed ends first."""
        self._closed = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        for waiting in self._queue:
            if not waiting.answer.done():
                waiting.answer.set_result(busy("the server is stopping", 5, status=503))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next()
            if self._closed:
                return
            started = time.perf_counter()
            for waiting in batch:
                self._metrics.waited.observe(started - waiting.since)
            answers: Sequence[A | Exception]
            try:
                answers = await loop.run_in_executor(self._executor, self._answer, [waiting.job for waiting in batch])
            except Exception as error:  # a bug: it is that of each of them
                answers = [error] * len(batch)
            took = time.perf_counter() - started
            self._speed = 0.8 * self._speed + 0.2 * took / len(batch)
            self._metrics.batch.observe(len(batch))
            self._metrics.batch_seconds.observe(took)
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _next(self) -> list[_Waiting[J, A]]:
        """The next batch, of at least one job whose client has not gone; empty once it is stopped."""
        while True:
            await self._until(1)
            if self._expected > 1:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.window):
                        await self._until(self._expected)
            batch: list[_Waiting[J, A]] = []
            if self._closed:
                return batch
            while self._queue and len(batch) < self._settings.largest_batch:
                waiting = self._queue.popleft()
                if waiting.answer.done():
                    self._metrics.cancelled.inc()
                else:
                    batch.append(waiting)
            self._expected = max(1, len(batch))
            if batch:
                return batch

    async def _until(self, count: int) -> None:
        """Wait until so many jobs are there, or it is stopped."""
        while len(self._queue) < count and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
