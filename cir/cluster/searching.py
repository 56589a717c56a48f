"""The head of `cir serve --ray`: which actor holds which segments, and one call to each part of a gallery for a search.

Every call names its generation by number and digest. A part opens a newer one beside those that are in use, and the
head goes on to it when each part has it open; so no answer mixes two. An actor that is lost is made again by Ray and
opens its segments again; meanwhile another replica answers, or the part is left out.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError

from cir.cluster.assignment import Capacity, assigned, overfull, placed
from cir.cluster.part import LOST, Replica, measured
from cir.cluster.shard import Measured
from cir.errors import CorruptIndexError, ServerError, UsageError
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.reading.spread import Offers, Pointer, Questions
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import DamagedSegment
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import folder_at, place_of
from cir.places import is_url

log = logging.getLogger(__name__)

_STARTING = 120.0  # seconds within which all actors run
_OPENING = 3600.0  # seconds within which all parts have opened a generation; they may build approximate indexes
_LOOK = 0.2  # seconds between two looks at parts that open one
_NODES = 1.0  # seconds between two looks at the nodes of Ray, while an actor does not come again
_UNUSED = 60.0  # seconds after which a generation that nobody uses is let go


@dataclass
class _Generation:
    """A generation that is open, or being opened.

    Attributes:
        names: of the segments of each part.
        manifest: a reference to the manifest, which actors need not find any more when they open it again.
        damaged: for each part the segments that are left out, once it is open.
        users: how many galleries search it.
        since: when there were none.
    """

    names: list[list[str]]
    manifest: Any
    damaged: dict[int, tuple[DamagedSegment, ...]] = field(default_factory=dict)
    users: int = 0
    since: float = field(default_factory=time.monotonic)


class Parts:
    """The parts of a gallery, on Ray; see `cir.indexer.reading.spread.Spread`. Safe to share between threads.

    Args:
        path: the index folder, which every node of Ray has at this place; or its URL.
        parts: how many parts the segments are spread over; one for each node, at least two, if None.
        replicas: actors of each part.
        deadline: seconds after which a search goes on without the parts that have not answered.
        ann_min_rows: as for `Gallery.open`.
        device: as for `Gallery.open`.

    Raises:
        UsageError: fewer than one part or replica, no time, or Ray cannot start the actors.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        parts: int | None = None,
        replicas: int = 1,
        deadline: float = 1.0,
        ann_min_rows: int = ANN_MIN_ROWS,
        device: str = "cpu",
    ) -> None:
        nodes = alive_nodes()
        parts = max(2, len(nodes)) if parts is None else parts
        if parts < 1 or replicas < 1 or deadline <= 0:
            raise UsageError(f"{parts} parts, {replicas} replicas, {deadline:g} seconds; give one or more of each")
        self.deadline = deadline
        self._lock = threading.RLock()
        self._released: deque[Pointer] = deque()
        self._generations: dict[Pointer, _Generation] = {}
        self._next = 0
        self._looked = 0.0  # at the nodes of Ray
        place = place_of(folder_at(path))
        places = placed(parts, replicas, nodes)
        self._arguments = str(place if is_url(place) else place.absolute()), ann_min_rows, device
        self._replicas = [
            [
                Replica(f"part {part + 1}, replica {number + 1}", node, self._arguments)
                for number, node in enumerate(there)
            ]
            for part, there in enumerate(places)
        ]
        self._capacities = self._measure()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all actors."""
        for replica in self._every():
            replica.kill()

    def open(
        self, folder: IndexFolder, pointer: Pointer, manifest: Manifest, seconds: float | None = None
    ) -> tuple[DamagedSegment, ...]:
        """Have every part open a generation, beside those that are open; returns the segments that are damaged.

        Args:
            folder: the index.
            pointer: of the generation.
            manifest: of the generation.
            seconds: how long to wait. Parts that take longer go on; None for as long as it takes to make what is
                derived.

        Raises:
            ServerError: a part has not done so in this time.
            CorruptIndexError: a part cannot read a mapping.
        """
        until = time.monotonic() + (_OPENING if seconds is None else seconds)
        with self._lock:
            self._plan(folder, pointer, manifest)
        while True:
            with self._lock:
                self.tend()
                generation = self._generations[pointer]
                held = [number for number, names in enumerate(generation.names) if names]
                if all(number in generation.damaged for number in held):
                    return tuple(segment for number in held for segment in generation.damaged[number])
                for number in held:
                    failed = [replica.problems.get(pointer) for replica in self._replicas[number]]
                    if number not in generation.damaged and failed[0] is not None and all(failed):
                        del self._generations[pointer]
                        raise failed[0][0]
                calls = [replica.opening[0] for replica in self._every() if replica.opening is not None]
            if time.monotonic() > until:
                raise ServerError(f"{folder}: not all parts have opened generation {pointer[0]} yet; try again later")
            if calls:
                ray.wait(calls, timeout=_LOOK)
            else:
                time.sleep(_LOOK)

    def parts(self, pointer: Pointer) -> Sequence[Sequence[str]]:
        """Names of the segments of each part of an open generation."""
        return self._generations[pointer].names

    def keep(self, pointer: Pointer, user: object) -> None:
        """Keep a generation open as long as an object lives."""
        with self._lock:
            self._generations[pointer].users += 1
        weakref.finalize(user, self._released.append, pointer).atexit = False

    def ask(self, pointer: Pointer, questions: Mapping[int, Questions], until: float) -> dict[int, Offers]:
        """One call to each of some parts of an open generation, and the answers that came until `time.monotonic()`.

        A replica that is lost is replaced at once by another; one that takes half of the time is joined by another.
        """
        answers: dict[int, Offers] = {}
        begun = time.monotonic()
        if begun >= until:
            return answers
        sent: dict[Any, tuple[int, Replica]] = {}
        tried: dict[int, list[Replica]] = {part: [] for part in questions}
        # What several replicas may be sent is stored once.
        stored = {part: ray.put(asked) if len(self._replicas[part]) > 1 else asked for part, asked in questions.items()}

        def send(part: int) -> None:
            replica = self._free(part, pointer, tried[part])
            if replica is not None:
                tried[part].append(replica)
                sent[replica.ask(pointer, stored[part])] = part, replica

        with self._lock:
            self.tend()
            for part in questions:
                send(part)
        second = begun + (until - begun) / 2
        while sent and len(answers) < len(questions) and (now := time.monotonic()) < until:
            if now >= second:
                second = until
                with self._lock:
                    for part in questions.keys() - answers.keys():
                        send(part)
            for call in ray.wait(list(sent), timeout=max(0.0, min(second, until) - now))[0]:
                part, replica = sent.pop(call)
                with self._lock:
                    offers = replica.taken(call, pointer)
                    if offers is not None:
                        answers.setdefault(part, offers)
                    elif part not in answers:
                        send(part)
        with self._lock:
            for call, (_, replica) in sent.items():
                replica.late(call)
        return answers

    def tend(self) -> None:
        """See which actors were lost or have opened what they had to, and have them open what they lack."""
        with self._lock:
            self._let_go()
            for part, replicas in enumerate(self._replicas):
                for number, replica in enumerate(replicas):
                    replica.look()
                    if replica.gone or self._has_lost_node(replica):
                        replicas[number] = self._instead_of(replica, number)
                for pointer, generation in sorted(self._generations.items(), reverse=True):  # the newest first
                    if generation.names[part]:
                        self._tend(part, pointer, generation)

    def _tend(self, part: int, pointer: Pointer, generation: _Generation) -> None:
        """Have one replica of a part after the other open a generation: the first makes what the others then find."""
        replicas = self._replicas[part]
        for replica in replicas:
            found = replica.generations.get(pointer)
            if found is not None:
                damaged = generation.damaged.setdefault(part, found)
                if [each.name for each in damaged] != [each.name for each in found]:
                    replica.refuse(pointer, CorruptIndexError("other segments are damaged here than at first"))
        if not any(replica.opening is not None and replica.opening[1] == pointer for replica in replicas):
            any(replica.begin(pointer, generation.manifest, tuple(generation.names[part])) for replica in replicas)

    def _plan(self, folder: IndexFolder, pointer: Pointer, manifest: Manifest) -> None:
        """Say which part gets which segments of a generation."""
        for replica in self._every():
            replica.problems.pop(pointer, None)  # it is tried again at once
        if pointer in self._generations:
            self._generations[pointer].since = time.monotonic()
            return
        sizes = {entry.name: entry.files[GALLERY].bytes for entry in manifest.segments}
        known = self._generations[max(self._generations)].names if self._generations else []
        kept = {name: part for part, names in enumerate(known) for name in names}
        names = assigned(sizes, self._capacities, kept)
        self._generations[pointer] = _Generation(names, ray.put(manifest))
        empty = sum(not part for part in names)
        if empty and sizes:
            log.warning(
                "%s has %d segments for %d parts, so %d of them have nothing to search; a segment is searched by one "
                "actor: build with --segment-rows for more segments",
                folder,
                len(sizes),
                len(names),
                empty,
            )
        for part in overfull(names, sizes, self._capacities):
            log.warning(
                "part %d holds %.1f GB of segments, and has %.1f GB of memory: its searches read the disk",
                part + 1,
                sum(sizes[name] for name in names[part]) / 1e9,
                self._capacities[part].memory / 1e9,
            )

    def _let_go(self) -> None:
        """Close generations that nobody uses any more."""
        while self._released:
            pointer = self._released.popleft()
            self._generations[pointer].users -= 1
            if not self._generations[pointer].users:
                self._generations[pointer].since = time.monotonic()
        newest = max(self._generations, default=None)
        for pointer, generation in list(self._generations.items()):
            unused = not generation.users and time.monotonic() - generation.since > _UNUSED
            if unused and pointer != newest:
                del self._generations[pointer]
                for replica in self._every():
                    replica.close(pointer)

    def _free(self, part: int, pointer: Pointer, tried: Sequence[Replica]) -> Replica | None:
        """A replica of a part that can be asked and was not; one after the other."""
        replicas = self._replicas[part]
        free = [replica for replica in replicas if replica not in tried and replica.can_answer(pointer)]
        self._next += 1
        return free[self._next % len(free)] if free else None

    def _has_lost_node(self, replica: Replica) -> bool:
        """Whether a replica does not come again because of its node, for which Ray would wait."""
        since = replica.missing_since
        if since is None or time.monotonic() - max(self._looked, since) < _NODES:
            return False
        self._looked = time.monotonic()
        return replica.node not in alive_nodes()

    def _instead_of(self, lost: Replica, number: int) -> Replica:
        """A new actor in place of one that Ray does not start again; on its node, or another if that was lost too."""
        lost.kill()
        nodes = alive_nodes()
        node = lost.node if lost.node in nodes or not nodes else nodes[number % len(nodes)]
        return Replica(lost.name, node, self._arguments)

    def _measure(self) -> list[Capacity]:
        """What each part can hold and scan. Raises UsageError."""
        try:
            found = iter(measured(self._every(), _STARTING))
        except (GetTimeoutError, *LOST) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"Ray does not start the actors of all parts ({reason}); see `ray status`") from None
        return _capacities([[next(found) for _ in there] for there in self._replicas])

    def _every(self) -> list[Replica]:
        return [replica for replicas in self._replicas for replica in replicas]


def alive_nodes() -> list[str]:
    """Ids of the nodes of Ray that are there."""
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _capacities(measures: Sequence[Sequence[Measured]]) -> list[Capacity]:
    """What each part can hold and scan; actors of one node share its memory."""
    on_node: dict[str, list[Measured]] = defaultdict(list)
    for there in measures:
        for measure in there:
            on_node[measure.node].append(measure)
    # Actors of one node have the same processors: what differs between them is what else ran at that moment.
    speeds = {node: max(each.speed for each in there) for node, there in on_node.items()}
    memories = {node: min(each.memory for each in there) // len(there) for node, there in on_node.items()}
    nodes = [[measure.node for measure in there] for there in measures]
    return [Capacity(min(memories[node] for node in there), min(speeds[node] for node in there)) for there in nodes]
