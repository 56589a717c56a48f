"""Does judging in the browser suffice to decide about a new model? Questions marked through the API, and replace-model.

    python bench/serve_marks.py PRODUCTS --output bench/results/DATE-serve-marks.json

Over the val photos, indexed by the light model, a judge who knows the right answers of the benchmark marks the first
ten hits of each of 260 questions, then what both models find for them (`cir serve --judge-pool`). `cir questions
--from-marks` stores them, and `cir replace-model` measures the new model; beside it the same with all right answers.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from everyday import open_gallery
from serve import CIR, server

from cir import Query, models
from cir.client import Client
from cir.data.attribute_benchmarks import load_products
from cir.data.judged_query import JudgedQuery
from cir.files import write_json

QUESTIONS = 260
SHOWN = 10


def mark_hits(client: Client, asked: list[JudgedQuery]) -> int:
    """Mark the first hits of every question, as the page does; the number of marks."""
    marks = 0
    for judged in asked:
        query = Query((judged.reference,), judged.caption, k=SHOWN)
        for hit in client.search(query).hits:
            client.mark(query, hit.id, hit.id in judged.targets)
            marks += 1
    return marks


def mark_pools(client: Client, asked: list[JudgedQuery]) -> int:
    """Judge the hits of both models that are left, until none is; the number of marks."""
    right = {(judged.reference, judged.caption): set(judged.targets) for judged in asked}
    marks = 0
    while True:
        found = client.request("GET", "/pools")
        if found["state"] == "failed":
            raise SystemExit(found["detail"])
        if found["state"] == "computing":
            time.sleep(1)
            continue
        if not found["left"]:
            return marks
        for pool in found["pools"]:
            reference, text = pool["references"][0], pool["text"]
            for image in pool["images"]:
                verdict = image["id"] in right[reference, text]
                body = {"references": [reference], "text": text, "image": image["id"], "right": verdict, "pool": True}
                client.request("PUT", "/marks", body)
                marks += 1


def study(index: Path, new: str, *words: str) -> dict[str, Any]:
    """What `cir replace-model --json` says; its exit code is 1 for a refusal."""
    done = subprocess.run([*CIR, "replace-model", str(index), new, "--json", *words], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return {"exit code": done.returncode, **json.loads(done.stdout)}


@click.command()
@click.argument("product_photos", type=click.Path(path_type=Path))
@click.option("--old", default="small-lite", show_default=True)
@click.option("--new", default="small", show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(product_photos: Path, old: str, new: str, output: Path | None) -> None:
    """Measure, print and write."""
    benchmark = load_products(product_photos)
    asked = random.Random(0).sample([query for query in benchmark.queries if query.reference], QUESTIONS)
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "products.index"
        open_gallery(benchmark, models.load_model(old), index)
        with server(index, "--judge-pool", new) as (port, _), Client(f"http://127.0.0.1:{port}") as client:
            figures: dict[str, Any] = {"questions": len(asked), "marks on hits": mark_hits(client, asked)}
        with server(index, "--judge-pool", new) as (port, _), Client(f"http://127.0.0.1:{port}") as client:
            figures |= {"marks on pools": mark_pools(client, asked), "marks": client.marks()}
        subprocess.run([*CIR, "questions", str(index), "--from-marks"], check=True, capture_output=True)
        figures["by marks"] = study(index, new)
        lines = [
            json.dumps({"id": q.id, "reference": q.reference, "caption": q.caption, "targets": sorted(q.targets)})
            for q in asked
        ]
        (Path(scratch) / "all.jsonl").write_text("\n".join(lines))
        figures["by all right answers"] = study(index, new, "--questions", str(Path(scratch) / "all.jsonl"))
    click.echo(json.dumps(figures, indent=1))
    if output:
        write_json(output, {"date": datetime.now(UTC).date().isoformat(), **figures}, indent=1)


if __name__ == "__main__":
    main()
