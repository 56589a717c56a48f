"""One small Ray cluster for all tests of a file: starting one takes seconds, and some files have their own."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cir.testing.fakes import FakeEncoder

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """The module `ray`, connected to a cluster of this machine that hands out four cores."""
    from cir.cluster.session import joined

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    joining = joined("local", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        ray = joining.__enter__()
    yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not wait for the processes that it ends
        joining.__exit__(None, None, None)
        gc.collect()


@pytest.fixture
def spread(cluster: Any) -> Iterator[Callable[..., Any]]:
    """Makes what encodes with the fake model on the cluster: processes -> RaySpread."""
    from cir.cluster.encoding import RaySpread

    made = []

    def make(processes: int = 2, **options: Any) -> RaySpread:
        made.append(RaySpread(cluster, options.pop("make_encoder", FakeEncoder), processes, 1, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
