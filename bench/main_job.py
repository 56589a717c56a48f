"""Time the main job on real photos: build, cold query, warm query, start of the command line.

    python bench/main_job.py IMAGES --output bench/results/DATE-main-job.json

Run it while nothing else runs. Figures of commands are medians over runs in this one call; the build's wall time is
set against the CPU seconds its own workers spent decoding and encoding, divided by the cores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

CIR = [sys.executable, "-c", "from cir.cli import main; main()"]
TEXTS = ("in red", "for women", "a handbag instead", "in black and with long sleeves", "make it striped")


def timed(words: list[str]) -> tuple[float, int, str]:
    """Wall seconds, peak memory in MB and stdout of a command."""
    started = time.perf_counter()
    with subprocess.Popen([*CIR, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"cir {' '.join(words)} failed")
    return time.perf_counter() - started, usage.ru_maxrss // 1024, out


def build(images: Path, index: Path) -> dict[str, Any]:
    """One build from nothing."""
    wall, memory, out = timed(["build-index", str(images), "-o", str(index), "--json"])
    report = json.loads(out)
    cpu = report["decode_seconds"] + report["encode_seconds"]
    cores = os.cpu_count() or 1
    return {
        "images": report["total"],
        "wall_seconds": round(wall, 1),
        "build_seconds": round(report["seconds"], 1),
        "decode_cpu_seconds": round(report["decode_seconds"], 1),
        "encode_cpu_seconds": round(report["encode_seconds"], 1),
        "wall_over_cpu_per_core": round(wall / (cpu / cores), 3),
        "images_per_second": round(report["images_per_second"], 1),
        "bytes_per_image": round(report["bytes_per_image"]),
        "peak_memory_mb": memory,
    }


def warm(index: Path, runs: int) -> dict[str, float]:
    """Milliseconds of composed queries in one process, model loaded."""
    from cir import Query, open_index

    searcher = open_index(index)
    ids = searcher.ids[:: max(1, len(searcher.ids) // runs)][:runs]
    times = []
    for number, name in enumerate([ids[0], *ids]):
        started = time.perf_counter()
        searcher.search(Query((name,), TEXTS[number % len(TEXTS)]))
        times.append(1000 * (time.perf_counter() - started))
    times = sorted(times[1:])
    return {"p50_ms": round(statistics.median(times), 1), "p95_ms": round(times[int(0.95 * len(times))], 1)}


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--runs", default=100, show_default=True)
def main(images: Path, output: Path, runs: int) -> None:
    """Measure and write the figures as JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "my.index"
        figures: dict[str, Any] = {"build": build(images, index)}
        reference = json.loads(timed(["query", str(index), "-t", "shoes", "--json"])[2])["hits"][0]["id"]
        cold = [timed(["query", str(index), "-i", reference, "-t", "in red"])[0] for _ in range(5)]
        helped = [timed(["--help"])[0] for _ in range(9)]
        figures["query_cold_seconds"] = round(statistics.median(cold), 2)
        figures["help_seconds"] = round(statistics.median(helped), 3)
        figures["query_warm"] = warm(index, runs)
    figures["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    figures["python"] = platform.python_version()
    figures["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
