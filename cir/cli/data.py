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
    """The official data sets.

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
    """Say what of a benchmark's or train split's data is missing, and how to get it. Exit code 0 if nothing is, else 1.

    Annotation files are compared by SHA-256 with the ones our figures are on; pictures are looked for, not opened.

    \b
    Example:
      cir data check fashioniq-val --data-root fashionIQ_dataset
    """
    from cir.data.check import check_data

    found = check_data(benchmark, data_root)
    click.echo(json.dumps(_as_json(benchmark, found)) if as_json else _as_text(benchmark, data_root, found))
    if not found.complete:
        context.exit(1)


def _as_json(benchmark: str, found: DataCheck) -> dict[str, object]:
    return {
        "benchmark": benchmark,
        "complete": found.complete,
        "files": dict(found.files),
        "images": found.images,
        "missing": list(found.missing),
        "ids": found.ids,
        "problem": found.problem,
        "urls": found.manifest["urls"],
    }


def _as_text(benchmark: str, root: Path, found: DataCheck) -> str:
    manifest = found.manifest
    lines = [f"{benchmark}: {manifest['title']}, in {root}", f"  layout   {manifest['layout']}"]
    width = max(map(len, found.files))
    lines += [f"  file     {file:{width}}  {state}" for file, state in found.files.items()]
    if found.problem:
        lines.append(f"  problem  {found.problem}")
    else:
        lines.append(f"  images   {len(found.missing):,} of {found.images:,} missing")
        lines += [f"           {place} (.png or .jpg)" for place in found.missing[:SHOWN]]
        if len(found.missing) > SHOWN:
            lines.append(f"           ... and {len(found.missing) - SHOWN:,} more; --json lists all")
    if found.ids is False:
        lines.append("  gallery  not the official list of ids: figures are not comparable")
    if found.complete:
        return "\n".join([*lines, "complete"])
    for what, urls in manifest["urls"].items():
        lines.append(f"get the {what} at {', '.join(urls)}")
    return "\n".join([*lines, f"licence: {manifest['licence']}"])
