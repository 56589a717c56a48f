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

from cir.cluster.encoding import RaySpread
from cir.cluster.session import joined
from cir.images import Scan, scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.report import BuildReport
from cir.models import load_model


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
                gallery = Gallery.open(out)
                rows[name] = np.stack([gallery.image(image_id).vector for image_id in gallery.ids])
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
            }
            for name, taken in times.items()
        },
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


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
