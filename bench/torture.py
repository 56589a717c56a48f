"""Does an index survive? Kills, flipped bytes, crafted files, full disks, readers beside a writer, hostile pictures.

    python bench/torture.py --kills 100 --flips 200 --crafted 200 --full-disks 60 --readers 20 --hostile 1 \\
        --seed 0 --output bench/results/DATE-torture.json

Each number is that of cases; 0, the default, leaves a kind out. Everything runs with a fake model, in processes of its
own, and what an index must answer is computed with numpy from the pictures. `--only N` runs case N of the kinds that
are asked for. Full disks are small tmpfs mounts, which need root; without it files are limited in size instead.

Prints each finding and a table of counts. Exits with 1 if there was any finding.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from tortures import crafted, damage, full_disks, hostile, kills, readers
from tortures.cases import FAULTS, Arena, Tally

from cir.files import write_json
from cir.tables import align

KINDS = {
    "kills": kills.torture,
    "flips": damage.torture,
    "crafted": crafted.torture,
    "full disks": full_disks.torture,
    "readers": readers.torture,
    "hostile": hostile.torture,
}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", "").split()
    return {
        "cores": os.cpu_count(),
        "processor": values.get("model name") or platform.processor() or platform.machine(),
        "AVX2": "avx2" in flags,
        "AVX-512": "avx512f" in flags,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def table(tallies: list[Tally]) -> list[str]:
    """Kinds against what happened and what was found."""
    rows = [["", "cases", *FAULTS]]
    for tally in tallies:
        faults = Counter(finding["fault"] for finding in tally.findings)
        rows.append([tally.kind, f"{tally.counts['cases']:,}", *(f"{faults[fault]:,}" for fault in FAULTS)])
    notes = [
        f"{tally.kind}: " + ", ".join(f"{count:,} {name}" for name, count in tally.counts.items() if name != "cases")
        for tally in tallies
    ]
    return [*align(rows), *notes]


@click.command()
@click.option("--kills", default=0, metavar="N", help="Processes to kill.")
@click.option("--flips", default=0, metavar="N", help="Files to damage.")
@click.option("--crafted", default=0, metavar="N", help="Files to write on purpose.")
@click.option("--full-disks", default=0, metavar="N", help="Commands to refuse the room they need.")
@click.option("--readers", default=0, metavar="N", help="Rounds of a writer and its readers.")
@click.option("--hostile", default=0, metavar="N", help="Folders of hostile pictures.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=int, metavar="N", help="Run case N alone.")
@click.option(
    "--scratch",
    default="/dev/shm" if Path("/dev/shm").is_dir() else None,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where to work. Nothing here loses power, so files in memory are torn as those on a disk are, but quicker.",
)
@click.option("--output", type=click.Path(path_type=Path))
def main(seed: int, only: int | None, scratch: Path | None, output: Path | None, **asked: int) -> None:
    """Torture, print, and write."""
    tallies = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes what was written, and unmounts the small disk
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder) / "state")
        os.environ["TMPDIR"] = tempfile.tempdir = folder  # for the tracebacks of bugs
        arena = Arena(Path(folder), seed, only)
        for kind, torture in KINDS.items():
            count = asked[kind.replace(" ", "_")]
            if count:
                click.echo(f"{kind}: {count}")
                tallies.append(Tally(kind, seed))
                torture(arena, tallies[-1], count)
    click.echo("\n".join(table(tallies)))
    if output:
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "seed": seed,
            "asked": asked,
            "kinds": {tally.kind: dict(tally.counts) for tally in tallies},
            "faults": {fault: sum(f["fault"] == fault for t in tallies for f in t.findings) for fault in FAULTS},
            "findings": [finding for tally in tallies for finding in tally.findings],
        }
        write_json(output, result, indent=1)
    sys.exit(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    main()
