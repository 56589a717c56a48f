"""Is the index fast, small and right? Each part of "measured, not claimed", with its peers beside it in the same run.

    python bench/index.py data probe exact ann opening --rows 1000000 --work DIR --data-root PRODUCTS

Parts, in this order: `data` (makes an index of N vectors out of real ones; every other part makes it if it is missing),
`probe` (how fast this machine reads), `exact`, `peers` (builds the indexes of other libraries), `ann`, `lists` (how
many an approximate index should have), `opening`, `tokens`, `curves` (cost against N), `appends`, and `report` (writes
docs/results/index.md and its plots from the newest results). Each part writes one dated file into bench/results, and
can run alone; what is made stays in --work, so that a part that was cut off goes on where it was.

Run it on an idle machine, without OMP_NUM_THREADS=1. It needs the extra `bench`.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from pathlib import Path

import click
from index_parts import base

PARTS = {
    "data": "world",
    "probe": "probe",
    "exact": "exact",
    "peers": "peers",
    "ann": "ann",
    "lists": "lists",
    "opening": "opening",
    "tokens": "tokens",
    "curves": "curves",
    "appends": "appends",
    "report": "report",
}


@click.command()
@click.argument("parts", nargs=-1, required=True, type=click.Choice(list(PARTS)))
@click.option("--rows", default=1_000_000, show_default=True, metavar="N", help="Vectors of the index.")
@click.option(
    "--work",
    default=Path(tempfile.gettempdir()) / "cir-bench-index",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is made; about 8 GB at a million rows.",
)
@click.option("--data-root", type=click.Path(path_type=Path, exists=True), help="Folder of the product photos.")
@click.option("--seconds", default=20.0, show_default=True, help="How long one contender is timed.")
@click.option("--rounds", default=15, show_default=True, help="How often a contender is timed at most.")
@click.option("--limit", default=1800.0, show_default=True, help="Seconds for one build of a peer.")
@click.option("--only", multiple=True, metavar="NAME", help="Only contenders whose names begin so.")
@click.option("--busy", is_flag=True, help="Measure although the machine is busy.")
@click.option(
    "--results", default=base.RESULTS, type=click.Path(path_type=Path, file_okay=False), help="Folder of dated results."
)
@click.option("--output", type=click.Path(path_type=Path), help="File of the results; of one part.")
def main(
    parts: tuple[str, ...],
    rows: int,
    work: Path,
    data_root: Path | None,
    seconds: float,
    rounds: int,
    limit: float,
    only: tuple[str, ...],
    busy: bool,
    results: Path,
    output: Path | None,
) -> None:
    """Measure PARTS and write their results."""
    if output and len(parts) > 1:
        raise click.UsageError("--output is the file of one part")
    work = work.resolve()
    os.environ["XDG_STATE_HOME"] = str(work / "state")  # what is indexed here is none of the user's
    setting = base.Setting(rows, work, data_root, results, seconds, rounds, limit, only)
    for part in parts:
        module = importlib.import_module(f"index_parts.{PARTS[part]}")
        if part == "report":
            module.write(results)
            continue
        before = base.load()
        if part not in ("data", "peers"):
            base.check_idle(busy)
        figures = module.measure(setting)
        path = base.save(setting, part, figures, before, output)
        click.echo(f"{part}: {path}")


def child(words: list[str]) -> None:
    """`child PART WORDS...`: what a part runs in a process of its own; the last line printed is its result."""
    module = importlib.import_module(f"index_parts.{words[0]}")
    click.echo(json.dumps(module.child(*words[1:])))


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
    else:
        main()
