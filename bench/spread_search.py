"""Search over actors of Ray against one process: opening, one query, and the same answers.

    python bench/spread_search.py search --rows 1000000 --dims 128 --segment-rows 250000 --parts 4 --queries 1000

An index of synthetic vectors is made first, a chunk at a time, and kept in --work: two-level clusters of uneven size,
with a common mean. Queries are vectors of the gallery with noise. Both ways are opened and timed in this run: one query
after another, exact and approximate, with and without a filter that leaves a third of the images; what 1,000 queries
find is compared. The fan-out alone (a call of each part that does nothing) is timed in turn with them. Memory is what
each process has of its own, and the share of mapped files that it has touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from index_parts.base import RESULTS, check_idle, commit, load, machine, ms, percentiles

from cir.arrays import Floats, Stored, unit
from cir.files import make_folder, write_json
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.reading.coverage import search_covered
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import GALLERY, IndexFolder, is_index
from cir.indexer.storage.generations import adopt_segment
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, write_segment
from cir.indexer.storage.writer import writing
from cir.query_vectors import QueryVectors
from cir.types import ModelCard

CHUNK = 65_536  # rows that are made at once
CLUSTERS, INNER = 400, 20
COLOURS = ("red", "green", "blue")
OPENING_ROOM = 1_500_000_000  # bytes that head, Ray and batches take beside the mapped vectors


class World:
    """Synthetic vectors of a gallery, a chunk at a time; the same for the same place."""

    def __init__(self, dims: int) -> None:
        rng = np.random.default_rng(1)
        self._dims = dims
        self._mean = rng.standard_normal(dims) * 0.6
        spectrum = (1 + np.arange(dims)) ** -0.35
        self._outer = rng.standard_normal((CLUSTERS, dims)) * spectrum
        self._inner = rng.standard_normal((CLUSTERS, INNER, dims)) * spectrum * 0.5
        self._spectrum = spectrum * 0.35
        shares = 1 / np.arange(1, CLUSTERS + 1)
        self._shares = shares / shares.sum()

    def vectors(self, start: int, count: int) -> Floats:
        """(count, D) float32, unit-norm: the rows from `start` on, which is a multiple of `CHUNK`."""
        rng = np.random.default_rng([2, start])
        outer = rng.choice(CLUSTERS, count, p=self._shares)
        inner = rng.integers(0, INNER, count)
        noise = rng.standard_normal((count, self._dims), np.float32) * self._spectrum
        return unit((self._mean + self._outer[outer] + self._inner[outer, inner] + noise).astype(np.float32))


def make(path: Path, rows: int, dims: int, segment_rows: int) -> float:
    """Make the index unless it is there; returns the seconds that it took."""
    if is_index(path):
        return 0.0
    started = time.perf_counter()
    none = "0" * 64
    card = ModelCard("synthetic", hashlib.sha256(b"synthetic").hexdigest(), none, none, none, dims, 0, True)
    layout, world, folder = Layout.of(card), World(dims), IndexFolder(path)
    make_folder(path)
    with writing(folder) as writer:
        entries = []
        for first in range(0, rows, segment_rows):
            count = min(segment_rows, rows - first)
            ids = [f"{number:09d}" for number in range(first, first + count)]
            digests = np.random.default_rng([3, first]).integers(0, 256, (count, 32), np.uint8)
            table = RowTable(
                ids, digests, [""] * count, {"colour": [COLOURS[(first + row) % 3] for row in range(count)]}
            )
            work = folder.work / "segment"
            make_folder(work)
            write_segment(work / GALLERY, layout, table, _blocks(world, first, count))
            files = {GALLERY: FileEntry.of(work / GALLERY)}
            name = adopt_segment(folder, work)
            entries.append(SegmentEntry(name, count, card.digest, card.space.id, dims, 0, True, files))
        writer.publish(Manifest.empty(card).succeed(segments=entries))
    return time.perf_counter() - started


def _blocks(world: World, first: int, count: int) -> Iterator[EncodedBlock]:
    """Rows of a segment; chunks begin at multiples of `CHUNK`, wherever segments do."""
    start = first
    while start < first + count:
        chunk = start // CHUNK * CHUNK
        stop = min(chunk + CHUNK, first + count)
        values: Stored = world.vectors(chunk, stop - chunk)[start - chunk :].astype(np.float16)
        yield EncodedBlock(values, None)
        start = stop


def queries_of(gallery: Gallery, rows: int, dims: int, count: int) -> QueryVectors:
    """Vectors of the gallery with noise."""
    world, rng = World(dims), np.random.default_rng(9)
    chunk = world.vectors(rows // 2 // CHUNK * CHUNK, min(CHUNK, max(1, rows - rows // 2 // CHUNK * CHUNK)))
    picked = chunk[rng.integers(0, len(chunk), count)]
    return QueryVectors({gallery.space.id: unit(picked + 0.05 * rng.standard_normal((count, dims)).astype(np.float32))})


def memory(process: int) -> dict[str, float]:
    """MB of a process: its own, and what it has touched of mapped files."""
    own, mapped, is_file = 0.0, 0.0, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            is_file = len(words) > 5 and words[5].endswith((".h5", ".faiss"))
        elif words[0] == "Rss:":
            mapped += int(words[1]) / 1024 if is_file else 0
            own += 0 if is_file else int(words[1]) / 1024
    return {"own_mb": round(own, 1), "mapped_mb": round(mapped, 1)}


def one_by_one(gallery: Gallery, queries: QueryVectors, options: RankingOptions, count: int) -> list[float]:
    """Seconds of each of some queries."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        gallery.search(queries[[number % len(queries)]], options)
        times.append(time.perf_counter() - started)
    return times


@click.group()
def cli() -> None:
    """Measure search over actors of Ray."""


@cli.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--dims", default=128, show_default=True)
@click.option("--segment-rows", default=250_000, show_default=True)
@click.option("--parts", default=4, show_default=True)
@click.option("--replicas", default=1, show_default=True)
@click.option("--queries", "count", default=1000, show_default=True, help="How many are compared.")
@click.option("--timed", default=100, show_default=True, help="How many are timed one by one in each way.")
@click.option(
    "--recall", default=0.95, show_default=True, help="That approximate searches want; more is not reached at 128 dims."
)
@click.option("--work", default=Path("work/spread"), show_default=True, type=click.Path(path_type=Path))
@click.option("--ray", "address", default="local", show_default=True)
@click.option("--busy", is_flag=True, help="Measure although other jobs run; the result says so.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: a dated file in bench/results]")
def search(
    rows: int,
    dims: int,
    segment_rows: int,
    parts: int,
    replicas: int,
    count: int,
    timed: int,
    recall: float,
    work: Path,
    address: str,
    busy: bool,
    output: Path | None,
) -> None:
    """Open, search and compare."""
    import ray

    from cir.cluster.searching import Parts
    from cir.cluster.session import joined
    from cir.cluster.shard import available_memory

    before = load()
    check_idle(busy)
    need = int(rows * (2 * dims + 32 + dims / 4 + 24))  # vectors, digests, codes, ids
    available = available_memory()
    free = shutil.disk_usage(work.parent if work.parent.exists() else Path.cwd()).free
    click.echo(
        f"needs {need / 1e9:.1f} GB; there are {available / 1e9:.1f} GB of memory and {free / 1e9:.0f} GB on the disk"
    )
    path = work / f"{rows}x{dims}-{segment_rows}.index"
    if not is_index(path) and need * 1.3 > free:
        raise click.ClickException(f"{work}: not enough room on the disk; give another --work")
    figures: dict[str, Any] = {
        "made_s": round(make(path, rows, dims, segment_rows), 1),
        "files_gb": round(need / 1e9, 2),
    }
    figures["fits_in_memory"] = need + OPENING_ROOM < available
    os.environ.setdefault("RAY_worker_niceness", "0")  # as `cir serve` does
    least = min(ANN_MIN_ROWS, segment_rows)
    with joined(address, 2):
        started = time.perf_counter()
        with Parts(path, parts=parts, replicas=replicas, deadline=600, ann_min_rows=least) as spread:
            figures["actors_started_s"] = round(time.perf_counter() - started, 2)
            figures["capacities"] = [
                {"memory_gb": round(each.memory / 1e9, 1), "gb_per_s": round(each.speed / 1e9, 1)}
                for each in spread._capacities
            ]
            started = time.perf_counter()
            there = Gallery.open(path, ann_min_rows=least, spread=spread)
            figures["spread_opened_first_s"] = round(time.perf_counter() - started, 2)  # approximate indexes are made
            figures["parts_segments"] = [len(names) for names in spread.parts(there._opened.pointer)]
            started = time.perf_counter()
            here = Gallery.open(path, ann_min_rows=least)
            for segment in here._segments:
                segment.load()
            figures["one_process_opened_s"] = round(time.perf_counter() - started, 2)
            wanted = queries_of(here, rows, dims, count)
            actors = [of_part[0] for of_part in spread._replicas]
            figures["ways"] = {}
            mask = here.select("colour=red")
            for name, options in (
                ("exact", RankingOptions(10, exact=True)),
                ("ann", RankingOptions(10, recall=recall)),
                ("exact, filtered", RankingOptions(10, mask, exact=True)),
                ("ann, filtered", RankingOptions(10, mask, recall=recall)),
            ):
                figures["ways"][name] = way = _both(here, there, wanted, options, timed)
                way["fan_out"] = percentiles(_fan_out(ray, actors, timed))
                click.echo(f"{name}: {json.dumps(way)}")
            processes = {f"part {number + 1}": ray.get(actor.measure()).process for number, actor in enumerate(actors)}
            figures["memory"] = {name: memory(process) for name, process in processes.items()}
            figures["memory"]["head and one process"] = memory(os.getpid())
        started = time.perf_counter()
        with Parts(path, parts=parts, replicas=replicas, deadline=600, ann_min_rows=least) as spread:
            figures["actors_started_again_s"] = round(time.perf_counter() - started, 2)
            started = time.perf_counter()
            Gallery.open(path, ann_min_rows=least, spread=spread)
            figures["spread_opened_again_s"] = round(time.perf_counter() - started, 2)
    date = datetime.now(UTC)
    place = output or RESULTS / f"{date.date().isoformat()}-spread-search-{rows:.0e}.json".replace("e+0", "e")
    result = {
        "date": date.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "busy": busy,
        "load_before": before,
        "load_after": load(),
        "rows": rows,
        "dims": dims,
        "segment_rows": segment_rows,
        "parts": parts,
        "replicas": replicas,
        "queries": count,
        "ann_min_rows": least,
        "recall": recall,
        **figures,
    }
    make_folder(place.parent)
    write_json(place, result, indent=1)
    click.echo(f"wrote {place}")


def _both(here: Gallery, there: Gallery, wanted: QueryVectors, options: RankingOptions, timed: int) -> dict[str, Any]:
    """What both ways take and find; timed in turn, in four rounds of which the first warms up."""
    one: list[float] = []
    spread: list[float] = []
    for number in range(4):
        for gallery, times in ((here, one), (there, spread)):
            taken = one_by_one(gallery, wanted, options, max(1, timed // 3))
            times += taken if number else []
    started = time.perf_counter()
    expected = here.search(wanted, options)
    between = time.perf_counter()
    found = search_covered(there, wanted, options)
    ended = time.perf_counter()
    same = sum(a == b for a, b in zip(expected, found.hits, strict=True))
    return {
        "one_process": percentiles(one),
        "spread": percentiles(spread),
        "overhead_ms": ms(statistics.median(spread) - statistics.median(one)),
        "batch_of_all_one_process_s": round(between - started, 2),
        "batch_of_all_spread_s": round(ended - between, 2),
        "coverage": found.coverage,
        "same_answers": same / len(expected),
    }


def _fan_out(ray: Any, actors: list[Any], count: int) -> list[float]:
    """Seconds of a call to each part about a generation that none has: nothing is computed."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        ray.get([actor.ask((0, ""), None) for actor in actors])
        times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    cli()
