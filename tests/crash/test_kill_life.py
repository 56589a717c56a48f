"""A removal, compaction or merge killed with -9: the index is as before or as after, never between."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cir import compact, merge
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.testing.fakes import answer, answer_or_none, build, folder_of, make_index, random_rows

pytestmark = pytest.mark.slow

# Removes an image at a time, and compacts after every second one; prints a line before each step.
REMOVE = """
import sys
from cir import compact, remove
from cir.indexer.reading.gallery import Gallery
for number, image_id in enumerate(Gallery.open(sys.argv[1]).ids[:-5]):
    print(image_id, flush=True)
    remove(sys.argv[1], ids=[image_id])
    if number % 2:
        compact(sys.argv[1], keep=number % 3)
"""

MERGE = """
import sys
print("begins", flush=True)
from cir import merge
merge(sys.argv[1:3], sys.argv[3])
"""


def test_removing_and_compacting_killed(tmp_path: Path) -> None:
    names = [[f"{start + 3 * row:03d}.png" for row in range(40)] for start in range(3)]
    index = make_index(tmp_path / "x.index", [random_rows(ids, seed, tokens=4) for seed, ids in enumerate(names)], 4)
    everything = dict(answer(index, 1000)[0])
    rng = random.Random(13)
    while len(left := Gallery.open(index).ids) > 20:
        begun = _killed(REMOVE, [index], rng, lines=rng.randint(1, 6))
        now = Gallery.open(index).ids
        removed = [name for name in left if name not in now]
        assert removed in (begun, begun[:-1])  # in order, the last one or not
        assert dict(answer(index, 1000)[0]) == {name: everything[name] for name in now}
        assert verify(index) == []
    compact(index, keep=0)
    assert len(list((index / "segments").iterdir())) == 1
    assert not list(index.rglob(".tmp-*"))


def test_merging_killed(tmp_path: Path) -> None:
    first, second, out = tmp_path / "a.index", tmp_path / "b.index", tmp_path / "both.index"
    build(folder_of(tmp_path / "a", 30), first)
    build(folder_of(tmp_path / "b", 30, start=30), second)
    merge([first, second], tmp_path / "whole.index")
    wanted, rng = answer(tmp_path / "whole.index"), random.Random(13)
    for delay in [rng.uniform(0.2, 0.6) for _ in range(8)]:
        _killed(MERGE, [first, second, out], rng, lines=1, delay=delay)
        assert answer_or_none(out) in (None, wanted)
        if out.exists():
            assert verify(out) == []
            break
    if not out.exists():
        merge([first, second], out)  # over what the killed ones left
    assert answer(out) == wanted
    assert not list(tmp_path.glob(".tmp-*"))


def _killed(
    program: str, paths: list[Path], rng: random.Random, *, lines: int, delay: float | None = None
) -> list[str]:
    """Run a program, and kill it shortly after it has printed some lines; returns all that it printed."""
    command = [sys.executable, "-c", program, *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.03) if delay is None else delay)
        process.kill()
        printed += process.stdout.readlines()
    return [line.strip() for line in printed if line.strip()]
