"""Two machines, as two Ray nodes with object stores of their own: they make the index of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cir.indexer.reading.verify import verify
from cir.testing.fakes import answer, build, contents, folder_of

pytest.importorskip("ray")
pytestmark = pytest.mark.long

PROGRAM = """
import os, sys, time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray.cluster_utils import Cluster

from cir.cluster.encoding import RaySpread
from cir.cluster.session import joined
from cir.testing.fakes import FakeEncoder, build

photos, out, nodes = map(Path, sys.argv[1:])


def make_encoder():
    (nodes / ray.get_runtime_context().get_node_id()).touch()
    patience = time.monotonic() + 120
    while len(list(nodes.iterdir())) < 2 and time.monotonic() < patience:
        time.sleep(0.05)  # the first would be done before the second has started
    return FakeEncoder()


machine = {"num_cpus": 1, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
cluster.add_node(**machine)
with joined(cluster.address) as joint:
    build(photos, out, segment_rows=8, spread=RaySpread(joint, make_encoder, 2, 1))
cluster.shutdown()
"""


def test_two_machines_make_the_index_of_one_process(tmp_path: Path) -> None:
    photos, out, nodes = folder_of(tmp_path / "photos", 60), tmp_path / "many.index", tmp_path / "nodes"
    nodes.mkdir()
    build(photos, tmp_path / "one.index", segment_rows=8)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(photos), str(out), str(nodes)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(nodes.iterdir())) == 2
    assert verify(out) == []
    assert answer(out) == answer(tmp_path / "one.index")
    files = [
        {name: data for name, data in contents(index).items() if name.startswith("segments/")}
        for index in (out, tmp_path / "one.index")
    ]
    assert files[0] == files[1]
