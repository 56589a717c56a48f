"""One replica of a part of a spread gallery, as the head sees it: an actor of Ray, and what state it is in."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cir.cluster.shard import Measured, Shard
from cir.errors import CirError, ServerError
from cir.indexer.reading.spread import Offers, Pointer
from cir.indexer.storage.generations import DamagedSegment

log = logging.getLogger(__name__)

LOST = (RayActorError, ActorUnschedulableError)  # what is raised by calls of an actor that is not there
_OPENING = "opening"  # threads of an actor: searches go on while a generation is opened
_AGAIN = 5.0  # seconds after which a generation that could not be opened is tried again
_STUCK = 30.0  # seconds after which an actor that is late is made again


class Replica:
    """An actor that holds the segments of a part.

    It is asked only for generations that it has open, and not while it is late with an answer.

    Args:
        name: for people.
        node: id of the node where it runs.
        arguments: of `Shard`.

    Attributes:
        generations: those that it can search, with the segments that it has found damaged.
        problems: why it could not open others, and when it tries again.
        name, node: as given.
        gone: whether it does not come again by itself.
    """

    def __init__(self, name: str, node: str, arguments: tuple[str, int, str]) -> None:
        kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, concurrency_groups={_OPENING: 1})(Shard)
        # A soft affinity is often not kept (Ray 2.60), so that replicas of a part would share a node.
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        self._actor = kind.options(scheduling_strategy=where).remote(*arguments)
        self.name, self.node, self.gone = name, node, False
        self._lost_since: float | None = None
        self.generations: dict[Pointer, tuple[DamagedSegment, ...]] = {}
        self.problems: dict[Pointer, tuple[CirError, float]] = {}
        self._opening: tuple[Any, Pointer] | None = None
        self._late: tuple[Any, float] | None = None

    def measure(self) -> Any:
        """A reference to what it measures (`Measured`)."""
        return self._actor.measure.remote()

    @property
    def opening(self) -> tuple[Any, Pointer] | None:
        """The call that opens a generation, and which; None if none does."""
        return self._opening

    def begin(self, pointer: Pointer, manifest: Any, names: tuple[str, ...]) -> bool:
        """Have it open its segments of a generation, unless it has, is at work, or has failed a moment ago.

        Args:
            pointer: of the generation.
            manifest: a reference to its manifest.
            names: of the segments.
        """
        failed = self.problems.get(pointer)
        if pointer in self.generations or self._opening is not None or (failed and time.monotonic() < failed[1]):
            return False
        call = self._actor.open.options(concurrency_group=_OPENING)
        self._opening = (call.remote(pointer, manifest, names), pointer)
        return True

    def refuse(self, pointer: Pointer, problem: CirError) -> None:
        """Do not use what it has of a generation; it is opened again a little later."""
        before = self.problems.get(pointer)
        if before is None or str(before[0]) != str(problem):
            log.warning("%s: %s", self.name, problem)
        self.close(pointer)
        self.problems[pointer] = problem, time.monotonic() + _AGAIN

    def close(self, pointer: Pointer) -> None:
        """Have it let a generation go."""
        if self.generations.pop(pointer, None) is not None:
            self._actor.close.options(concurrency_group=_OPENING).remote(pointer)

    def can_answer(self, pointer: Pointer) -> bool:
        """Whether it may be asked about a generation now."""
        return pointer in self.generations and self._late is None

    def ask(self, pointer: Pointer, questions: Any) -> Any:
        """A reference to its answer (`taken`). `questions` are `Questions` or a reference to some."""
        return self._actor.answer.remote(pointer, questions)

    def taken(self, call: Any, pointer: Pointer) -> Offers | None:
        """The answer that has come; None if the actor was lost, or has lost what it had open. Raises what it raised."""
        try:
            offers: Offers | None = ray.get(call)
        except LOST as error:
            self._lost(error)
            return None
        if offers is None:
            self.generations.pop(pointer, None)
        return offers

    def late(self, call: Any) -> None:
        """Ask it nothing more until it has answered this."""
        self._late = self._late or (call, time.monotonic())

    @property
    def missing_since(self) -> float | None:
        """When it was lost, or was asked what it has not answered in time; None if it is there."""
        return self._late[1] if self._late is not None else self._lost_since

    def look(self) -> None:
        """See what has come of calls that nobody waits for."""
        if self._late is not None and _is_done(self._late[0]):
            call, self._late = self._late[0], None
            try:
                ray.get(call)
            except LOST as error:
                self._lost(error)
            except RayError as error:  # a bug was raised there already, or was nobody's any more
                log.warning("%s: %s", self.name, _line(error))
        elif self._late is not None and time.monotonic() - self._late[1] > _STUCK:
            log.warning("%s has not answered for %.0f seconds and is started again", self.name, _STUCK)
            ray.kill(self._actor, no_restart=False)
            self._lost(None)
        if self._opening is not None and _is_done(self._opening[0]):
            (call, pointer), self._opening = self._opening, None
            try:
                self.generations[pointer] = ray.get(call)
                self.problems.pop(pointer, None)
                self._lost_since = None
            except LOST as error:
                self._lost(error)
            except RayError as error:  # what the actor raised is within
                cause = getattr(error, "cause", None)
                if not isinstance(cause, CirError):
                    cause = ServerError(f"a generation was not opened: {_line(error)}")
                self.refuse(pointer, cause)

    def kill(self) -> None:
        """End it for good."""
        ray.kill(self._actor)

    def _lost(self, error: Exception | None) -> None:
        if self.generations:
            log.warning("%s was lost, and is started again", self.name)
        self._lost_since = self._lost_since or time.monotonic()
        self.gone = isinstance(error, ActorDiedError | ActorUnschedulableError)
        self.generations.clear()
        self.problems.clear()
        self._opening = self._late = None


def measured(replicas: list[Replica], seconds: float) -> list[Measured]:
    """What replicas measure, all at once. Raises ray.exceptions.GetTimeoutError or `LOST`."""
    found: list[Measured] = ray.get([replica.measure() for replica in replicas], timeout=seconds)
    return found


def _is_done(call: Any) -> bool:
    return bool(ray.wait([call], timeout=0)[0])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]
