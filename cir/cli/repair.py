"""`cir repair`"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import index_argument, json_option, quiet_libraries

if TYPE_CHECKING:
    from cir.indexer.writing.repair import RepairReport

SHOWN = 10  # ids of lost images; lost.jsonl and --json list all


@click.command()
@index_argument
@click.option("--dry-run", is_flag=True, help="Only say what is damaged and what would be done.")
@json_option
def repair(index: Path, dry_run: bool, as_json: bool) -> int:
    """Make a damaged INDEX whole again, without what is lost.

    Every byte is read. What is derived is made again. A damaged segment is taken out: its images come back from the
    segments of earlier generations, where those hold the same content; the others are listed in quarantine/lost.jsonl,
    and `cir build-index` encodes them again, or `cir import` brings back vectors without photos. Where CURRENT or the
    live manifest is lost, the newest sound generation is restored. Damaged files are kept in quarantine/. Exits with 1
    where --dry-run finds damage.

    \b
    Example:
      cir repair my.index --dry-run
      cir repair my.index && cir build-index photos/ -o my.index
    """
    quiet_libraries()
    from cir.indexer.writing.repair import repair as mend

    report = mend(index, dry_run=dry_run)
    click.echo(json.dumps(report.to_json()) if as_json else "\n".join(_lines(report)))
    return int(report.dry_run and bool(report.problems))


def _lines(report: RepairReport) -> Iterator[str]:
    yield from report.problems
    if not report.problems:
        yield f"{report.path}: generation {report.generation}, {report.images:,} images, nothing to repair"
        return
    for segment in report.segments:
        back = f"{len(segment.restored):,} restored from older segments" if segment.restored else "none restored"
        yield f"segment {segment.segment}: {segment.images:,} images, {back}, {segment.lost:,} lost"
    lost = [image_id for segment in report.segments for image_id in segment.ids]
    if lost:
        more = f", and {report.lost - SHOWN:,} more" if report.lost > SHOWN else ""
        yield f"lost: {', '.join(lost[:SHOWN])}{more}"
    if report.forgotten:
        numbers = ", ".join(map(str, report.forgotten))
        yield f"no way back to generation {numbers}: its files are damaged"
    if report.aside:
        yield f"kept: {', '.join(report.aside)}"
    if report.remade:
        done = "would be removed, and made again if needed" if report.dry_run else "made again"
        yield f"{done}: {', '.join(report.remade)}"
    if report.removed:
        yield f"removed: {', '.join(report.removed)}"
    if report.dry_run:
        yield f"{report.path}: nothing was changed; {report.images:,} images of generation {report.base} would be live"
        return
    yield f"{report.path}: generation {report.generation}, {report.images:,} images of generation {report.base}"
    if report.imported:
        yield f"import what is lost again: cir import VECTORS -o {report.path}"
    if report.lost > report.imported:
        yield f"encode what is lost again: cir build-index IMAGES -o {report.path}"
