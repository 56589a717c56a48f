"""What serving costs, and whether it holds: `cir serve` under load, from a process of its own.

    python bench/serve.py latency my.index --clients 1 --clients 4 --clients 16 --seconds 20
    python bench/serve.py life my.index --seconds 600 --append more-photos --replace-with small
    python bench/serve.py hostile my.index

`latency` sends composed searches over kept connections, each client one after another, beside the same queries in
process. `life` adds uploads, cancelled requests, an append and a replacement of the model, and looks at every answer
and at the server's memory. `hostile` sends the requests of `cir.testing.hostile` over a socket. Run it on an idle
machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np

from cir.testing.hostile import form, hostile_requests

CIR = [sys.executable, "-m", "cir"]
API = "/api/v1"
TEXTS = (
    *("in red", "with long sleeves", "the same but darker", "anything but black", "more formal", "with stripes"),
    *("in blue and white", "without sleeves", "for summer", "a bit lighter", "plain", "with a round neck"),
)
JSON = "application/json"


@dataclass
class Seen:
    """What clients have seen.

    Attributes:
        seconds: of each answered search.
        statuses: how often each status came.
        generations: how often each generation answered.
        wrong: what was wrong with answers, a few.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def figures(self, wall: float) -> dict[str, Any]:
        """Percentiles in milliseconds, and queries per second."""
        times = np.array(self.seconds) * 1000
        p50, p90, p99 = np.percentile(times, [50, 90, 99]).round(2).tolist() if len(times) else (None,) * 3
        return {
            "searches": len(times),
            "per_second": round(len(times) / wall, 1),
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "worst_ms": round(float(times.max()), 1) if len(times) else None,
            "statuses": dict(sorted(self.statuses.items())),
            "generations": dict(self.generations),
            "wrong": self.wrong[:10],
        }


class Connection:
    """One kept HTTP/1.1 connection; as little of a client as measures the server and not itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: bytes = b"", kind: str = JSON) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        first = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}"]
        self._writer.write("\r\n".join([*first, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        data = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), data

    def close(self) -> None:
        """Go away, whatever is on its way."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def server(index: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server of an index: its port and process."""
    command = [*CIR, "serve", str(index), "--port", "0", "--rate", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(command)} did not start")
        try:
            yield int(line.rstrip("/\n").rpartition(":")[2]), process
        finally:
            process.terminate()
            process.wait(60)


def memory(process: subprocess.Popen[str]) -> int:
    """Resident bytes of a process, what it has mapped of files left out."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon:"))) * 1024


async def ids_of(port: int) -> list[str]:
    """Two hundred ids of the gallery."""
    _, data = await Connection(port).request("GET", f"{API}/random?n=200&seed=1")
    return [image["id"] for image in json.loads(data)["images"]]


async def search(port: int, ids: list[str], until: float, seed: int, seen: Seen, k: int = 10) -> None:
    """One client: composed searches, one after another."""
    rng, connection = random.Random(seed), Connection(port)
    while time.perf_counter() < until:
        body = json.dumps({"references": [rng.choice(ids)], "text": rng.choice(TEXTS), "k": k}).encode()
        started = time.perf_counter()
        status, data = await connection.request("POST", f"{API}/search", body)
        seen.statuses[status] += 1
        if status == 200:
            seen.seconds.append(time.perf_counter() - started)
            note(json.loads(data), k, seen)
        elif status >= 500:
            seen.wrong.append(data.decode()[:200])
    connection.close()


def note(answer: dict[str, Any], k: int, seen: Seen) -> None:
    """Look at an answer: whole, in order, and of one model."""
    scores = [hit["score"] for hit in answer["hits"]]
    seen.generations[f"{answer['generation']} {answer['model']}"] += 1
    if len(scores) != k or scores != sorted(scores, reverse=True):
        seen.wrong.append(f"{len(scores)} hits, out of order or too few")
    if any((hit["model"] != answer["model"]) is not hit["older"] for hit in answer["hits"]):
        seen.wrong.append(f"a hit of another model that is not called older, in generation {answer['generation']}")


async def upload(port: int, pictures: list[bytes], until: float, seed: int, seen: Seen) -> None:
    """One client that sends pictures."""
    rng, connection = random.Random(seed), Connection(port)
    while time.perf_counter() < until:
        body = form(("references", rng.choice(pictures), "a.jpg"), ("text", rng.choice(TEXTS).encode(), None))
        status, _ = await connection.request("POST", f"{API}/search", body, "multipart/form-data; boundary=hostile")
        seen.statuses[status] += 1
    connection.close()


async def leave(port: int, ids: list[str], until: float, seed: int) -> None:
    """One client that goes away before it is answered."""
    rng = random.Random(seed)
    while time.perf_counter() < until:
        connection = Connection(port)
        body = json.dumps({"references": [rng.choice(ids)], "text": rng.choice(TEXTS)}).encode()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.random() * 0.05):
                await connection.request("POST", f"{API}/search", body)
        connection.close()


def in_process(index: Path, ids: list[str], seconds: float) -> dict[str, Any]:
    """The same searches without a server, one after another."""
    code = (
        "import json,random,sys,time,cir\n"
        "index,ids,texts,seconds=json.loads(sys.stdin.read())\n"
        "s=cir.open_index(index);rng=random.Random(0);seen=[]\n"
        "q=lambda: cir.Query(rng.choice(ids),rng.choice(texts))\n"
        "for _ in range(20): s.search(q())\n"
        "until=time.perf_counter()+seconds\n"
        "while time.perf_counter()<until:\n"
        "  a=time.perf_counter();s.search(q());seen.append(time.perf_counter()-a)\n"
        "print(json.dumps(seen))"
    )
    given = json.dumps([str(index), ids, TEXTS, seconds])
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    seen = Seen(json.loads(done.stdout))
    return seen.figures(seconds)


async def loaded(port: int, ids: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Figures of some clients at once, and the batches that formed."""
    seen = Seen()
    before = await batches(port)
    started = time.perf_counter()
    await asyncio.gather(*(search(port, ids, started + seconds, seed, seen) for seed in range(clients)))
    wall = time.perf_counter() - started
    after = await batches(port)
    counted, queries = after[0] - before[0], after[1] - before[1]
    return {"clients": clients, **seen.figures(wall), "queries_per_batch": round(queries / max(1, counted), 2)}


async def batches(port: int) -> tuple[float, float]:
    """How many batches were computed, and their queries."""
    _, data = await Connection(port).request("GET", f"{API}/metrics")
    lines = dict(line.rsplit(" ", 1) for line in data.decode().splitlines() if not line.startswith("#"))
    return float(lines["cir_batch_queries_count"]), float(lines["cir_batch_queries_sum"])


@click.group()
def main() -> None:
    """Measure `cir serve`."""


@main.command()
@click.argument("index", type=click.Path(exists=True, path_type=Path))
@click.option("--clients", multiple=True, default=(1, 4, 16), type=int)
@click.option("--seconds", default=20.0)
@click.option(
    "--references", type=click.File(), help="Ids to search with, one a line, where not all images have photos."
)
@click.option("--output", type=click.Path(path_type=Path))
def latency(
    index: Path, clients: tuple[int, ...], seconds: float, references: TextIO | None, output: Path | None
) -> None:
    """Composed searches at several numbers of clients."""
    with server(index) as (port, process):
        ids = references.read().splitlines() if references else asyncio.run(ids_of(port))
        asyncio.run(loaded(port, ids, 4, min(5.0, seconds)))  # warm
        figures = [asyncio.run(loaded(port, ids, count, seconds)) for count in clients]
        held = memory(process)
    report({"in_process": in_process(index, ids, seconds), "served": figures, "memory_mb": held // 10**6}, output)


@main.command()
@click.argument("index", type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=600.0)
@click.option("--append", type=click.Path(exists=True, path_type=Path), help="Photos to add after a third of the time.")
@click.option(
    "--replace-with",
    metavar="MODEL",
    help="A model that serves from two thirds on, if it passes the judged queries of INDEX.",
)
@click.option("--photos", type=click.Path(exists=True, path_type=Path), required=True, help="Photos to upload.")
@click.option("--output", type=click.Path(path_type=Path))
def life(
    index: Path, seconds: float, append: Path | None, replace_with: str | None, photos: Path, output: Path | None
) -> None:
    """Load with uploads, cancelled requests, an append and a replacement."""
    pictures = [path.read_bytes() for path in sorted(photos.rglob("*.jp*g"))[:50]]
    seen, held = Seen(), []

    async def change(after: float, *words: str) -> None:
        await asyncio.sleep(after)
        process = await asyncio.create_subprocess_exec(*CIR, *words, stdout=subprocess.DEVNULL)
        if await process.wait():
            seen.wrong.append(f"cir {' '.join(words)} failed")

    async def watch(process: subprocess.Popen[str], until: float) -> None:
        while time.perf_counter() < until:
            held.append(memory(process) // 10**6)
            await asyncio.sleep(seconds / 60)

    async def run(port: int, process: subprocess.Popen[str]) -> None:
        ids, until = await ids_of(port), time.perf_counter() + seconds
        work = [search(port, ids, until, seed, seen) for seed in range(6)]
        work += [upload(port, pictures, until, 100 + seed, seen) for seed in range(2)]
        work += [leave(port, ids, until, 200 + seed) for seed in range(2)]
        if append:
            work.append(change(seconds / 3, "build-index", str(append), "-o", str(index)))
        if replace_with:
            words = ("replace-model", str(index), replace_with, "--apply")
            work.append(change(2 * seconds / 3, *words))
        await asyncio.gather(*work, watch(process, until))

    with server(index) as (port, process):
        asyncio.run(run(port, process))
    report({**seen.figures(seconds), "memory_mb": held}, output)


@main.command()
@click.argument("index", type=click.Path(exists=True, path_type=Path))
@click.option("--mutations", default=500)
@click.option("--output", type=click.Path(path_type=Path))
def hostile(index: Path, mutations: int, output: Path | None) -> None:
    """Hostile requests over a socket; prints those that were answered by an error of the server."""
    statuses: Counter[int] = Counter()
    errors = []

    async def run(port: int) -> None:
        for request in hostile_requests(mutations):
            connection = Connection(port)
            path = request.path.encode("ascii", "ignore").decode()
            try:
                kind = request.headers.get("content-type", JSON)
                async with asyncio.timeout(60):
                    status, data = await connection.request(request.method, path, request.body, kind)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                statuses[0] += 1  # the connection was closed, as it may be
                if isinstance(error, TimeoutError):
                    errors.append(f"{request.name}: no answer within a minute")
                continue
            finally:
                connection.close()
            statuses[status] += 1
            if status >= 500:
                errors.append(f"{request.name}: {status} {data[:200]!r}")

    with server(index) as (port, process):
        before = memory(process)
        asyncio.run(run(port))
        after = memory(process)
    held = {"before": before // 10**6, "after": after // 10**6}
    report({"statuses": dict(sorted(statuses.items())), "errors": errors, "memory_mb": held}, output)
    sys.exit(bool(errors))


def report(values: dict[str, Any], output: Path | None) -> None:
    """Print figures, and write them where that is wanted."""
    text = json.dumps(values, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
