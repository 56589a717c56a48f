"""Encoding, exact search, and a build on Ray with a GPU, against the CPU of the same machine.

    python bench/gpu.py PHOTOS --output bench/results/DATE-gpu.json

PHOTOS is a zip or folder of some thousand photos. Three parts, each in a process of its own:

encode  `small`, and SPRC at its official size with random weights: images per second at several batch sizes from
        prepared pixels, and with reading and decoding; one query; how far vectors are from float32 on the CPU.
search  exact search over synthetic vectors, by the CPU and by the GPU: one query, and 64 together.
build   `cir build-index` in one process and on a local Ray cluster, where a trial chooses the batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import full_size
from index_parts.base import commit, load, machine, percentiles

from cir import devices
from cir.arrays import Floats, Stored, unit
from cir.files import write_json
from cir.images import Scan, decode, scan
from cir.indexer.reading import exact
from cir.indexer.reading.device_scan import DeviceScan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.pipeline import encode_photos
from cir.models import load_model
from cir.models.base_encoder import BaseEncoder

PREPARED = 1024  # images whose pixels are encoded again and again
COMPARED = 32  # images encoded in float32 on the CPU too
SECONDS = 3.0  # for which each batch size is encoded
QUERIES = 40


def encode(photos: Path, device: str, work: Path) -> dict[str, Any]:
    """Both models on the device."""
    full_size.make(work / "sprc")
    return {
        "small": _encode("small", photos, device, (32, 64, 128, 256, 512)),
        "SPRC, ViT-g, random weights": _encode(str(work / "sprc"), photos, device, (8, 32, 64, 128, 256)),
    }


def _encode(model: str, photos: Path, device: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    with devices.full_precision():
        reference = load_model(model, device="cpu", runtime="torch")
    encoder = load_model(model, device=device, runtime="torch")
    images = list(scan([photos]))
    pixels = np.stack([encoder.preprocess(decode(each.read(), each.id)) for each in images[:PREPARED]])
    rates = {str(size): round(_rate(encoder, pixels, size), 1) for size in sizes if size <= len(pixels)}
    size = int(max(rates, key=lambda name: rates[name]))
    layout = Layout.of(encoder.card)
    whole = {}
    for batch in (32, size):
        started = time.perf_counter()
        count = sum(len(done.encoded) for done in encode_photos(images, encoder, layout, batch_size=batch))
        whole[str(batch)] = round(count / (time.perf_counter() - started), 1)
    captions = ["in red, with long sleeves"]
    times = [_seconds(lambda n=n: encoder.encode_queries(pixels[n : n + 1], captions)) for n in range(QUERIES)]
    figures = {
        "images_per_second, pixels in memory": rates,
        "images_per_second, read and decoded": whole,
        "query": percentiles(times[QUERIES // 4 :]),
        "precision": str(devices.backbone_precision(devices.choose(device))),
        "device_mb": torch.cuda.max_memory_allocated() // 2**20 if torch.cuda.is_available() else 0,
        "cosine_to_float32_on_cpu": _least_cosine(reference, encoder, pixels[:COMPARED]),
    }
    cpu = load_model(model, device="cpu", runtime="torch")
    few = pixels[:COMPARED]
    cpu.encode_images(few)
    started = time.perf_counter()
    cpu.encode_images(few)
    figures["cpu, images_per_second"] = round(len(few) / (time.perf_counter() - started), 2)
    click.echo(f"{model}: {json.dumps(figures)}", err=True)
    return figures


def _rate(encoder: BaseEncoder, pixels: Floats, size: int) -> float:
    """Images per second from pixels in memory."""
    parts = [pixels[start : start + size] for start in range(0, len(pixels) - size + 1, size)]
    encoder.encode_images(parts[0])
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        encoder.encode_images(parts[count // size % len(parts)])
        count += size
    return count / (time.perf_counter() - started)


def _least_cosine(one: BaseEncoder, other: BaseEncoder, pixels: Floats) -> float:
    with devices.full_precision():
        first = one.encode_images(pixels)
    second = other.encode_images(pixels)
    a, b = (each.vectors if each.vectors is not None else each.tokens for each in (first, second))
    assert a is not None
    assert b is not None
    return round(float((a.astype(np.float32) * b.astype(np.float32)).sum(axis=-1).min()), 6)


def search(photos: Path, device: str, work: Path) -> dict[str, Any]:
    """Exact search by the CPU and by the device."""
    figures: dict[str, Any] = {}
    for rows, dims in ((1_000_000, 640), (10_000_000, 128)):
        stored = _synthetic(rows, dims)
        queries = unit(stored[:: rows // 256][:256].astype(np.float32) + np.float32(0.02))
        started = time.perf_counter()
        there = DeviceScan(stored, devices.choose(device))
        sent = time.perf_counter() - started
        ways: dict[str, Callable[[Floats], Any]] = {
            "cpu": lambda asked, stored=stored: exact.scan(stored, asked, 10),
            "device": lambda asked, there=there: there.scan(asked, 10),
        }
        found = {name: [_best(stored, way(queries[:8]), queries[:8])] for name, way in ways.items()}
        times = {
            f"{name}, {count} together": percentiles([_seconds(partial(way, queries[:count])) for _ in range(12)][2:])
            for count in (1, 64)
            for name, way in ways.items()
        }
        figures[f"{rows} x {dims}"] = {"sent_s": round(sent, 2), "same": found["cpu"] == found["device"], **times}
        click.echo(json.dumps(figures), err=True)
        del there, ways
    return figures


def _synthetic(rows: int, dims: int) -> Stored:
    """Clustered unit vectors, made block by block."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((2000, dims)).astype(np.float32)
    stored: Stored = np.empty((rows, dims), np.float16)
    for start in range(0, rows, 100_000):
        part = stored[start : start + 100_000]
        near = centres[rng.integers(0, len(centres), len(part))]
        part[:] = unit(near + 0.5 * rng.standard_normal(part.shape, np.float32)).astype(np.float16)
    return stored


def _best(stored: Stored, found: list[Any], queries: Floats) -> list[list[int]]:
    """The ten best rows of each query, by their exact scores."""
    best = []
    for rows, query in zip(found, queries, strict=True):
        scores = exact.rescore(stored, rows, query)
        best.append([int(row) for row in rows[np.lexsort((rows, -scores))][:10]])
    return best


def build(photos: Path, device: str, work: Path) -> dict[str, Any]:
    """Builds by one process and on a local Ray cluster, two rounds of which the first warms up."""
    from cir.cluster.encoding import RaySpread, Shape
    from cir.cluster.session import joined

    images = Scan(list(scan([photos]).images))
    figures: dict[str, Any] = {}
    rows: dict[str, Floats] = {}
    for number in range(2):
        for name, batch in (("one process", None), ("one process, batches of 256", 256), ("on Ray", None)):
            out = work / f"{number} {name}.index"
            options = BuildOptions(batch_size=batch, segment_rows=1024 if name == "on Ray" else None)
            encoder = load_model("small", device="cpu" if name == "on Ray" else device, runtime="torch")
            taken: dict[str, Any] = {}
            if name == "on Ray":
                started = time.perf_counter()
                with joined("local") as ray:
                    taken["join_s"] = round(time.perf_counter() - started, 2)
                    spread = RaySpread(ray, partial(load_model, "small", device=device, runtime="torch"))
                    taken["processes"] = vars(Shape.of(ray))
                    started = time.perf_counter()
                    build_index(images, out, encoder, options=options, spread=spread)
                    seconds = time.perf_counter() - started  # with starting, trial and manifest
                    taken["tried"] = {key: round(value, 1) for key, value in spread.tried.items()}
            else:
                seconds = build_index(images, out, encoder, options=options).seconds
            gallery = Gallery.open(out)
            rows[name] = np.stack([gallery.image(image_id).vector for image_id in gallery.ids])
            figures[name] = {
                "seconds": round(seconds, 2),
                "images_per_second": round(len(images) / seconds, 1),
                **taken,
            }
            click.echo(f"{name}: {json.dumps(figures[name])}", err=True)
    figures["largest_difference"] = {
        name: float(np.abs(found - rows["one process"]).max()) for name, found in rows.items()
    }
    return figures


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


PARTS = {"encode": encode, "search": search, "build": build}


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--device", default="cuda", show_default=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="[default: all]")
@click.option("--output", type=click.Path(path_type=Path))
@click.option("--one", hidden=True, help="A part, in this process.")
def main(photos: Path, device: str, parts: tuple[str, ...], output: Path | None, one: str | None) -> None:
    """Measure and write the figures; they are written after each part."""
    if one:
        with tempfile.TemporaryDirectory() as work:
            click.echo(json.dumps(PARTS[one](photos, device, Path(work))))
        return
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {**machine(), "gpu": gpu, "torch": torch.__version__},
        "load_before": load(),
    }
    for part in parts or PARTS:
        command = [sys.executable, __file__, str(photos), "--device", device, "--one", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        result[part] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}
        if output:
            write_json(output, result, indent=1)
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
