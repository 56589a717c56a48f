"""The part `opening`: what a fresh process waits for and what it then holds.

Every figure is of a process of its own, and a median over several. Private memory is what the process has written
itself; pages of files that it has mapped are the system's and are listed by file. "cold" means that the files of the
index were dropped from the page cache before (`posix_fadvise`); what the disk's own cache holds stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from index_parts import base, engine, world
from index_parts.base import Setting, ms, private_memory

REPEATS = 7
SERVED = 1000
CONDITIONS = {
    "equality": "colour=red",
    "equality, 700 values": "sku=sku-007",
    "difference": "colour!=red",
    "one of several": "colour in red,blue",
    "comparison": "price<50",
    "comparison of years": "year>=2011",
    "contains": "title~cotton",
}


def measure(setting: Setting) -> dict[str, Any]:
    """Opening and first answers, warm and cold; conditions; memory while serving."""
    made = world.make(setting)
    engine.build_ann(made.index)
    base.child("opening", "first", str(made.folder), "ann")  # digests are checked once for each file
    figures: dict[str, Any] = {"dims": made.dims}
    for state in ("warm", "cold"):
        for first in ("exact", "ann"):
            runs = []
            for _ in range(REPEATS):
                _read(made.index) if state == "warm" else _drop(made.index)
                runs.append(base.child("opening", "first", str(made.folder), first))
            figures[f"{state}, first {first}"] = _medians(runs)
    _read(made.index)
    figures["conditions"] = base.child("opening", "conditions", str(made.folder), "")
    served = [base.child("opening", "serve", str(made.folder), "") for _ in range(3)]
    figures["serving"] = _medians(served)
    figures["serving"]["bytes_per_vector"] = {
        name: round(1e6 * size / made.rows, 1) for name, size in figures["serving"]["private_mb"].items()
    }
    return figures


def child(what: str, folder: str, first: str) -> dict[str, Any]:
    """One fresh process. numpy and cir are loaded; kernels and FAISS are loaded by the first answer, and count."""
    made = world.load(Path(folder))
    queries = made.queries["photos"]
    figures: dict[str, Any] = {"private_mb": {}}
    before = private_memory()
    started = time.perf_counter()
    gallery = engine.opened(made.index)
    figures["open_ms"] = ms(time.perf_counter() - started)
    figures["open_private_mb"] = _grown(before)
    if what == "conditions":
        return {name: _condition(lambda words=words: gallery.select(words)) for name, words in CONDITIONS.items()}
    vectors = engine.vectors_of(gallery, queries)
    for number in range(SERVED if what == "serve" else 1):
        place = number % len(queries)
        started = time.perf_counter()
        engine.search(gallery, vectors[place : place + 1], exact=first == "exact")
        if not number:
            figures["first_answer_ms"] = ms(time.perf_counter() - started)
    figures["private_mb"] = _grown(before)
    return figures


def _condition(select: Callable[[], Any]) -> Any:
    """Milliseconds of the first time and of later ones."""
    times = []
    for _ in range(REPEATS):
        try:
            times.append(base.timed(select))
        except engine.CirError as error:
            return {"refused": str(error)}
    return {"first_ms": ms(times[0]), "later_ms": ms(median(times[1:]))}


def _grown(before: dict[str, float]) -> dict[str, float]:
    return {name: round(size - before.get(name, 0.0), 2) for name, size in private_memory().items()}


def _medians(runs: list[Any]) -> dict[str, Any]:
    """The medians of each number of some runs."""
    merged: dict[str, Any] = {}
    for key, value in runs[0].items():
        values = [run[key] for run in runs]
        if isinstance(value, dict):
            names = {name for each in values for name in each}
            merged[key] = {name: round(median(each.get(name, 0.0) for each in values), 3) for name in sorted(names)}
        else:
            merged[key] = median(values)
    return merged


def _files(index: Path) -> list[Path]:
    return [path for path in index.rglob("*") if path.is_file()]


def _read(index: Path) -> None:
    for path in _files(index):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _drop(index: Path) -> None:
    os.sync()  # only clean pages can be dropped
    for path in _files(index):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
