"""`small` on ONNX Runtime and on torch: a cold start, a gallery pass, warm queries and batches, idle and beside a job.

    python bench/runtimes.py IMAGES --output bench/results/DATE-runtimes.json

IMAGES is a folder or zip of photos. Every figure is of a fresh process, the two runtimes in turn; CPU seconds are those
of the whole process. Reported are medians, and the ratio of torch to ONNX Runtime. Both runtimes also answer the same
queries, and their hits are compared.

Wanted: a cold query in at most a fifth of torch's CPU seconds; 1.5 times the images per CPU second; warm queries and
batches that are not slower, idle and beside a job; the same first ten hits but for ties, scores within 1e-4.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click

from cir.files import write_json

ALL_CORES = "onnx, all cores"  # within each call; not what is shipped
RUNTIMES = ("onnx", "torch", ALL_CORES)
CAPTIONS = ("in red", "the same but for women", "with long sleeves", "a darker one", "in blue with stripes")
WARM_UP = 5


# Each task runs in a fresh process, and returns figures.


def cold_query(folder: Path, _: int) -> dict[str, float]:
    """`cir query` with a picture and a sentence."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        _command("query", folder / "index", "-i", next(iter(sorted((folder / "photos").iterdir()))), "-t", "in red")
    return {}


def cold_text(folder: Path, _: int) -> dict[str, float]:
    """`cir query` with a sentence."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        _command("query", folder / "index", "-t", "in red")
    return {}


def build(folder: Path, _: int) -> dict[str, float]:
    """`cir build-index` of all photos."""
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    _command("build-index", folder / "photos", "-o", folder / "scratch")
    return {}


def warm(folder: Path, count: int) -> dict[str, float]:
    """Composed queries one after another, then all at once."""
    from cir import Query, open_index

    searcher = open_index(folder / "index")
    rng = random.Random(0)
    queries = [Query((rng.choice(list(searcher.ids)),), rng.choice(CAPTIONS)) for _ in range(count)]
    took = []
    for query in queries[: WARM_UP + count // 4]:
        started = time.perf_counter()
        searcher.search(query)
        took.append(1000 * (time.perf_counter() - started))
    searcher.search_many(queries[:32])
    started = time.perf_counter()
    searcher.search_many(queries)
    batch = 1000 * (time.perf_counter() - started) / count
    return {"warm query ms": median(took[WARM_UP:]), f"ms per query, {count} at once": batch}


def answers(folder: Path, count: int) -> dict[str, Any]:
    """The first eleven hits of many queries of all kinds."""
    from cir import Query, devices, open_index

    with devices.full_precision():
        searcher = open_index(folder / "index")
        rng, ids = random.Random(1), list(searcher.ids)
        queries = []
        for number in range(count):
            reference = () if number % 3 == 1 else (rng.choice(ids),)
            negatives = ("blue",) if number % 3 == 2 else ()
            queries.append(Query(reference, f"{rng.choice(CAPTIONS)} {number % 7}", negatives))
        found = searcher.search_many(queries)
    return {"hits": [[(hit.id, hit.score) for hit in result.hits] for result in found]}


def _command(*words: Any) -> None:
    from cir.cli import cli
    from cir.cli.process import run

    if run(cli, [str(word) for word in words]):
        raise click.ClickException(f"cir {' '.join(map(str, words))} failed")


TASKS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    task.__name__.replace("_", " "): task for task in (cold_query, cold_text, build, warm, answers)
}


def in_a_fresh_process(task: str, runtime: str, folder: Path, count: int) -> dict[str, Any]:
    """A task's figures with those of its process."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, __file__, str(folder), "--task", task, "--runtime", runtime, "--count", str(count)]
    started = time.perf_counter()
    done = subprocess.run(command, env=inherited, capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {f"{task}, s": took, **figures}


def agreement(onnx: list[list[Any]], torch: list[list[Any]]) -> dict[str, float]:
    """How far the hits of two runtimes agree: places that differ by more than a tie, and scores."""
    differing, furthest = 0, 0.0
    for ours, theirs in zip(onnx, torch, strict=True):
        scores = dict(map(tuple, theirs))
        for (image_id, score), (other, wanted) in zip(ours[:10], theirs[:10], strict=True):
            furthest = max(furthest, abs(scores.get(image_id, wanted) - score))
            differing += image_id != other and abs(score - wanted) > 1e-4
    same = sum([hit[0] for hit in a[:10]] == [hit[0] for hit in b[:10]] for a, b in zip(onnx, torch, strict=True))
    return {"queries": len(onnx), "same first ten in order": same, "differ beyond a tie": differing, "score": furthest}


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=256, show_default=True, help="Queries of a batch.")
@click.option("--rounds", default=3, show_default=True, help="Processes per figure.")
@click.option("--photos", default=600, show_default=True, help="Photos of the index.")
@click.option("--output", type=click.Path(path_type=Path))
@click.option("--task", hidden=True)
@click.option("--runtime", hidden=True, type=click.Choice(RUNTIMES))
def main(
    images: Path, count: int, rounds: int, photos: int, output: Path | None, task: str | None, runtime: str | None
) -> None:
    """Measure and write the figures."""
    if task:
        from cir.models import graphs

        if runtime == "torch":
            graphs.has_graphs = lambda directory: False
        if runtime == ALL_CORES:
            graphs.THREADS = os.cpu_count() or 1
        figures = TASKS[task](images, count)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = {f"{task}, CPU s": usage.ru_utime + usage.ru_stime, f"{task}, peak MB": usage.ru_maxrss / 1024}
        click.echo(json.dumps({**figures, **cpu}))
        return
    from busy_machine import jobs  # here, so that the tasks' processes do not import it

    took: dict[str, dict[str, dict[str, list[float]]]] = {
        state: defaultdict(lambda: defaultdict(list)) for state in ("idle", "beside a job")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _extract(images, folder / "photos", photos)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        shutil.move(_built(folder), folder / "index")
        before = os.getloadavg()[0]
        for number in range(rounds):
            for state, others in (("idle", 0), ("beside a job", 1)):
                with jobs(others):
                    for task in ("cold query", "cold text", "warm", *(["build"] if number == 0 or others == 0 else [])):
                        for runtime in RUNTIMES:
                            for figure, value in in_a_fresh_process(task, runtime, folder, count).items():
                                took[state][figure][runtime].append(value)
        hits = {runtime: in_a_fresh_process("answers", runtime, folder, 1000)["hits"] for runtime in ("onnx", "torch")}
    summary = {
        state: {
            figure: {
                **{runtime: round(median(values), 3) for runtime, values in both.items()},
                "torch / onnx": round(median(both["torch"]) / median(both["onnx"]), 2),
            }
            for figure, both in figures.items()
        }
        for state, figures in took.items()
    }
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "flags": sorted({"avx2", "avx512f", "avx512_fp16", "amx_int8"} & set(flags)),
        "cores": os.cpu_count(),
        "load before": before,
        "photos": photos,
        "figures": summary,
        "agreement": agreement(hits["onnx"], hits["torch"]),
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        write_json(output, result, indent=1)


def _built(folder: Path) -> Path:
    in_a_fresh_process("build", "onnx", folder, 0)
    return folder / "scratch"


def _extract(images: Path, folder: Path, count: int) -> None:
    """The first photos of a folder or zip, as files."""
    from cir.images import scan

    folder.mkdir()
    for number, found in enumerate(scan([images])[:count]):
        (folder / f"{number:05d}{Path(found.id).suffix}").write_bytes(found.read())


if __name__ == "__main__":
    main()
