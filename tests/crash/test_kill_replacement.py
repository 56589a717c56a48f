"""A replacement killed with -9 leaves the old model serving or the new one, and every stored byte as it was."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cir.files import sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.backfill import backfill
from cir.query_vectors import QueryVectors
from cir.testing.fakes import FakeEncoder, build, folder_of, make_index, random_rows
from cir.testing.two_models import NEW, OLD, PROCRUSTES, mapped_queries, serve_new

pytestmark = pytest.mark.slow

# Lets the new model serve and goes back, again and again; prints a line each time.
REPLACE = """
import sys
from pathlib import Path
import numpy as np
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.history import rollback
from cir.indexer.writing.serve import serve_model
from cir.mappings import Route, SpaceMapping
from cir.testing.fakes import DIMS, FakeEncoder

index, new = Path(sys.argv[1]), FakeEncoder("new-1", tokens=0)
space = read_manifest(IndexFolder(index)).segments[0].space
mapping = SpaceMapping(new.card.digest, space, Route.PROCRUSTES, np.eye(DIMS, dtype=np.float32))
while True:
    manifest = read_manifest(IndexFolder(index))
    if manifest.serving != new.card.digest:
        serve_model(index, new, {space: mapping}, generation=manifest.generation)
    else:
        rollback(index)
    print("done", flush=True)
"""

# Encodes an index again, two images per generation; prints a line for each.
BACKFILL = """
import sys
from pathlib import Path
from cir.indexer.writing.backfill import backfill
from cir.testing.two_models import NEW
for state in backfill(Path(sys.argv[1]), NEW, part=2, ann_min_rows=20):
    print(state.done, flush=True)
"""


def run_and_kill(program: str, index: Path, rng: random.Random) -> None:
    """Run a program on an index, and kill it shortly after it has printed a few lines."""
    command = [sys.executable, "-c", program, str(index)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(rng.randint(1, 4)):
            process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.02))
        process.kill()


def test_a_backfill_that_is_killed_goes_on(tmp_path: Path) -> None:
    photos, index = folder_of(tmp_path / "photos", 40), tmp_path / "x.index"
    build(photos, index, OLD)
    serve_new(index, PROCRUSTES)
    rng, kills, everything = random.Random(6), 0, RankingOptions(40, exact=True)
    while Gallery.open(index).ids_in(OLD.card.space.id):
        run_and_kill(BACKFILL, index, rng)
        kills += 1
        gallery = Gallery.open(index)
        assert len(gallery) == 40
        assert len(gallery.search(mapped_queries(gallery), everything)[0]) == 40
        assert verify(index) == []
    assert kills > 3
    list(backfill(index, NEW, ann_min_rows=20))  # the last kill may have stopped the merging
    (entry,) = read_manifest(IndexFolder(index)).segments
    assert entry.rows == 40
    build(photos, tmp_path / "fresh.index", NEW)
    gallery, fresh = Gallery.open(index), Gallery.open(tmp_path / "fresh.index")
    assert gallery.search(mapped_queries(gallery), everything) == fresh.search(mapped_queries(fresh), everything)


def test_a_replacement_that_is_killed_twelve_times(tmp_path: Path) -> None:
    index = make_index(tmp_path / "x.index", [random_rows([f"{n:02d}" for n in range(40)], 1)])
    old, new = FakeEncoder(tokens=0), FakeEncoder("new-1", tokens=0)
    stored = {path: sha256_file(path) for path in index.rglob(GALLERY)}
    query, options = old.encode_texts(["one"]), RankingOptions(5)
    wanted = Gallery.open(index).search(QueryVectors({old.card.space.id: query}), options)
    rng, serving = random.Random(5), set()
    for _ in range(12):
        run_and_kill(REPLACE, index, rng)
        manifest = read_manifest(IndexFolder(index))
        serving.add(manifest.serving)
        assert manifest.serving in (old.card.digest, new.card.digest)
        assert (manifest.serving == new.card.digest) == bool(manifest.mappings)
        gallery = Gallery.open(index)
        assert gallery.search(QueryVectors(dict.fromkeys(gallery.query_spaces, query)), options) == wanted
        assert {path: sha256_file(path) for path in stored} == stored
        assert verify(index) == []
    assert len(serving) == 2
    assert Gallery.open(index).searched()[1] == 0
