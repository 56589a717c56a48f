"""A replacement killed with -9 leaves the old model serving or the new one, and every stored byte as it was."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cir.indexer.writing.backfill import backfill
from cir.files import sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.manifest import GALLERY, read_manifest
from cir.indexer.reading.verify import verify

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("crash", "unit"))
from indexer_fakes import DIMS, FakeEncoder, build, folder_of, make_index, random_rows
from test_indexer_edges import NEW, OLD, PROCRUSTES, asked, serve

HERE = Path(__file__).parent
# Serves by the new model and goes back, again and again; says each time.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from cir.indexer.writing.history import rollback
from cir.indexer.storage.manifest import read_manifest
from cir.replacement.gate import Cost, Verdict
from cir.replacement.study import Replacement, apply
from cir.types import SpaceMapping
sys.path.append(sys.argv[2])
from indexer_fakes import DIMS, FakeEncoder

index, new = Path(sys.argv[1]), FakeEncoder("new-1", tokens=0)
space = read_manifest(index).segments[0].space
mapping = SpaceMapping(new.card.digest, space, "procrustes", np.eye(DIMS, dtype=np.float32))
verdict = Verdict("procrustes", {})
found = Replacement(space, "old-1", 40, 400, verdict, Cost(40, 1.0, 1), mappings={"procrustes": mapping})
while True:
    if read_manifest(index).serving != new.card.digest:
        apply(index, new, [found], read_manifest(index).generation)
    else:
        rollback(index)
    print("done", flush=True)
"""


# Encodes an index again, two images a generation; says each.
BACKFILL = """
import sys
from pathlib import Path
from cir.indexer.writing.backfill import backfill
sys.path[:0] = sys.argv[2:]
from test_indexer_edges import NEW
for state in backfill(Path(sys.argv[1]), NEW, part=2, ann_min_rows=20):
    print(state.done, flush=True)
"""


def test_a_backfill_that_is_killed_goes_on(tmp_path: Path) -> None:
    photos, index = folder_of(tmp_path / "photos", 40), tmp_path / "x.index"
    build(photos, index, OLD)
    serve(index, PROCRUSTES)
    rng, kills = random.Random(6), 0
    command = [sys.executable, "-c", BACKFILL, str(index), str(HERE), str(HERE.parent / "unit")]
    while Gallery.open(index).ids_in(OLD.card.space.id):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 4)):
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
        kills += 1
        gallery = Gallery.open(index)
        assert len(gallery) == 40
        assert len(gallery.search(asked(gallery), 40)[0]) == 40
        assert verify(index) == []
    assert kills > 3
    list(backfill(index, NEW, ann_min_rows=20))  # the last of them may have stopped the merging
    (entry,) = read_manifest(index).segments
    assert entry.rows == 40
    build(photos, tmp_path / "fresh.index", NEW)
    gallery, fresh = Gallery.open(index), Gallery.open(tmp_path / "fresh.index")
    assert gallery.search(asked(gallery), 40, exact=True) == fresh.search(asked(fresh), 40, exact=True)


def test_twelve_kills(tmp_path: Path) -> None:
    index = make_index(tmp_path / "x.index", [random_rows([f"{n:02d}" for n in range(40)], 1)])
    old, new = FakeEncoder(tokens=0), FakeEncoder("new-1", tokens=0)
    stored = {path: sha256_file(path) for path in index.rglob(GALLERY)}
    query = old.encode_texts(["one"])
    wanted = Gallery.open(index).search({old.card.space.id: query}, 5)
    rng, seen = random.Random(5), set()
    for _ in range(12):
        command = [sys.executable, "-c", PROGRAM, str(index), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 4)):
                assert process.stdout.readline() == "done\n"
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
        manifest = read_manifest(index)
        seen.add(manifest.serving)
        assert manifest.serving in (old.card.digest, new.card.digest)
        assert (manifest.serving == new.card.digest) == bool(manifest.mappings)
        gallery = Gallery.open(index)
        assert gallery.search(dict.fromkeys(gallery.asked, query), 5) == wanted
        assert {path: sha256_file(path) for path in stored} == stored
        assert verify(index) == []
    assert len(seen) == 2
    assert np.array_equal(Gallery.open(index).searchable, np.ones(40, bool))
    assert query.shape[1] == DIMS
