"""What all parts share: where to work, the machine, timing in rounds, and dated results."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cir.files import make_folder, parse_json, write_json

RESULTS = Path(__file__).parents[1] / "results"
FLAGS = ("avx2", "f16c", "avx512f", "avx512_vnni", "avx512_fp16", "avx512_bf16", "amx_tile", "asimd", "asimdhp")
PACKAGES = ("cir-engine", "numpy", "h5py", "torch", "faiss-cpu", "numkong", "usearch", "hnswlib", "lancedb", "pyarrow")
THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MAPPED = (".h5", ".faiss", ".npy", ".bin", ".usearch", ".codes")  # files of an index that may be mapped
BUSY = 0.25  # load per core above which figures are not to be believed


@dataclass(frozen=True)
class Setting:
    """What a part is given.

    Attributes:
        rows: N.
        work: folder of everything that is made; kept, so that a part that was cut off goes on.
        data_root: the folder of the product photos.
        results: folder of the dated results.
        seconds: how long one contender may be timed, over all rounds.
        rounds: how often each contender is timed at most.
        limit: seconds that one build of a peer may take.
        only: names of contenders; all if empty.
    """

    rows: int
    work: Path
    data_root: Path | None
    results: Path
    seconds: float
    rounds: int
    limit: float
    only: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether a contender is asked for, by the beginning of its name."""
        return not self.only or any(name.startswith(given) for given in self.only)

    def has(self, name: str) -> bool:
        """Whether a contender is asked for and installed; the first word of its name is its module's."""
        module = name.split()[0].strip(",")
        if self.wants(name) and importlib.util.find_spec(module) is None:
            click.echo(
                f"left out: {name}, because {module} is not installed; pip install 'cir-engine[bench]'", err=True
            )
            return False
        return self.wants(name)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> list[float]:
    """Load averages of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def check_idle(force: bool) -> None:
    """Refuse to measure beside other jobs: ratios bear some load, absolute times none."""
    if load()[0] > BUSY * cores():
        message = f"load {load()[0]} on {cores()} cores: figures would not be of this machine alone"
        if not force:
            raise click.ClickException(f"{message}; wait, or say --busy")
        click.echo(f"warning: {message}", err=True)
    limited = [f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name) == "1"]
    if limited:
        click.echo(f"warning: {', '.join(limited)} holds peers to one thread; unset it", err=True)


def machine() -> dict[str, Any]:
    """What the figures are measured on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", values.get("Features", "")).split()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": values.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "cache": values.get("cache size", ""),
        "flags": [name for name in FLAGS if name in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


def commit() -> str:
    """The commit that is measured, with "+" if files differ from it; empty outside a checkout."""
    root = RESULTS.parents[1]
    said = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=root, capture_output=True, text=True)
    return said.stdout.strip()


def save(setting: Setting, part: str, figures: Mapping[str, Any], before: list[float], output: Path | None) -> Path:
    """Write the dated result of a part; other numbers of rows of the same day stay beside each other."""
    date = datetime.now(UTC)
    rows = f"{setting.rows:.0e}".replace("e+0", "e")
    path = output or setting.results / f"{date.date().isoformat()}-index-{part}-{rows}.json"
    result = {
        "part": part,
        "date": date.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load_before": before,
        "load_after": load(),
        "rows": setting.rows,
        **figures,
    }
    make_folder(path.parent)
    write_json(path, result, indent=1)
    return path


def read(path: Path) -> Any:
    """A JSON file; None if it is not there."""
    return parse_json(path.read_bytes()) if path.is_file() else None


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def rounds(
    setting: Setting, contenders: Mapping[str, Callable[[], Any]], probe: Callable[[], Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Time contenders in turn, each beside the probe, and again; the first round warms up.

    A contender leaves after `setting.rounds` rounds, or when it has had its seconds; three rounds are the least.

    Returns:
        Name -> `ms`, the median; `ms_all`; with a probe `probe_ms` and `ratio`, the median of the rounds' own ratios.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    probes: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(setting.rounds + 1):
        for name, function in contenders.items():
            if number > 3 and sum(times[name]) > setting.seconds:
                continue
            if probe is not None:
                probes[name].append(timed(probe))
            times[name].append(timed(function))
    return {name: _summary(times[name][1:], probes[name][1:]) for name in contenders}


def _summary(times: list[float], probes: list[float]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "ms": ms(statistics.median(times)),
        "least_ms": ms(min(times)),
        "ms_all": [ms(value) for value in times],
    }
    if probes:
        summary["probe_ms"] = ms(statistics.median(probes))
        summary["ratio"] = round(statistics.median(t / p for t, p in zip(times, probes, strict=True)), 3)
    return summary


def ms(seconds: float) -> float:
    """Seconds as milliseconds, to a microsecond."""
    return round(1000 * seconds, 3)


def percentiles(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile of seconds, in milliseconds."""
    ordered = sorted(times)
    return {"p50_ms": ms(statistics.median(ordered)), "p95_ms": ms(ordered[int(0.95 * (len(ordered) - 1))])}


def child(part: str, *words: str, limit: float | None = None) -> Any:
    """Run a function of a part in a process of its own and return what it gives; None if it took too long.

    Args:
        part: the module's name; its function `child(*words)` returns JSON values.
        words: what it is given.
        limit: seconds.
    """
    command = [sys.executable, str(Path(__file__).parents[1] / "index.py"), "child", part, *words]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return None
    return parse_json(done.stdout.splitlines()[-1])


def private_memory() -> dict[str, float]:
    """MB of this process's own: what it has written (`anonymous`), and what it has touched of mapped files by name."""
    sizes: dict[str, float] = {"anonymous": 0.0}
    name = "anonymous"
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            path = words[5] if len(words) > 5 and words[5].startswith("/") else ""
            name = Path(path).name if path.endswith(MAPPED) else "anonymous"
        elif words[0] == "Private_Dirty:" or (words[0] == "Private_Clean:" and name != "anonymous"):
            sizes[name] = sizes.get(name, 0.0) + int(words[1]) / 1024
    return {name: round(size, 2) for name, size in sizes.items()}
