"""Does an index survive? Kills, refused writes, damaged files, full disks, readers beside a writer, hostile pictures.

    python bench/torture.py --refusals 100000 --output bench/results/DATE-torture-refusals.json
    python bench/torture.py --kills 260 --flips 1100 --truncations 900 --harms 200 \\
        --output bench/results/DATE-torture-damage.json
    python bench/torture.py --readers 1 --seconds 600 --output bench/results/DATE-torture-readers.json
    python bench/torture.py --crafted 200 --full-disks 60 --hostile 1 --output bench/results/DATE-torture-others.json

Each number is that of cases; 0, the default, leaves a kind out. The same seed gives the same cases. The first two lines
take a quarter of an hour each, and may run beside each other; the third wants all cores.

Everything runs with a fake model, in processes of its own, and what an index must answer is computed with numpy from
the pictures. `--only N` runs case N of the kinds that are asked for; give the same numbers besides. Full disks are
small tmpfs mounts, which need root; without it files are limited in size instead. Refusals need seccomp, as Linux has.

Prints each finding and a table of counts. Exits with 1 if there was any finding.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from tortures import crafted, damage, full_disks, hostile, kills, readers, refusals
from tortures.cases import FAULTS, Arena, Tally

from cir.files import write_json
from cir.tables import align

KINDS = {
    "kills": kills.torture,
    "refusals": refusals.torture,
    "flips": damage.flips,
    "truncations": damage.truncations,
    "harms": damage.harms,
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
@click.option("--refusals", default=0, metavar="N", help="System calls to refuse; each one if N is large.")
@click.option("--flips", default=0, metavar="N", help="Bits to flip, each in a whole index.")
@click.option("--truncations", default=0, metavar="N", help="Files to truncate.")
@click.option("--harms", default=0, metavar="N", help="Files to overwrite, lengthen, empty or remove.")
@click.option("--crafted", default=0, metavar="N", help="Files to write on purpose.")
@click.option("--full-disks", default=0, metavar="N", help="Commands to refuse the room they need.")
@click.option("--readers", default=0, metavar="N", help="Rounds of a writer and its readers.")
@click.option("--seconds", default=0, help="How long each round of readers goes on, with 8 of them; 0 for a moment.")
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
def main(seed: int, seconds: int, only: int | None, scratch: Path | None, output: Path | None, **asked: int) -> None:
    """Torture, print, and write."""
    tallies = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes what was written, and unmounts the small disk
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder) / "state")
        os.environ["TMPDIR"] = tempfile.tempdir = folder  # for the tracebacks of bugs
        arena = Arena(Path(folder), seed, only, seconds)
        for kind, torture in KINDS.items():
            count = asked[kind.replace(" ", "_")]
            if count:
                click.echo(f"{kind}: {count}")
                tallies.append(Tally(kind, seed))
                began = time.monotonic()
                torture(arena, tallies[-1], count)
                tallies[-1].seconds = time.monotonic() - began
    click.echo("\n".join(table(tallies)))
    if output:
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "seed": seed,
            "seconds": {tally.kind: round(tally.seconds) for tally in tallies},
            "asked": asked,
            "kinds": {tally.kind: dict(tally.counts) for tally in tallies},
            "faults": {fault: sum(f["fault"] == fault for t in tallies for f in t.findings) for fault in FAULTS},
            "findings": [finding for tally in tallies for finding in tally.findings],
        }
        write_json(output, result, indent=1)
    sys.exit(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    main()
