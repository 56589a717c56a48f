"""The part `lists`: how many lists an approximate index should have; the count that the engine takes beside others.

An index is built with each count, its own curve is measured as at a build, and then all answer the same queries in
turn, each at the effort that it chooses for the default recall.
"""

from __future__ import annotations

import time
from typing import Any

import click

from index_parts import engine, truth, world
from index_parts.base import Setting, percentiles

FACTORS = (0.5, 1, 2, 4)  # of the engine's count


def measure(setting: Setting) -> dict[str, Any]:
    """Figures of each count, for each kind of queries."""
    made = world.make(setting)
    vectors, right = made.vectors(), made.truths()[""]
    usual = engine.list_count(len(vectors))
    tried = {}
    figures: dict[str, Any] = {"dims": made.dims, "usual": usual, "counts": {}}
    for factor in FACTORS:
        lists = round(factor * usual)
        click.echo(f"building with {lists} lists", err=True)
        started = time.perf_counter()
        tried[lists] = engine.Listed.build(vectors, lists)
        seconds = round(time.perf_counter() - started, 1)
        effort = {"nprobe": tried[lists].nprobe, "fetched": tried[lists].fetched}
        figures["counts"][str(lists)] = {"build_and_curve_s": seconds, **effort}
    for kind, queries in made.queries.items():
        times: dict[int, list[float]] = {lists: [] for lists in tried}
        answers: dict[int, list[Any]] = {lists: [] for lists in tried}
        for query in [queries[0], *queries]:
            for lists, index in tried.items():
                started = time.perf_counter()
                answers[lists].append(index.search(query))
                times[lists].append(time.perf_counter() - started)
        for lists in tried:
            recall = truth.recall(vectors, queries, answers[lists][1:], right[kind][1])
            figures["counts"][str(lists)][kind] = {"recall": round(recall, 4), **percentiles(times[lists][1:])}
    return figures
