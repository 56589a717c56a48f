"""The torture script in its short form, and that it sees faults which are planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parents[2] / "bench"
SHORT = {
    "kills": 4,
    "refusals": 4,
    "flips": 6,
    "truncations": 5,
    "harms": 3,
    "crafted": 3,
    "full-disks": 2,
    "readers": 1,
}
PLANT = """
import sys
from torture import main
{plant}
main()
"""
# A fault, the words that should find it, and the name under which it is found.
PLANTED = {
    "verify sees nothing": (
        "import tortures.steps; tortures.steps.verify = lambda path: []",
        ("--flips=8",),
        "unnamed",
    ),
    "repair does nothing": (
        "import tortures.steps\n"
        "repair = tortures.steps.repair\n"
        "tortures.steps.repair = lambda index, **k: repair(index, dry_run=True)",
        ("--harms=8",),
        "unmended",
    ),
    "what could not be written is left there": (
        "import cir.files; cir.files.remove_tree = lambda path: None",
        ("--refusals=6",),
        "leftover",
    ),
    "a search forgets its best hit": (
        "from cir.indexer.reading.gallery import Gallery; search = Gallery.search\n"
        "Gallery.search = lambda *a, **k: [hits[1:] for hits in search(*a, **k)]",
        ("--readers=1",),
        "wrong",
    ),
    "a file is removed before it is replaced": (
        "import os, cir.files\n"
        "def move(source, target):\n"
        "    target.unlink(missing_ok=True)\n"
        "    for _ in range(30):\n"  # a long moment, so that few kills hit it
        "        os.close(os.open(target.parent, os.O_RDONLY))\n"
        "    os.replace(source, target)\n"
        "cir.files.move = move",
        ("--kills=12",),
        "lost",
    ),
}


def torture(folder: Path, *words: str, plant: str = "") -> tuple[int, dict[str, Any], str]:
    """Run the script; its exit code, its result, and what it printed."""
    output = folder / "torture.json"
    program = [sys.executable, "-c", PLANT.format(plant=plant)]
    done = subprocess.run(
        [*program, *words, "--scratch", str(folder), "--output", str(output)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])},
        cwd=BENCH.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(output.read_text()), done.stdout


def test_the_short_form_finds_nothing(tmp_path: Path) -> None:
    code, result, printed = torture(tmp_path, *(f"--{kind}={count}" for kind, count in SHORT.items()))
    assert result["findings"] == []
    assert code == 0, printed
    assert result["kinds"]["kills"]["kills"] == SHORT["kills"]
    assert result["kinds"]["truncations"]["cases"] == SHORT["truncations"]
    refusals = result["kinds"]["refusals"]
    assert refusals.get("cases") == SHORT["refusals"] or refusals["not supported here"]


def test_hostile_pictures_are_survived(tmp_path: Path) -> None:
    code, result, printed = torture(tmp_path, "--hostile=1")
    assert result["findings"] == []
    assert code == 0, printed


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    plant, words, fault = PLANTED[name]
    code, result, printed = torture(tmp_path, *words, plant=plant)
    assert code == 1
    assert result["faults"][fault], printed
