"""Which part of a spread gallery gets which segments, and on which machine its replicas run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Capacity:
    """What was measured where a part runs; of its replicas the least.

    Attributes:
        memory: bytes that it may fill.
        speed: bytes of vectors that it scans in a second.
    """

    memory: int
    speed: float


def placed(parts: int, replicas: int, nodes: Sequence[str]) -> list[list[str]]:
    """The node of every replica of every part: as many of each node, replicas of a part on different ones if possible.

    Args:
        parts: number of parts.
        replicas: of each part.
        nodes: at least one.
    """
    shift = max(1, len(nodes) // replicas)
    return [[nodes[(part + replica * shift) % len(nodes)] for replica in range(replicas)] for part in range(parts)]


def assigned(
    sizes: Mapping[str, int], capacities: Sequence[Capacity], kept: Mapping[str, int] | None = None
) -> list[list[str]]:
    """Names of the segments of each part, so that all are searched in about the same time.

    The largest segments go first, each to the part that would be done with it first, as long as there is one with room
    for it in memory. Where there is none, the part that is filled least gets it, and reads it from the disk.

    Args:
        sizes: bytes of each segment.
        capacities: of each part.
        kept: parts of segments that are open already, which stay there.
    """
    names: list[list[str]] = [[] for _ in capacities]
    filled = [0] * len(capacities)

    def give(name: str, part: int) -> None:
        names[part].append(name)
        filled[part] += sizes[name]

    for name, part in (kept or {}).items():
        if name in sizes and part < len(capacities):
            give(name, part)
    given = {name for part in names for name in part}
    for name in sorted(sizes.keys() - given, key=lambda name: (-sizes[name], name)):
        size = sizes[name]
        room = [part for part, each in enumerate(capacities) if filled[part] + size <= each.memory]
        if room:
            give(name, min(room, key=lambda part: ((filled[part] + size) / capacities[part].speed, part)))
        else:
            give(name, min(range(len(names)), key=lambda part: ((filled[part] + size) / capacities[part].memory, part)))
    return [sorted(part) for part in names]


def overfull(names: Sequence[Sequence[str]], sizes: Mapping[str, int], capacities: Sequence[Capacity]) -> list[int]:
    """Parts whose segments do not fit in memory."""
    held = [sum(sizes[name] for name in part) for part in names]
    return [part for part, each in enumerate(capacities) if held[part] > each.memory]
