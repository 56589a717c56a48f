"""The part `tokens`: 32 vectors of 256 dims per image, ranked by the best of them; a tenth of --rows images.

There are no tokens of an official model here, so they are made with several statistics (`token_data`): invented ones,
and those that a model with random weights gives for real photos, multiplied. The engine is set against brute force over
int8 tokens by the quickest library, its exact search against reading its bytes once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import token_data

from cir.arrays import Floats, Rows, Stored
from cir.files import make_folder, read_regular, write_bytes
from cir.indexer.storage.folder import GALLERY
from index_parts import engine, token_photos
from index_parts.base import Setting, cores, rounds
from index_parts.probe import Probe

K = engine.K
SEED, QUERIES = 0, 100
_BLOCK = 1024  # images


def measure(setting: Setting) -> dict[str, Any]:
    """Statistics -> figures."""
    images = max(1000, setting.rows // 10)
    names = [*token_data.STATISTICS, *(["photos"] if token_photos.known(setting) else [])]
    wanted = [name for name in names if setting.wants(name)]
    return {
        "images": images,
        "tokens": token_data.TOKENS,
        "dims": token_data.DIMS,
        "statistics": {name: _measure(setting, name, images) for name in wanted},
    }


def _measure(setting: Setting, name: str, images: int) -> dict[str, Any]:
    folder = setting.work / f"tokens-{images}-{name}"
    data = _data(setting, name)
    index = folder / "index"
    if not (folder / "done").is_file():
        click.echo(f"making {images:,} images of {name} tokens", err=True)
        make_folder(folder)
        card = engine.plain_card(f"tokens-{name}", token_data.DIMS, token_data.TOKENS)
        ids = [f"photos/{number:08d}.jpg" for number in range(images)]
        blocks = (block.astype(np.float16) for block in data.blocks(images))
        engine.write_index(index, card, ids, {}, blocks)
        write_bytes(folder / "done", b"")
    queries = data.queries(images, QUERIES)
    tokens = engine.only_segment(index).stored
    right = _truth(folder / "truth.npy", tokens, queries)
    started = time.perf_counter()
    engine.build_ann(index)
    gallery = engine.opened(index)
    one = engine.vectors_of(gallery, queries)
    engine.search(gallery, one[:1])
    figures: dict[str, Any] = {"codes_s": round(time.perf_counter() - started, 1)}
    home = engine.only_segment(index).path.parent
    sizes = {path.name: path.stat().st_size for path in home.iterdir() if path.name != GALLERY}
    figures["codes_bytes_per_image"] = round(sum(sizes.values()) / images)
    turn = _Turns(queries)
    contenders: dict[str, Callable[[Floats], Any]] = {
        "cir": lambda query: engine.search(gallery, engine.vectors_of(gallery, query)),
        "cir, exact": lambda query: engine.search(gallery, engine.vectors_of(gallery, query), exact=True),
        **_brute(tokens),
    }
    probe = Probe(tokens)
    calls = {label: (lambda f=f: f(next(turn))) for label, f in contenders.items()}
    figures["times"] = rounds(setting, calls, probe.all_cores)
    figures["bytes"] = probe.bytes
    figures["recall"] = {
        "cir": _recall([_rows(hits) for hits in engine.search(gallery, one)], right),
        "cir, exact": _recall([_rows(hits) for hits in engine.search(gallery, one[:20], exact=True)], right),
        **{
            label: _recall([f(query[None]) for query in queries[:20]], right)
            for label, f in contenders.items()
            if not label.startswith("cir")
        },
    }
    return figures


def _data(setting: Setting, name: str) -> token_data.TokenData:
    if name == "photos":
        return token_data.Multiplied(*token_photos.real_tokens(setting), seed=SEED)
    return token_data.Clustered(name, SEED)


class _Turns(Iterator[Floats]):
    """One query after another, for ever, so that no contender is warm for one."""

    def __init__(self, queries: Floats) -> None:
        self._queries, self._next = queries, 0

    def __next__(self) -> Floats:
        self._next += 1
        return self._queries[(self._next - 1) % len(self._queries)][None]


def _rows(hits: list[tuple[str, float]]) -> Rows:
    return np.array([int(image_id[-12:-4]) for image_id, _ in hits], np.int64)


def _recall(answers: list[Rows], right: Rows) -> float:
    found = [len(set(map(int, rows[:K])) & set(map(int, best))) for rows, best in zip(answers, right, strict=False)]
    return round(sum(found) / (K * len(answers)), 4)


def _truth(path: Path, tokens: Stored, queries: Floats) -> Rows:
    """(Q, K) rows, by numpy in single precision."""
    if path.is_file():
        return np.frombuffer(read_regular(path, 10**8), np.int64).reshape(-1, K)
    scores = np.empty((len(queries), len(tokens)), np.float32)
    for start in range(0, len(tokens), _BLOCK):
        block = tokens[start : start + _BLOCK].astype(np.float32)
        products = queries @ block.reshape(-1, block.shape[2]).T
        scores[:, start : start + len(block)] = products.reshape(len(queries), len(block), -1).max(axis=2)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K].astype(np.int64)
    write_bytes(path, best.tobytes())
    return best


def _brute(tokens: Stored) -> dict[str, Callable[[Floats], Rows]]:
    """Brute force over all tokens in 8 bits, the best ten images by their best token: the quickest ways there are."""
    import numkong
    import torch

    images, each, dims = tokens.shape
    codes = np.empty((images * each, dims), np.int8)
    for start in range(0, images, _BLOCK):
        block = tokens[start : start + _BLOCK].astype(np.float32).reshape(-1, dims)
        codes[start * each : start * each + len(block)] = np.rint(block * 127)
    torch.set_num_threads(1)  # in each of our threads
    pool = ThreadPoolExecutor(cores())
    pieces = [codes[part[0] * each : (part[-1] + 1) * each] for part in np.array_split(np.arange(images), cores() * 50)]

    def packed(query: Any) -> Callable[[Any], Any]:
        other = numkong.dots_pack(query)
        return lambda piece: numkong.dots_packed(piece, other)

    def cdist(query: Any) -> Callable[[Any], Any]:
        return lambda piece: numkong.cdist(query, piece, metric="dot")

    def int_mm(query: Any) -> Callable[[Any], Any]:
        # torch asks for a matrix: the query and seven columns of zeros.
        columns = torch.zeros(dims, 8, dtype=torch.int8)
        columns[:, 0] = torch.from_numpy(query[0])
        return lambda piece: torch._int_mm(torch.from_numpy(piece), columns)[:, 0]

    def by(products_with: Callable[[Any], Callable[[Any], Any]]) -> Callable[[Floats], Rows]:
        def search(query: Floats) -> Rows:
            products = products_with(np.rint(query * (127 / np.abs(query).max())).astype(np.int8))

            def one(piece: Any) -> Any:
                return np.asarray(products(piece)).reshape(-1, each).max(axis=1)

            scores = np.concatenate(list(pool.map(one, pieces)))
            best = np.argpartition(-scores, K)[:K]
            return best[np.argsort(-scores[best])]

        return search

    return {
        "int8 brute, numkong packed": by(packed),
        "int8 brute, numkong cdist": by(cdist),
        "int8 brute, torch": by(int_mm),
        "int8 brute, faiss": _faiss(tokens),
    }


def _faiss(tokens: Stored) -> Callable[[Floats], Rows]:
    """FAISS 8-bit codes over tokens, one shard for each core; 32 tokens an image are fetched and grouped."""
    import faiss

    faiss.omp_set_num_threads(cores())
    images, each, dims = tokens.shape
    whole, parts = faiss.IndexShards(dims, True, True), []
    bounds = np.linspace(0, images, cores() + 1).astype(int)
    for start, stop in itertools.pairwise(bounds):
        part = faiss.index_factory(dims, "SQ8", faiss.METRIC_INNER_PRODUCT)
        part.train(tokens[start : start + _BLOCK].astype(np.float32).reshape(-1, dims))
        for at in range(start, stop, _BLOCK):
            part.add(tokens[at : min(at + _BLOCK, stop)].astype(np.float32).reshape(-1, dims))
        parts.append(part)
        whole.add_shard(part)

    def search(query: Floats, _shards: Any = parts) -> Rows:  # faiss does not own them
        _, rows = whole.search(query, K * each)
        return np.array(list(dict.fromkeys((rows[0] // each).tolist()))[:K], np.int64)

    return search
