"""A backfill against a build of the same photos: both read, decode and encode through one pipeline.

    python bench/backfill.py IMAGES --output bench/results/DATE-backfill.json

Builds an index of `small-lite`, lets `small` serve it without a mapping, and backfills it; builds an index of the same
photos by `small`; several rounds in turn, the first of which warms up. Reported are seconds and their ratio.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click

from cir.images import scan
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.writer import writing
from cir.indexer.writing.backfill import backfill
from cir.indexer.writing.build import build_index
from cir.models import load_model


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=1000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(images: Path, count: int, rounds: int, output: Path | None) -> None:
    """Measure and write the figures."""
    photos = scan([images])[:count]
    older, newer = load_model("small-lite"), load_model("small")
    builds: list[float] = []
    backfills: list[float] = []
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            build_index(photos, scratch / "older", older)
            index = IndexFolder(scratch / "older")
            with writing(index) as writer:
                writer.publish(read_manifest(index).succeed(card=newer.card))
            started = time.perf_counter()
            build_index(photos, scratch / "newer", newer)
            between = time.perf_counter()
            (*_, last) = backfill(scratch / "older", newer)
            ended = time.perf_counter()
            assert last.left == 0
            if number:  # the first round warms up
                builds.append(between - started)
                backfills.append(ended - between)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "photos": len(photos),
        "build seconds": builds,
        "backfill seconds": backfills,
        "ratio": median(b / a for a, b in zip(builds, backfills, strict=True)),
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
