"""`cir export`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cir.cli.options import index_argument, json_option


@click.command("export")
@index_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A .npy file, a .parquet file, or a folder for vectors.npy, ids.txt and metadata.csv.",
)
@click.option("--ids", type=click.Path(dir_okay=False, path_type=Path), help="With .npy: file for the ids.")
@click.option("--metadata", type=click.Path(dir_okay=False, path_type=Path), help="With .npy: CSV for the metadata.")
@click.option("--space", metavar="ID", help="Whose vectors, if INDEX holds those of several models; see `cir info`.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@json_option
def export_vectors(
    index: Path,
    output: Path,
    ids: Path | None,
    metadata: Path | None,
    space: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the vectors of INDEX for other programs.

    The vectors are written as they are stored, by ascending id. `cir import` reads them again, bit by bit.

    \b
    Example:
      cir export my.index -o vectors.npy --ids ids.txt --metadata table.csv
      cir export my.index -o my.parquet
    """
    from cir.indexer.reading.export_vectors import export_vectors as run

    report = run(index, output, ids=ids, metadata=metadata, space=space, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    click.echo(
        f"{', '.join(map(str, report.files))}: {report.vectors:,} vectors of {report.model}, {report.dims} dims, "
        f"{report.precision}"
    )
    if report.id_column != "id":
        click.echo(f"ids are in the column {report.id_column}, because a metadata column is called id")
    if report.left_out:
        click.echo(f"{report.left_out:,} images of other spaces are not in it")
    if ids is not None and metadata is None and report.columns:
        click.echo(f"metadata is not in it ({', '.join(report.columns)}); --metadata writes it")
