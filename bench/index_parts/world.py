"""An index of N vectors made out of real ones, with metadata, and what each query must find in it.

Everything lies in the work folder and is made once. Columns: `colour` (7 values), `sku` (700 values), `price` and
`year` (numbers) and `title` (all different).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cir.arrays import Floats, Stored, unit
from cir.files import make_folder, parse_json, remove_tree, write_atomically, write_json
from index_parts import engine, noise, truth
from index_parts.base import Setting
from index_parts.photos import RealVectors, card, real_vectors

FACTS, QUERIES = "world.json", "queries.npz"
SEED = 13
BLOCK = 65_536
WITH_METADATA = 5_000_000  # rows from which metadata is left out: making it would take longer than all else
COLOURS = ("red", "blue", "black", "white", "green", "grey", "pink")
SKUS = 700
STUFFS = ("cotton", "linen", "wool", "denim", "silk")
FILTERS = {"colour=red": "1/7", "sku=sku-007": "1/700"}


@dataclass(frozen=True)
class World:
    """One index and its queries.

    Attributes:
        folder: where its files are.
        rows, dims: N and D.
        queries: kind -> (Q, D) float32, unit-norm.
        facts: how its vectors were made, as JSON values.
    """

    folder: Path
    rows: int
    dims: int
    queries: Mapping[str, Floats]
    facts: Mapping[str, Any]

    @property
    def index(self) -> Path:
        """The index folder."""
        return self.folder / "index"

    def vectors(self) -> Stored:
        """(N, D) float16, mapped from the one segment of the index."""
        return engine.only_segment(self.index).stored

    def truths(self) -> dict[str, dict[str, tuple[Any, Any]]]:
        """Filter ("" for none) -> kind of query -> (rows, cosines) of the ten best; computed once."""
        path = self.folder / "truth.npz"
        if not path.is_file():
            found = {
                f"{where}|{kind}|{name}": array
                for where in ("", *(FILTERS if self.rows < WITH_METADATA else ()))
                for kind, queries in self.queries.items()
                for name, array in zip(
                    ("rows", "cosines"), truth.best(self.vectors(), queries, self._mask(where)), strict=True
                )
            }
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **found)
        result: dict[str, dict[str, tuple[Any, Any]]] = {}
        with np.load(path) as stored:
            for name in stored.files:
                where, kind, what = name.split("|")
                if what == "rows":
                    pair = (stored[name], stored[f"{where}|{kind}|cosines"])
                    result.setdefault(where, {})[kind] = pair
        return result

    def _mask(self, where: str) -> Any:
        return None if not where else columns(self.rows)[where.partition("=")[0]] == where.partition("=")[2]


def columns(rows: int) -> dict[str, np.ndarray]:
    """Column -> (N,) texts."""
    rng = np.random.default_rng([SEED, 1])
    skus = np.array([f"sku-{number:03d}" for number in range(SKUS)])
    return {
        "colour": np.array(COLOURS)[rng.integers(len(COLOURS), size=rows)],
        "sku": skus[rng.integers(SKUS, size=rows)],
        "price": np.char.mod("%.2f", np.exp(rng.normal(3.4, 0.8, rows))),
        "year": (2026 - rng.integers(0, 36, rows)).astype(str),
        "stuff": np.array(STUFFS)[rng.integers(len(STUFFS), size=rows)],
    }


def metadata(rows: int) -> dict[str, list[str]]:
    """Column -> N texts, as they are stored."""
    if rows >= WITH_METADATA:
        return {}
    made = {name: values.tolist() for name, values in columns(rows).items()}
    stuffs = zip(made["colour"], made.pop("stuff"), strict=True)
    made["title"] = [f"{colour} {stuff} garment number {row}" for row, (colour, stuff) in enumerate(stuffs)]
    return made


def ids(rows: int, start: int = 0) -> list[str]:
    """N ids, ascending."""
    return [f"photos/{number:08d}.jpg" for number in range(start, start + rows)]


def make(setting: Setting, rows: int | None = None, dims: int | None = None) -> World:
    """The world of N rows; made if the work folder lacks it.

    Args:
        setting: where.
        rows: N, by default the setting's.
        dims: fewer than the model's, by a projection onto the first axes of the real vectors; the model's if None.
    """
    rows = rows or setting.rows
    real = real_vectors(setting)
    model = card()
    if dims is not None and dims < real.photos.shape[1]:
        real, model = _projected(real, dims), engine.plain_card(f"{model.name}-{dims}", dims)
    dims = real.photos.shape[1]
    folder = setting.work / f"world-{rows}-{dims}"
    if not (folder / FACTS).is_file():
        remove_tree(folder)
        make_folder(folder)
        with write_atomically(folder / QUERIES) as temporary, temporary.open("wb") as file:
            np.savez(file, **real.queries)
        facts = {"rows": rows, "dims": dims, **_write(folder / "index", real, model, rows)}
        facts["neighbour_cosines"] = _described(World(folder, rows, dims, real.queries, facts), real)
        write_json(folder / FACTS, facts)
    return load(folder)


def load(folder: Path) -> World:
    """A world that was made."""
    facts = parse_json((folder / FACTS).read_bytes())
    with np.load(folder / QUERIES) as stored:
        queries = {kind: stored[kind] for kind in stored.files}
    return World(folder, facts["rows"], facts["dims"], queries, facts)


def measure(setting: Setting) -> dict[str, Any]:
    """The part `data`: makes the world and says how."""
    world = make(setting)
    world.truths()
    return dict(world.facts)


def _projected(real: RealVectors, dims: int) -> RealVectors:
    _, _, axes = np.linalg.svd(real.photos - real.photos.mean(axis=0), full_matrices=False)
    first = axes[:dims].T
    return RealVectors(*(unit(values @ first) for values in (real.photos, real.held_out, real.composed)))


def _write(index: Path, real: RealVectors, model: Any, rows: int) -> dict[str, Any]:
    copies = noise.fit(real.photos, rows, SEED)

    def blocks() -> Iterator[Stored]:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            yield copies.rows(start, count, SEED).astype(np.float16)

    started = time.perf_counter()
    engine.write_index(index, model, ids(rows), metadata(rows), blocks())
    return {
        "seed": SEED,
        "photos": len(real.photos),
        "noise": copies.facts,
        "make_s": round(time.perf_counter() - started, 1),
    }


def _described(world: World, real: RealVectors) -> dict[str, Any]:
    """Kind of query -> the cosines of its neighbours among real photos and among copies, as quantiles."""
    vectors = world.vectors()
    facts: dict[str, Any] = {}
    for kind, queries in world.queries.items():
        sample = queries[:100]
        facts[kind] = {
            "among_real_photos": noise.distribution(-np.sort(-(sample @ real.photos.T), axis=1)[:, :100]),
            "among_copies": noise.distribution(truth.best(vectors, sample, None, 100)[1]),
        }
    return facts
