"""schemathesis against the OpenAPI document, where it is installed: `pip install schemathesis`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cir

COMMAND = "from schemathesis.cli import schemathesis; schemathesis()"
EXAMPLES = 30  # for each operation; more with `schemathesis run` by hand, see schemathesis.toml
HEALTH = ("--suppress-health-check", "filter_too_much")  # it draws most ids from what no address can hold
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_api_is_as_its_document_says(searcher: cir.Searcher) -> None:
    pytest.importorskip("schemathesis")
    from cir.serve.settings import Limits, Settings
    from cir.testing.served import Running

    with Running(searcher, Settings(port=0, limits=Limits(rate=0))) as server:
        url = f"{server.url}/api/v1/openapi.json"
        words = ["run", url, "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color", *HEALTH]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, cwd=ROOT, check=False
        )
    assert done.returncode == 0, done.stdout[-5000:]
