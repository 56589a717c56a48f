"""How long does it take to put another model behind a million vectors, and to take it back?

    python bench/replace_apply.py --output bench/results/DATE-replace-apply.json

Synthetic unit vectors; what is timed is what `cir replace-model --apply` does after measuring, `cir rollback`, and
opening the index afterwards, when vectors that are carried into the new space are made for the first time.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir.files import make_folder, sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.history import rollback
from cir.indexer.storage.manifest import (
    GALLERY,
    FileEntry,
    Manifest,
    SegmentEntry,
    adopt_segment,
    publish,
    read_manifest,
)
from cir.indexer.storage.segment import Block, Layout, write_segment
from cir.replacement.gate import Cost, Verdict
from cir.replacement.study import Replacement, apply
from cir.types import SpaceMapping, ModelCard

DIMS, PART = 256, 50_000


class Named:
    """As much of an encoder as `apply` needs."""

    def __init__(self, name: str) -> None:
        self.card = ModelCard(name, hashlib.sha256(name.encode()).hexdigest(), "0" * 64, DIMS, 0, True)


def blocks(rows: int) -> Iterator[Block]:
    """Random unit vectors."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, PART):
        count = min(PART, rows - start)
        vectors = rng.standard_normal((count, DIMS), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"{start + number:08d}.jpg" for number in range(count)]
        digests = rng.integers(0, 256, (count, 32), dtype=np.uint8)
        yield Block(ids, digests, ["/photos"] * count, [{}] * count, vectors.astype(np.float16), None)


def make(path: Path, rows: int, old: Named) -> None:
    """An index of so many vectors."""
    folder = path / "work" / "segment"
    make_folder(folder)
    layout = Layout.of(old.card)
    write_segment(folder / GALLERY, layout, rows, blocks(rows))
    files = {GALLERY: FileEntry.of(folder / GALLERY)}
    name = adopt_segment(path, folder)
    entry = SegmentEntry(name, rows, old.card.digest, old.card.space.id, DIMS, 0, True, files)
    cards, spaces = {old.card.digest: old.card.to_json()}, {old.card.space.id: asdict(old.card.space)}
    publish(path, Manifest(1, old.card.digest, cards, spaces, (entry,)))


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(rows: int, output: Path | None) -> None:
    """Measure and write the figures."""
    old, new = Named("old-1"), Named("new-1")
    rng = np.random.default_rng(1)
    matrix, bias = rng.standard_normal((DIMS, DIMS)).astype(np.float32), np.zeros(DIMS, np.float32)
    figures: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "rows": rows, "dims": DIMS}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "index"
        make(path, rows, old)
        before = {str(file): sha256_file(file) for file in path.rglob(GALLERY)}
        for route in ("procrustes", "transform"):
            mapping = SpaceMapping(
                new.card.digest, old.card.space.id, route, matrix, bias if route == "transform" else None
            )
            found = Replacement(
                old.card.space.id, "old-1", rows, 400, Verdict(route, {}), Cost(rows, 1.0, 1), mappings={route: mapping}
            )
            started = time.perf_counter()
            apply(path, new, [found], read_manifest(path).generation)
            applied = time.perf_counter() - started
            started = time.perf_counter()
            gallery = Gallery.open(path, ann_min_rows=10**9)
            opened = time.perf_counter() - started
            query = matrix[:1] / np.linalg.norm(matrix[:1])
            started = time.perf_counter()
            gallery.search(dict.fromkeys(gallery.asked, query), 10)
            searched = time.perf_counter() - started
            del gallery
            started = time.perf_counter()
            rollback(path)
            back = time.perf_counter() - started
            figures[route] = {
                "apply_seconds": round(applied, 3),
                "first_open_seconds": round(opened, 2),
                "exact_query_seconds": round(searched, 3),
                "rollback_seconds": round(back, 3),
            }
        after = {str(file): sha256_file(file) for file in path.rglob(GALLERY)}
        figures["gallery_files_unchanged"] = before == after
    click.echo(json.dumps(figures, indent=1))
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
