"""`cir merge`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import PLACE, json_option
from cir.images.names import shown

if TYPE_CHECKING:
    from cir.indexer.writing.merge_indexes import MergeReport


@click.command()
@click.argument("indexes", nargs=-1, required=True, metavar="INDEX INDEX...", type=PLACE)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The new index directory.")
@json_option
def merge(indexes: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Make one index out of several that the same model serves.

    Nothing is encoded, and each INDEX stays as it is. An id that several hold is one image if its content is the same:
    the metadata of the first INDEX counts, and the others fill in what it lacks. One id with different contents is an
    error. Judged queries and marks are taken over; earlier generations are not.

    \b
    Example:
      cir merge summer.index winter.index -o year.index
    """
    from cir.indexer.writing.merge_indexes import merge as run

    report = run(indexes, output)
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    click.echo(_summary(report))
    for query in report.questions_left:
        click.echo(
            f"cir: judged query {shown(query)} was left out: an image that it names had another content", err=True
        )


def _summary(report: MergeReport) -> str:
    lines = [f"{report.path}: {report.images:,} images, {report.bytes / 1e6:,.1f} MB"]
    if report.twice:
        differing = f"; the metadata of {len(report.differing):,} differed, and the first index's counts"
        lines.append(
            f"{report.twice:,} were in several indexes, and are one each{differing if report.differing else ''}"
        )
    lines += [f"  {shown(image_id)}" for image_id in report.differing[:3]]
    if report.questions:
        lines.append(f"{report.questions:,} judged queries")
    if report.marks:
        lines.append(f"{report.marks:,} marks")
    return "\n".join(lines)
