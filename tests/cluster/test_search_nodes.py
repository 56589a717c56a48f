"""Search over two nodes of Ray, each with an object store of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

import ray

from cir.cluster.searching import Parts
from cir.cluster.session import joined
from cir.indexer.reading.coverage import search_covered
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors
from cir.testing.fakes import DIMS, make_index, random_rows, unit_rows
from cir.testing.spread import attempts

IDS = [f"{number * 7919 % 1009:04d}" for number in range(400)]
STORE = 80_000_000
WAIT = 60.0


def until_ready(parts: Parts, pointer: tuple[int, str]) -> None:
    for _ in attempts("all replicas are ready"):
        parts.tend()
        if all(replica.can_answer(pointer) for replica in parts._every()):
            return


@pytest.mark.long
def test_two_nodes_of_which_one_is_lost(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    index = make_index(tmp_path / "x.index", [random_rows(IDS[start::4], seed=start) for start in range(4)])
    whole = Gallery.open(index)
    vectors = unit_rows(np.random.default_rng(5).standard_normal((1000, DIMS)))
    wanted = QueryVectors({whole.space.id: vectors})
    cluster = Cluster()
    try:
        head = cluster.add_node(num_cpus=1, object_store_memory=STORE, include_dashboard=False)
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        with joined(cluster.address), Parts(index, parts=2, replicas=2, deadline=WAIT) as parts:
            gallery = Gallery.open(index, spread=parts)
            pointer = gallery._opened.pointer
            until_ready(parts, pointer)
            nodes = [{ray.get(replica.measure()).node for replica in replicas} for replicas in parts._replicas]
            assert nodes == [{head.node_id, second.node_id}] * 2
            for exact in (True, False):
                for where in ("", "colour=red"):
                    options = RankingOptions(10, whole.select(where) if where else None, exact)
                    found = search_covered(gallery, wanted, options)
                    assert found.coverage == 1
                    assert found.hits == whole.search(wanted, options)
            parts.deadline = 10.0  # after half of it another replica is called
            cluster.remove_node(second, allow_graceful=False)
            options = RankingOptions(10)
            for _ in attempts("those of the lost node are started on the other"):
                found = search_covered(gallery, wanted[:5], options)
                assert found.coverage == 1  # the other replica answers meanwhile
                assert found.hits == whole.search(wanted[:5], options)
                if all(each.node == head.node_id and each.can_answer(pointer) for each in parts._every()):
                    break
    finally:
        cluster.shutdown()
