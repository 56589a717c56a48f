"""`cir compact`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import index_argument, json_option
from cir.given import MOST_KEPT

if TYPE_CHECKING:
    from cir.indexer.writing.compact import CompactReport


@click.command()
@index_argument
@click.option(
    "--keep",
    type=click.IntRange(0, MOST_KEPT),
    metavar="N",
    help="Keep N earlier generations for `cir rollback` from now on, and remove the files of others at once. 0 "
    "removes all that are there, those around a change of model included.  [default: as before]",
)
@json_option
def compact(index: Path, keep: int | None, as_json: bool) -> None:
    """Join the segments of INDEX and drop deleted rows.

    Appending merges small segments by itself, so this is for an index of which much was deleted. There is one segment
    for each model whose vectors are in the index. Earlier generations keep their files, for `cir rollback`; the output
    says how many bytes they hold.

    \b
    Example:
      cir compact my.index
      cir compact my.index --keep 0
    """
    from cir.indexer.writing.compact import compact as run

    report = run(index, keep=keep)
    click.echo(json.dumps(report.to_json()) if as_json else _summary(report))


def _summary(report: CompactReport) -> str:
    size = f"{report.images:,} images, {report.bytes / 1e6:,.1f} MB"
    if report.generation == report.generation_before:
        lines = [f"{report.path}: nothing to do; {size}"]
    elif report.segments == report.segments_before and not report.dropped:
        lines = [f"{report.path}: no segments to join and no rows to drop; {size}"]
    else:
        lines = [_became(report, size)]
    if report.earlier:
        advice = f"; `cir compact {report.path} --keep 0` removes them" if report.earlier_bytes else ""
        hold = "hold" if report.earlier > 1 else "holds"
        held = f"{_counted(report.earlier, 'earlier generation')} {hold} {report.earlier_bytes / 1e6:,.1f} MB more"
        lines.append(held + advice)
    return "\n".join(lines)


def _became(report: CompactReport, size: str) -> str:
    return (
        f"{report.path}: {_counted(report.segments_before, 'segment')} became {report.segments:,}, "
        f"{_counted(report.dropped, 'deleted row')} dropped; {size} instead of {report.bytes_before / 1e6:,.1f}"
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
