"""How long it takes to let another model serve a million vectors, and to roll back.

    python bench/replace_apply.py --output bench/results/DATE-replace-apply.json

Synthetic unit vectors. Timed are publishing (what `cir replace-model --apply` does after measuring), `cir rollback`,
and opening the index afterwards, when stored vectors are mapped into the new space for the first time.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir.arrays import unit
from cir.files import make_folder, sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import adopt_segment, read_manifest
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, write_segment
from cir.indexer.storage.writer import writing
from cir.indexer.writing.history import rollback
from cir.indexer.writing.serve import serve_model
from cir.mappings import Route, SpaceMapping
from cir.query_vectors import QueryVectors
from cir.testing.fakes import FakeEncoder
from cir.types import ModelCard

DIMS, PART = 256, 50_000
NONE = "0" * 64  # a digest of nothing


def encoder(name: str) -> FakeEncoder:
    """An encoder that only lends its card."""
    fake = FakeEncoder()
    fake.card = ModelCard(name, hashlib.sha256(name.encode()).hexdigest(), NONE, NONE, NONE, DIMS, 0, True)
    return fake


def blocks(rows: int) -> Iterator[EncodedBlock]:
    """Random unit vectors."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, PART):
        count = min(PART, rows - start)
        vectors = unit(rng.standard_normal((count, DIMS), dtype=np.float32))
        yield EncodedBlock(vectors.astype(np.float16), None)


def make(folder: IndexFolder, rows: int, old: FakeEncoder) -> None:
    """An index of `rows` vectors."""
    work = folder.work / "segment"
    make_folder(work)
    layout = Layout.of(old.card)
    ids = [f"{number:08d}.jpg" for number in range(rows)]
    digests = np.random.default_rng(1).integers(0, 256, (rows, 32), dtype=np.uint8)
    write_segment(work / GALLERY, layout, RowTable(ids, digests, ["/photos"] * rows, {}), blocks(rows))
    files = {GALLERY: FileEntry.of(work / GALLERY)}
    with writing(folder) as writer:
        name = adopt_segment(folder, work)
        entry = SegmentEntry(name, rows, layout.model, layout.space, DIMS, 0, True, files)
        writer.publish(Manifest.empty(old.card).succeed(segments=[entry]))


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(rows: int, output: Path | None) -> None:
    """Measure and write the figures."""
    old, new = encoder("old-1"), encoder("new-1")
    space = old.card.space.id
    rng = np.random.default_rng(1)
    matrix, bias = rng.standard_normal((DIMS, DIMS)).astype(np.float32), np.zeros(DIMS, np.float32)
    figures: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "rows": rows, "dims": DIMS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = IndexFolder(Path(scratch) / "index")
        make(folder, rows, old)
        before = {str(file): sha256_file(file) for file in folder.root.rglob(GALLERY)}
        for route in (Route.PROCRUSTES, Route.RIDGE):
            mapping = SpaceMapping(new.card.digest, space, route, matrix, bias)
            started = time.perf_counter()
            serve_model(folder.root, new, {space: mapping}, generation=read_manifest(folder).generation)
            applied = time.perf_counter() - started
            started = time.perf_counter()
            gallery = Gallery.open(folder.root, ann_min_rows=10**9)
            opened = time.perf_counter() - started
            queries = QueryVectors(dict.fromkeys(gallery.query_spaces, unit(matrix[:1])))
            started = time.perf_counter()
            gallery.search(queries, RankingOptions(10))
            searched = time.perf_counter() - started
            del gallery
            started = time.perf_counter()
            rollback(folder.root)
            back = time.perf_counter() - started
            figures[route.value] = {
                "apply_seconds": round(applied, 3),
                "first_open_seconds": round(opened, 2),
                "exact_query_seconds": round(searched, 3),
                "rollback_seconds": round(back, 3),
            }
        after = {str(file): sha256_file(file) for file in folder.root.rglob(GALLERY)}
        figures["gallery_files_unchanged"] = before == after
    click.echo(json.dumps(figures, indent=1))
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
