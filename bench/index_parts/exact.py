"""The part `exact`: every vector scored, for one query and for several at once, set against reading the bytes once.

Selection of the ten best is included everywhere. What each contender finds is compared with the truth, because some
round: scores in bfloat16 lose neighbours, and stay in the table with their recall.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cir.arrays import Floats, Rows, Stored
from index_parts import engine, truth, world
from index_parts.base import Setting, cores, rounds
from index_parts.probe import Probe

BATCHES = (1, 2, 4, 8, 16, 64)
K = engine.K
_BLOCK = 16_384

Contender = Callable[[Floats], Any]  # (B, D) queries -> (B, K) rows


def measure(setting: Setting) -> dict[str, Any]:
    """Batch size -> contender -> figures."""
    made = world.make(setting)
    vectors = made.vectors()
    probe = Probe(vectors)
    contenders = _contenders(setting, made, vectors)
    queries = np.ascontiguousarray(made.queries["photos"])
    right = made.truths()[""]["photos"][1]
    batches: dict[str, Any] = {}
    for size in BATCHES:
        calls = {name: (lambda f=f, size=size: f(queries[:size])) for name, f in contenders.items()}
        calls = {"probe, one core": probe.one_core, **calls}
        batches[str(size)] = rounds(setting, calls, probe.all_cores)
        for figures in batches[str(size)].values():
            figures["ratio_per_query"] = round(figures["ratio"] / size, 4)
    found = {name: _recall(vectors, queries[:64], f, right[:64]) for name, f in contenders.items()}
    return {"dims": made.dims, "bytes": probe.bytes, "reduction": probe.reduction, "batches": batches, "recall": found}


def _recall(vectors: Stored, queries: Floats, contender: Contender, right: Floats) -> float:
    rows = [np.asarray(row, np.int64) for row in contender(queries)]
    return round(truth.recall(vectors, queries, rows, right), 4)


def _contenders(setting: Setting, made: world.World, vectors: Stored) -> dict[str, Contender]:
    makers: dict[str, Callable[[], Contender]] = {
        "cir": lambda: _cir(made),
        "numkong, threads": lambda: _numkong(vectors),
        "faiss SQfp16, shards": lambda: _faiss(vectors, "SQfp16", cores()),
        "faiss SQfp16": lambda: _faiss(vectors, "SQfp16", 1),
        "faiss Flat": lambda: _faiss(vectors, "Flat", 1),
        "torch bf16": lambda: _torch(vectors),
        "usearch exact": lambda: _usearch(vectors),
        "numpy blocks": lambda: lambda queries: _numpy(vectors, queries),
    }
    return {name: make() for name, make in makers.items() if setting.has(name)}


def _cir(made: world.World) -> Contender:
    gallery = engine.opened(made.index)

    def search(queries: Floats) -> list[Rows]:
        found = engine.search(gallery, engine.vectors_of(gallery, queries), exact=True)
        return [engine.rows_of(hits) for hits in found]

    return search


def _top(scores: Floats) -> Rows:
    near = np.argpartition(-scores, K - 1, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(scores, near, 1), axis=1)
    return np.take_along_axis(near, order, 1)


def _numkong(vectors: Stored) -> Contender:
    import numkong

    pool = ThreadPoolExecutor(cores())
    bounds = np.linspace(0, len(vectors), cores() + 1).astype(int)
    parts = [(start, vectors[start:stop]) for start, stop in itertools.pairwise(bounds)]

    def search(queries: Floats) -> Rows:
        rounded = queries.astype(np.float16)
        packed = numkong.dots_pack(rounded) if len(queries) > 1 else None

        def one(part: tuple[int, Stored]) -> tuple[Floats, Rows]:
            start, rows = part
            if packed is None:
                scores = np.asarray(numkong.cdist(rounded, rows, metric="dot")).reshape(1, -1)
            else:
                scores = np.asarray(numkong.dots_packed(rows, packed)).T
            best = _top(scores)
            return np.take_along_axis(scores, best, 1), best + start

        scores, rows = (np.concatenate(both, axis=1) for both in zip(*pool.map(one, parts), strict=True))
        return np.take_along_axis(rows, _top(scores), 1)

    return search


def _faiss(vectors: Stored, factory: str, shards: int) -> Contender:
    import faiss

    faiss.omp_set_num_threads(cores())
    dims = vectors.shape[1]
    bounds = np.linspace(0, len(vectors), shards + 1).astype(int)
    parts = []
    for start, stop in itertools.pairwise(bounds):
        part = faiss.index_factory(dims, factory, faiss.METRIC_INNER_PRODUCT)
        part.train(vectors[start : start + 1000].astype(np.float32))
        for at in range(start, stop, _BLOCK):
            part.add(vectors[at : min(at + _BLOCK, stop)].astype(np.float32))
        parts.append(part)
    if shards == 1:
        return lambda queries: parts[0].search(queries, K)[1]
    whole = faiss.IndexShards(dims, True, True)
    for part in parts:
        whole.add_shard(part)
    # faiss does not own the shards: the default keeps them.
    return lambda queries, _shards=parts: whole.search(queries, K)[1]


def _torch(vectors: Stored) -> Contender:
    import torch

    torch.set_num_threads(cores())
    matrix = torch.empty(vectors.shape, dtype=torch.bfloat16)
    for start in range(0, len(vectors), _BLOCK):
        matrix[start : start + _BLOCK] = torch.from_numpy(vectors[start : start + _BLOCK].astype(np.float32))

    def search(queries: Floats) -> Rows:
        scores = torch.from_numpy(queries).to(torch.bfloat16) @ matrix.T
        return scores.topk(K, dim=1).indices.numpy()

    return search


def _usearch(vectors: Stored) -> Contender:
    from usearch.index import MetricKind, search

    return lambda queries: np.reshape(
        search(vectors, queries.astype(np.float16), K, MetricKind.IP, exact=True, threads=cores()).keys, (-1, K)
    )


def _numpy(vectors: Stored, queries: Floats) -> Rows:
    scores = np.empty((len(queries), len(vectors)), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        scores[:, start : start + _BLOCK] = queries @ vectors[start : start + _BLOCK].astype(np.float32).T
    return _top(scores)
