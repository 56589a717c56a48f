"""`cir remove`"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import index_argument, json_option
from cir.cli.stdin import STDIN
from cir.errors import DataError
from cir.images.names import shown

if TYPE_CHECKING:
    from cir.indexer.writing.remove import RemoveReport


@click.command()
@index_argument
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--ids",
    "file",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Text file with one id per line; - for standard input.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Images that meet a condition on metadata, written as for `cir query`. May be repeated; all must be met.",
)
@click.option(
    "--missing", is_flag=True, help="Images whose photo is gone; those of a folder that is gone are left alone."
)
@click.option("--gone-folders", is_flag=True, help="As --missing, and also images of which the whole folder is gone.")
@click.option("--dry-run", is_flag=True, help="List what would be removed and write nothing.")
@json_option
def remove(
    index: Path,
    ids: tuple[str, ...],
    file: Path | None,
    where: tuple[str, ...],
    missing: bool,
    gone_folders: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove images from INDEX; their photos stay where they are.

    Ids, conditions and --missing together remove the images that all of them name. An id that is not in INDEX is an
    error, and nothing is removed. `cir rollback` brings the images back; `cir compact` gives their disk space back.
    The ids of what was removed are printed, one per line; the count goes to stderr.

    \b
    Example:
      cir remove my.index images/00007.jpg
      cir remove my.index --where year=2011 --dry-run
      cir remove my.index --missing
    """
    from cir.indexer.writing.remove import remove as run

    named = [*ids, *(_read_ids(file) if file else ())] if ids or file else None
    report = run(index, ids=named, where=where, missing=missing, gone_folders=gone_folders, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    for image_id in report.removed:
        click.echo(shown(image_id))
    for line in _summary(report):
        click.echo(f"cir: {line}", err=True)


def _read_ids(file: Path) -> Sequence[str]:
    """The lines of a file, which need not be UTF-8, as file names need not be. Raises DataError."""
    try:
        data = sys.stdin.buffer.read() if str(file) == STDIN else file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; name a text file with one id per line") from None
    return [line for line in data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines() if line]


def _summary(report: RemoveReport) -> list[str]:
    count = len(report.removed)
    would = "would be " if report.dry_run else ""
    lines = [f"{report.path}: {count:,} image{'s' * (count != 1)} {would}removed; {report.images:,} left"]
    if count and not report.dry_run:
        lines.append(f"`cir rollback {report.path}` brings {'it' if count == 1 else 'them'} back")
    for root, left in report.left.items():
        lines.append(
            f"{left:,} images of {shown(root)} were left alone: it is not there, and may be on a disk that is not "
            "mounted; --gone-folders removes them too"
        )
    return lines
