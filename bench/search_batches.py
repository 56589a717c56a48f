"""One composed query after another against batches: `search` 256 times, and `search_many` of the same 256 queries.

    python bench/search_batches.py IMAGES --output bench/results/DATE-search-batches.json

IMAGES is a folder or zip of photos; an index of all of them is built by `small` in a temporary folder, unless --index
names one. Each query is a gallery image and a caption. Both ways are timed in turn, several times; the first round
warms up. Reported are milliseconds per query and their ratio, and how often the first ten hits agree.
"""

from __future__ import annotations

import json
import platform
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click

from cir import load_model, open_index
from cir.images import scan
from cir.indexer.writing.build import build_index
from cir.search import Searcher
from cir.types import Query

CAPTIONS = ("in red", "the same but for women", "with long sleeves", "a darker one", "in blue with stripes")


def queries_of(searcher: Searcher, count: int) -> list[Query]:
    """Composed queries about images of the gallery."""
    rng = random.Random(0)
    return [Query((rng.choice(list(searcher.ids)),), rng.choice(CAPTIONS)) for _ in range(count)]


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--index", type=click.Path(path_type=Path), help="An index of IMAGES to search.")
@click.option("--count", default=256, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(images: Path, index: Path | None, count: int, rounds: int, output: Path | None) -> None:
    """Measure and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = index or Path(folder) / "index"
        if index is None:
            build_index(scan([images]), path, load_model())
        searcher = open_index(path)
        queries = queries_of(searcher, count)
        single: list[float] = []
        batched: list[float] = []
        for number in range(rounds + 1):
            started = time.perf_counter()
            one_by_one = [searcher.search(query) for query in queries]
            between = time.perf_counter()
            together = searcher.search_many(queries)
            ended = time.perf_counter()
            if number:  # the first round warms up
                single.append(1000 * (between - started) / count)
                batched.append(1000 * (ended - between) / count)
        same = sum(
            [hit.id for hit in a.hits] == [hit.id for hit in b.hits] for a, b in zip(one_by_one, together, strict=True)
        )
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "images": len(searcher.ids),
        "queries": count,
        "search ms per query": single,
        "search_many ms per query": batched,
        "ratio": median(a / b for a, b in zip(single, batched, strict=True)),
        "same ten hits": same / count,
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
