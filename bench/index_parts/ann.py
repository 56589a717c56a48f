"""The part `ann`: the approximate search at its recall, beside raw FAISS and the peers that `peers` has built.

First each engine is swept over its efforts, which gives curves of recall against time; photos and composed queries are
counted apart, because composed ones lie elsewhere. Then every engine answers the same queries at the quickest effort
that reaches `GOAL`, query by query in turn, so that load falls on all alike. Filters come last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import click
import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.indexer.reading.gallery import Gallery
from index_parts import base, engine, peers, truth, world
from index_parts.base import Setting, percentiles
from index_parts.peers import Effort, Search

GOAL = 0.99
K = engine.K
NPROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST = 50  # queries
BASES = ("raw faiss", "cir", "unfiltered")  # what the others are set against


@dataclass(frozen=True)
class Engine:
    """What is swept: a search and its efforts."""

    search: Search
    efforts: Sequence[Effort]


def measure(setting: Setting) -> dict[str, Any]:
    """Curves, the same queries in turn at equal recall, and filters."""
    made = world.make(setting)
    vectors, right = made.vectors(), made.truths()
    started = time.perf_counter()
    engine.build_ann(made.index)
    figures: dict[str, Any] = {"dims": made.dims, "goal": GOAL, "build_s": round(time.perf_counter() - started, 1)}
    gallery = engine.opened(made.index)
    engine.search(gallery, engine.vectors_of(gallery, made.queries["photos"][:1]))
    figures["measured_by_cir"] = engine.described(gallery)
    engines = _engines(setting, made, vectors, gallery)
    curves: dict[str, Any] = {}
    for name, swept in engines.items():
        click.echo(f"sweeping {name}", err=True)
        curves[name] = [_point(setting, made, vectors, right[""], swept, effort) for effort in swept.efforts]
    figures["curves"] = curves
    figures["peers"] = {name: base.read(path.with_suffix(".json")) for name, path in peers.built(made).items()}
    figures["in_turn"] = {
        kind: _in_turn(setting, queries, _at_goal(engines, curves, kind) | _raw(made, gallery))
        for kind, queries in made.queries.items()
    }
    figures["filters"] = {
        where: _filtered(setting, made, vectors, gallery, where, curves, right[where]) for where in world.FILTERS
    }
    return figures


def _engines(setting: Setting, made: world.World, vectors: Stored, gallery: Gallery) -> dict[str, Engine]:
    found = {
        "cir": Engine(lambda query, recall: _cir(gallery, query, recall=recall), engine.RECALLS),
        "faiss + rescoring": Engine(_faiss_search(made, vectors), NPROBES),
    }
    for name, folder in peers.built(made).items():
        if setting.wants(name):
            found[name] = Engine(peers.PEERS[name].load(folder), peers.PEERS[name].efforts)
    return {name: swept for name, swept in found.items() if setting.wants(name)}


def _cir(gallery: Gallery, query: Floats, *, allowed: Mask | None = None, recall: float | None = None) -> Rows:
    queries = engine.vectors_of(gallery, query[None])
    return engine.rows_of(engine.search(gallery, queries, allowed=allowed, recall=recall)[0])


def _faiss_search(made: world.World, vectors: Stored) -> Search:
    """Raw FAISS over the engine's own file, and its candidates scored again from the stored vectors."""
    index = engine.raw_faiss(made.index)

    def search(query: Floats, nprobe: int) -> Rows:
        rows = engine.faiss_rows(index, query, nprobe, engine.FETCHED)
        scores = vectors[rows].astype(np.float32) @ query
        return rows[np.argsort(-scores)[:K]]

    return search


def _raw(made: world.World, gallery: Gallery) -> dict[str, Callable[[Floats], Any]]:
    """FAISS at the effort that the engine has chosen, without ids: with its own scoring of candidates, and without."""
    nprobe, fetch = engine.effort(gallery)
    if not nprobe:  # it scans
        return {}
    index = engine.raw_faiss(made.index)
    refined = engine.refined_faiss(made.index)
    return {
        "raw faiss": lambda query: engine.refined_rows(refined, query, nprobe, fetch),
        "raw faiss, scan alone": lambda query: engine.faiss_rows(index, query, nprobe, fetch),
    }


def _point(
    setting: Setting,
    made: world.World,
    vectors: Stored,
    right: Mapping[str, tuple[Rows, Floats]],
    swept: Engine,
    effort: Effort,
) -> dict[str, Any]:
    """Recall and time of one effort, for each kind of query."""
    point: dict[str, Any] = {"effort": effort}
    for kind, queries in made.queries.items():
        times: list[float] = []
        answers = []
        swept.search(queries[0], effort)
        for query in queries:
            started = time.perf_counter()
            answers.append(swept.search(query, effort))
            times.append(time.perf_counter() - started)
            if sum(times) > setting.seconds / 2 and len(times) >= LEAST:
                break
        done = len(answers)
        recall = truth.recall(vectors, queries[:done], answers, right[kind][1][:done])
        point[kind] = {"recall": round(recall, 4), "queries": done, **percentiles(times)}
    return point


def _at_goal(engines: Mapping[str, Engine], curves: Mapping[str, Any], kind: str) -> dict[str, Callable[[Floats], Any]]:
    """Each engine at the quickest effort that reaches the goal; one that never does is left out. cir as it comes."""
    calls = {}
    for name, swept in engines.items():
        effort = engine.DEFAULT_RECALL if name == "cir" else quickest(curves[name], kind)
        if effort is not NONE:
            calls[name] = lambda query, search=swept.search, effort=effort: search(query, effort)
    return calls


NONE = object()


def quickest(curve: Sequence[Mapping[str, Any]], kind: str) -> Effort:
    """The effort of the quickest point of a curve that reaches the goal; NONE if none does."""
    reached = [point for point in curve if point[kind]["recall"] >= GOAL]
    return min(reached, key=lambda point: point[kind]["p50_ms"])["effort"] if reached else NONE


def _in_turn(setting: Setting, queries: Floats, calls: Mapping[str, Callable[[Floats], Any]]) -> dict[str, Any]:
    """Name -> percentiles, and the median over queries of the ratio to the times of each of `BASES`."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for query in [queries[0], *queries]:
        for name, call in calls.items():
            started = time.perf_counter()
            call(query)
            times[name].append(time.perf_counter() - started)
        if sum(map(sum, times.values())) > setting.seconds * len(calls) and len(times[name]) > LEAST:
            break
    times = {name: values[1:] for name, values in times.items()}
    return {
        name: {
            **percentiles(values),
            "queries": len(values),
            **{f"over_{other}": _ratio(values, times[other]) for other in BASES if other in times},
        }
        for name, values in times.items()
    }


def _ratio(times: list[float], others: list[float]) -> float:
    return round(median(a / b for a, b in zip(times, others, strict=True)), 3)


def _filtered(
    setting: Setting,
    made: world.World,
    vectors: Stored,
    gallery: Gallery,
    where: str,
    curves: Mapping[str, Any],
    right: Mapping[str, tuple[Rows, Floats]],
) -> dict[str, Any]:
    """A filtered search beside the unfiltered one, with the mask at hand and with the condition as people type it."""
    selected = gallery.select(where)
    calls = {
        "unfiltered": lambda query: _cir(gallery, query),
        "filtered": lambda query: _cir(gallery, query, allowed=selected),
        "condition and search": lambda query: _cir(gallery, query, allowed=gallery.select(where)),
        **_raw(made, gallery),
    }
    for name, folder in peers.built(made).items():
        effort = quickest(curves.get(name, []), "photos") if name.startswith("lancedb") else NONE
        if effort is not NONE:
            search = peers.load_lance(folder, where)
            calls[name] = lambda query, search=search, effort=effort: search(query, effort)
    figures: dict[str, Any] = {"rows": int(selected.sum()), "selectivity": world.FILTERS[where]}
    for kind, queries in made.queries.items():
        timed = _in_turn(setting, queries, calls)
        for name in calls:
            if name not in ("unfiltered", "raw faiss"):
                answers = [calls[name](query) for query in queries[:100]]
                found = truth.recall(vectors, queries[:100], answers, right[kind][1][:100])
                timed[name]["recall"] = round(found, 4)
        figures[kind] = timed
    return figures
