"""A composed query of `small` on an idle machine and beside another job: as shipped, on one thread, and as it was.

    python bench/busy_machine.py IMAGES --output bench/results/DATE-busy-machine.json

IMAGES is a folder or zip of photos. Every figure is the median over queries of fresh processes, the ways in turn, so
that a slow minute of the machine meets all of them. "Beside another job" means beside one process that computes without
end. The ways:

    as shipped   threads for the cores that nothing else computes on, short spins
    one thread   OMP_NUM_THREADS=1
    spinning     every core, OpenMP's own spins: cir before 2026-11-26
    sleeping     every core, GOMP_SPINCOUNT=0

Wanted: as shipped at most 1.1 times spinning on an idle machine, and at most 1.1 times one thread beside a job.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click

from cir import Query, build_index, devices, load_model, open_index, scan
from cir.files import write_json
from cir.threads import default_workers

SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
EVERY_CORE = "CIR_BENCH_EVERY_CORE"
WAYS: dict[str, dict[str, str]] = {
    "as shipped": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "spinning": {"GOMP_SPINCOUNT": "300000", EVERY_CORE: "1"},
    "sleeping": {"GOMP_SPINCOUNT": "0", EVERY_CORE: "1"},
}
WARM_UP = 3


def answer(index: Path, count: int) -> list[float]:
    """Milliseconds of each of `count` composed queries, one after another."""
    if EVERY_CORE in os.environ:
        devices.free_cores = default_workers
    searcher = open_index(index)
    took = []
    for number in range(WARM_UP + count):
        started = time.perf_counter()
        searcher.search(Query((searcher.ids[number % len(searcher.ids)],), "in red, with long sleeves"))
        took.append(1000 * (time.perf_counter() - started))
    return took[WARM_UP:]


def in_a_fresh_process(index: Path, count: int, settings: dict[str, str]) -> list[float]:
    """`answer` in a process of its own, with these settings and no other."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, __file__, str(index), "--count", str(count), "--answer"]
    out = subprocess.run(command, env=inherited | settings, stdout=subprocess.PIPE, check=True).stdout
    took: list[float] = json.loads(out)
    return took


@contextlib.contextmanager
def jobs(count: int) -> Iterator[None]:
    """Other processes that compute without end meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=30, show_default=True, help="Queries per process.")
@click.option("--rounds", default=5, show_default=True, help="Processes per figure.")
@click.option("--output", type=click.Path(path_type=Path))
@click.option("--answer", "only_answer", is_flag=True, hidden=True)
def main(images: Path, count: int, rounds: int, output: Path | None, only_answer: bool) -> None:
    """Measure and write the figures."""
    if only_answer:
        click.echo(json.dumps(answer(images, count)))
        return
    took: dict[str, dict[str, list[float]]] = {"idle": defaultdict(list), "beside a job": defaultdict(list)}
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        build_index(scan([images])[:64], index, load_model())
        before = os.getloadavg()[0]
        for _ in range(rounds):
            for state, others in (("idle", 0), ("beside a job", 1)):
                with jobs(others):
                    for way, settings in WAYS.items():
                        took[state][way] += in_a_fresh_process(index, count, settings)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "cores": default_workers(),
        "load before": before,
        "queries": count * rounds,
        "median ms": {
            state: {way: round(median(values), 1) for way, values in ways.items()} for state, ways in took.items()
        },
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        write_json(output, result, indent=1)


if __name__ == "__main__":
    main()
