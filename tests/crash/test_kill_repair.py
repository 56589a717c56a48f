"""A repair killed with -9 leaves the index no worse: it can be repeated, and the damaged file is kept."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.writing.repair import repair
from cir.testing.fakes import make_index, random_rows

pytestmark = pytest.mark.slow

REPAIR = """
import sys
import cir
cir.repair
print("ready", flush=True)
sys.stdin.readline()
cir.repair(sys.argv[1])
"""

rng = random.Random(20261126)


@pytest.mark.parametrize("delay", [rng.uniform(0, 0.06) for _ in range(12)])
def test_a_repair_killed(tmp_path: Path, delay: float) -> None:
    index = make_index(tmp_path / "x.index", [random_rows(list("abcdef"), 1), random_rows(list("ghi"), 2)])
    path = IndexFolder(index).gallery("000001")
    path.write_bytes(path.read_bytes()[:-1])
    data = path.read_bytes()
    command = [sys.executable, "-c", REPAIR, str(index)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        end = time.monotonic() + delay
        while time.monotonic() < end and process.poll() is None:
            pass
        process.kill()
    assert Gallery.open(index).ids == list("ghi")
    repair(index)
    assert verify(index) == []
    assert (index / "quarantine" / "000002-segment-000001.h5").read_bytes() == data
