"""Throughput of a build by one process, and by two and four processes of a local Ray cluster.

Contenders take turns in each round; the first round warms up and does not count. A process of the cluster has one
thread, one process alone has one for each core. What the cluster costs beside encoding is named: joining it, starting
processes until their model is loaded, and what of a build is neither reading, decoding nor encoding.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from cir.arrays import Floats, unit
from cir.cluster.encoding import RaySpread
from cir.cluster.session import joined
from cir.images import Scan, scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.report import BuildReport
from cir.models import load_model
from cir.query_vectors import QueryVectors

QUERIES = 1000
RECALL = 0.95  # of approximate searches
Hit = tuple[str, float]


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=2048, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--segment-rows", default=256, show_default=True)
@click.option("--model", default="small", show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def build(photos: Path, count: int, rounds: int, segment_rows: int, model: str, output: Path | None) -> None:
    """Throughput of builds by one process, and by 2 and 4 processes of a local cluster."""
    found = scan(photos)
    images = Scan(found.images[:count])
    encoder, load = load_model(model), [os.getloadavg()]
    times: dict[str, list[dict[str, float]]] = defaultdict(list)
    files: dict[str, list[str]] = {}
    rows: dict[str, Any] = {}
    galleries: dict[str, Gallery] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name in ("one process", "one process, cut", "2 processes", "4 processes"):
                out = Path(folder) / f"{number} {name}"
                taken: dict[str, float] = {}
                if name.startswith("one"):
                    options = BuildOptions(segment_rows=segment_rows if "cut" in name else None)
                    report = build_index(images, out, encoder, options=options)
                else:
                    make = partial(build_index, images, out, encoder, options=BuildOptions(segment_rows=segment_rows))
                    report = _spread(make, model, int(name[0]), taken)
                taken |= {"build": report.seconds, "decode_cpu": report.decode_seconds}
                taken["encode_cpu"] = report.encode_seconds
                if number:
                    times[name].append(taken)
                index = IndexFolder(out)
                files[name] = [entry.files["gallery.h5"].sha256 for entry in read_manifest(index).segments]
                gallery = galleries[name] = Gallery.open(out, ann_min_rows=segment_rows)
                rows[name] = np.stack([gallery.image(image_id).vector for image_id in gallery.ids])
        answers = {name: _answers(gallery, rows["one process, cut"]) for name, gallery in galleries.items()}
    first = median(each["build"] for each in times["one process"])
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "load_before": load[0],
        "load_after": os.getloadavg(),
        "photos": len(images),
        "model": encoder.card.name,
        "segment_rows": segment_rows,
        "contenders": {
            name: {
                "images_per_second": round(len(images) / median(each["build"] for each in taken), 1),
                "over_one_process": round(first / median(each["build"] for each in taken), 3),
                "seconds": {key: [round(each[key], 3) for each in taken] for key in taken[0]},
                "bytes_as_one_process_cut": files[name] == files["one process, cut"],
                "largest_difference": float(np.abs(rows[name] - rows["one process"]).max()),
                "answers": {way: _same(answers["one process, cut"][way], answers[name][way]) for way in answers[name]},
            }
            for name, taken in times.items()
        },
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _answers(gallery: Gallery, vectors: Floats) -> dict[str, list[list[Hit]]]:
    """Hits of the same 1,000 queries, which lie near photos, in four ways."""
    rng = np.random.default_rng(5)
    near = vectors[rng.integers(0, len(vectors), QUERIES)].astype(np.float32)
    queries = QueryVectors({gallery.space.id: unit(near + 0.5 * unit(rng.standard_normal(near.shape, np.float32)))})
    third = np.arange(len(gallery.ids)) % 3 == 0
    ways = {
        "exact": (True, None),
        "exact, filtered": (True, third),
        "ann": (False, None),
        "ann, filtered": (False, third),
    }
    return {
        name: gallery.search(queries, RankingOptions(10, mask, exact=exact, recall=RECALL))
        for name, (exact, mask) in ways.items()
    }


def _same(wanted: list[list[Hit]], found: list[list[Hit]]) -> dict[str, float]:
    """The share of queries with the same ten images, and the largest gap of scores at a rank where they differ."""
    pairs = list(zip(wanted, found, strict=True))
    gaps = [abs(a[1] - b[1]) for one, other in pairs for a, b in zip(one, other, strict=True) if a[0] != b[0]]
    same = sum({name for name, _ in one} == {name for name, _ in other} for one, other in pairs)
    return {"same_ten": same / len(pairs), "largest_gap_where_ranks_differ": max(gaps, default=0.0)}


def _spread(make: Callable[..., BuildReport], model: str, processes: int, taken: dict[str, float]) -> BuildReport:
    """A build by some processes of a cluster that is started for it; notes what joining and starting took."""
    started = time.perf_counter()
    with joined("local", processes) as ray:
        taken["join"] = time.perf_counter() - started
        spread = RaySpread(ray, partial(load_model, model), processes, 1)
        started = time.perf_counter()
        spread.start(processes)
        taken["start"] = time.perf_counter() - started
        return make(spread=spread)
