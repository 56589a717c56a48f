"""`cir data check`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.benchmarks import OFFICIAL, TRAIN_SPLITS
from cir.cli.options import json_option

if TYPE_CHECKING:
    from cir.data.check import DataCheck

SHOWN = 5


@click.group()
def data() -> None:
    """Check the files of the official data sets.

    \b
    Example:
      cir data check cirr-val --data-root cirr_dataset
    """


@data.command()
@click.argument("benchmark", type=click.Choice([*OFFICIAL, *TRAIN_SPLITS]))
@click.option("--data-root", required=True, type=click.Path(path_type=Path), help="The data set's own folder.")
@json_option
@click.pass_context
def check(context: click.Context, benchmark: str, data_root: Path, as_json: bool) -> None:
    """List the missing files of a data set.

    Also says how to get them. Annotation files are compared by SHA-256 with those that our figures are on; pictures are
    looked for by name and not opened. Exit code 0 if the data is complete, else 1.

    \b
    Example:
      cir data check fashioniq-val --data-root fashionIQ_dataset
    """
    from cir.data.check import check_data

    checked = check_data(benchmark, data_root)
    click.echo(json.dumps(_as_json(benchmark, checked)) if as_json else _as_text(benchmark, data_root, checked))
    if not checked.complete:
        context.exit(1)


def _as_json(benchmark: str, checked: DataCheck) -> dict[str, object]:
    return {
        "benchmark": benchmark,
        "complete": checked.complete,
        "files": dict(checked.files),
        "images": checked.images,
        "missing": list(checked.missing),
        "ids": checked.ids,
        "problem": checked.problem,
        "urls": checked.manifest["urls"],
    }


def _as_text(benchmark: str, root: Path, checked: DataCheck) -> str:
    manifest = checked.manifest
    lines = [f"{benchmark}: {manifest['title']}, in {root}", f"  layout   {manifest['layout']}"]
    width = max(map(len, checked.files))
    lines += [f"  file     {file:{width}}  {state}" for file, state in checked.files.items()]
    if checked.problem:
        lines.append(f"  problem  {checked.problem}")
    else:
        lines.append(f"  images   {len(checked.missing):,} of {checked.images:,} missing")
        lines += [f"           {place} (.png or .jpg)" for place in checked.missing[:SHOWN]]
        if len(checked.missing) > SHOWN:
            lines.append(f"           ... and {len(checked.missing) - SHOWN:,} more; --json lists all")
    if checked.ids is False:
        lines.append("  gallery  not the official list of ids: figures are not comparable")
    if checked.complete:
        return "\n".join([*lines, "complete"])
    for what, urls in manifest["urls"].items():
        lines.append(f"get the {what} at {', '.join(urls)}")
    return "\n".join([*lines, f"licence: {manifest['licence']}"])
