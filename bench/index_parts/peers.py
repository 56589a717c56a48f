"""The part `peers`: indexes of other libraries over the same vectors, each built in a process of its own.

Each build is bounded by --limit, and what was built stays in the work folder with its time and size. `ann` searches
them beside the engine. Parameters are the libraries' usual ones; efforts are swept when they are searched.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir.arrays import Floats, Rows, Stored
from cir.files import make_folder, remove_tree, write_json
from index_parts import base, world
from index_parts.base import Setting, cores

K = 10
M, BUILD_EF = 16, 200
EFS = (10, 20, 40, 80, 160, 320, 640)
LANCE = ("IVF_HNSW_SQ", "IVF_PQ", "IVF_SQ")
NPROBES, REFINES = (4, 8, 16, 32, 64, 128), (None, 10)
_BLOCK = 16_384

Effort = Any
Search = Callable[[Floats, Effort], Rows]  # (D,) float32, unit-norm -> the rows of the ten nearest


@dataclass(frozen=True)
class Peer:
    """One kind of index of another library.

    Attributes:
        build: vectors, folder of the world and new folder -> files in that folder.
        load: that folder -> a function that searches.
        efforts: what the search is swept over, from quick to thorough.
    """

    build: Callable[[Stored, Path, Path], None]
    load: Callable[[Path], Search]
    efforts: Sequence[Effort]


def measure(setting: Setting) -> dict[str, Any]:
    """Name -> seconds of the build, size of its files, and private memory when it is loaded and has answered."""
    made = world.make(setting)
    return {"dims": made.dims, "peers": {name: build(setting, made, name) for name in PEERS if setting.has(name)}}


def build(setting: Setting, made: world.World, name: str) -> dict[str, Any]:
    """Build a peer, unless the work folder has it."""
    folder = made.folder / "peers" / name.replace(" ", "-")
    known = base.read(folder.with_suffix(".json"))
    if known is None:
        remove_tree(folder)
        make_folder(folder)
        click.echo(f"building {name}", err=True)
        built = base.child("peers", "build", name, str(made.folder), str(folder), limit=setting.limit)
        if built is None:
            remove_tree(folder)
            return {"build_s": None, "note": f"stopped after {setting.limit:.0f} s"}
        known = {**built, "mb": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 1)}
        known |= base.child("peers", "memory", name, str(made.folder), str(folder))
        write_json(folder.with_suffix(".json"), known)
    return dict(known)


def built(made: world.World) -> dict[str, Path]:
    """The peers that were built, and their folders."""
    found = {name: made.folder / "peers" / name.replace(" ", "-") for name in PEERS}
    return {name: folder for name, folder in found.items() if folder.with_suffix(".json").is_file()}


def child(what: str, name: str, made: str, folder: str) -> dict[str, Any]:
    """Build a peer, or load it and search: figures of a process that does nothing else."""
    home = world.load(Path(made))
    if what == "build":
        vectors = home.vectors()
        vectors.max()  # reads the file, so that its coldness is no part of the time
        started = time.perf_counter()
        PEERS[name].build(vectors, home.folder, Path(folder))
        return {"build_s": round(time.perf_counter() - started, 1)}
    before = base.private_memory()
    search = PEERS[name].load(Path(folder))
    effort = PEERS[name].efforts[len(PEERS[name].efforts) // 2]
    for query in home.queries["photos"]:
        search(query, effort)
    after = base.private_memory()
    return {"private_mb": {key: round(size - before.get(key, 0.0), 1) for key, size in after.items()}}


def _build_hnswlib(vectors: Stored, _: Path, folder: Path) -> None:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=M, ef_construction=BUILD_EF)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        index.add_items(block, np.arange(start, start + len(block)), num_threads=cores())
    index.save_index(str(folder / "hnsw.bin"))


def _load_hnswlib(folder: Path) -> Search:
    import hnswlib

    dims = world.load(folder.parents[1]).dims
    index = hnswlib.Index("ip", dims)
    index.load_index(str(folder / "hnsw.bin"))

    def search(query: Floats, effort: int) -> Rows:
        index.set_ef(effort)
        return index.knn_query(query, K, num_threads=1)[0][0].astype(np.int64)

    return search


def _build_usearch(vectors: Stored, _: Path, folder: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=M, expansion_add=BUILD_EF)
    for start in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[start : start + _BLOCK])
        index.add(np.arange(start, start + len(block)), block, threads=cores())
    index.save(str(folder / "index.usearch"))


def _load_usearch(folder: Path) -> Search:
    from usearch.index import Index

    index = Index.restore(str(folder / "index.usearch"), view=True)

    def search(query: Floats, effort: int) -> Rows:
        index.expansion_search = effort
        return np.asarray(index.search(query.astype(np.float16), K, threads=1).keys, np.int64)

    return search


def _build_lance(kind: str) -> Callable[[Stored, Path, Path], None]:
    def build(vectors: Stored, home: Path, folder: Path) -> None:
        import lancedb
        import pyarrow as pa

        rows, dims = vectors.shape
        columns = world.columns(rows) if rows < world.WITH_METADATA else {}
        names = {name: columns[name] for name in ("colour", "sku") if name in columns}

        def batches() -> Any:
            for start in range(0, rows, _BLOCK):
                block = vectors[start : start + _BLOCK].astype(np.float32)
                values = {
                    "row": pa.array(np.arange(start, start + len(block))),
                    "vector": pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dims),
                    **{name: pa.array(values[start : start + len(block)]) for name, values in names.items()},
                }
                yield pa.record_batch(values)

        schema = next(batches()).schema
        table = lancedb.connect(folder).create_table("t", pa.RecordBatchReader.from_batches(schema, batches()))
        table.create_index(metric="dot", index_type=kind, vector_column_name="vector")
        for name in names:  # as its users would, who filter by them
            table.create_scalar_index(name, index_type="BITMAP")

    return build


def load_lance(folder: Path, where: str = "") -> Search:
    """The search of a LanceDB table; with a condition of `world.FILTERS` among the rows that meet it."""
    import lancedb

    table = lancedb.connect(folder).open_table("t")
    column, _, value = where.partition("=")

    def search(query: Floats, effort: tuple[int, int | None]) -> Rows:
        nprobes, refine = effort
        asked = table.search(query).distance_type("dot").nprobes(nprobes).limit(K).select(["row", "_distance"])
        if where:
            asked = asked.where(f"{column} = '{value}'", prefilter=True)
        if refine is not None:
            asked = asked.refine_factor(refine)
        return asked.to_arrow()["row"].to_numpy()

    return search


PEERS = {
    "hnswlib": Peer(_build_hnswlib, _load_hnswlib, EFS),
    "usearch f16": Peer(_build_usearch, _load_usearch, EFS),
    **{
        f"lancedb {kind}": Peer(_build_lance(kind), load_lance, tuple(itertools.product(NPROBES, REFINES)))
        for kind in LANCE
    },
}
