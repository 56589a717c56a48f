"""`bench/index.py` still runs: its parts call what the engine offers, and find in it what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Floats, unit
from cir.models import find
from cir.models.folder import read_card

ROOT = Path(__file__).parents[2]
ROWS = 1_600  # from here on it builds an approximate index


def clustered(rng: np.random.Generator, count: int) -> Floats:
    """Vectors near 40 directions, of the length that the packaged model gives."""
    dims = read_card(find("small")).dims
    centres = np.random.default_rng(0).standard_normal((40, dims))
    spread = rng.standard_normal((count, dims)) * np.geomspace(1, 0.05, dims)
    return unit((centres[rng.integers(40, size=count)] + 0.7 * spread).astype(np.float32))


@pytest.mark.slow
def test_the_parts_run_and_find_what_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = {"photos": clustered(rng, 800), "held_out": clustered(rng, 100), "composed": clustered(rng, 100)}
    np.savez(tmp_path / "real.npz", **vectors)
    words = ["data", "probe", "exact", "ann", "lists", "curves"]
    words += ["--rows", ROWS, "--work", tmp_path, "--results", tmp_path]
    words += ["--busy", "--rounds", 1, "--seconds", 0.1, "--only", "cir", "--only", "faiss +"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, ROOT / "bench" / "index.py", *map(str, words)], check=True, env=environment, cwd=tmp_path
    )
    results = {}
    for path in tmp_path.glob("*-index-*.json"):
        result = json.loads(path.read_bytes())
        results[result["part"]] = result
    assert set(results) == {"data", "probe", "exact", "ann", "lists", "curves"}
    assert results["exact"]["recall"] == {"cir": 1.0}
    assert results["data"]["photos"] == len(vectors["photos"])
    for kind in ("photos", "composed"):
        thorough = results["ann"]["curves"]["faiss + rescoring"][-1]
        assert thorough[kind]["recall"] > 0.999
        assert results["ann"]["curves"]["cir"][0][kind]["recall"] > 0.95
    size = results["curves"]["sizes"][str(ROWS)]
    assert size["after_compacting"]["segments"] <= size["after_changes"]["segments"]
