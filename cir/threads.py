"""How many threads to use."""

from __future__ import annotations

import os


def default_workers() -> int:
    """One worker per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
