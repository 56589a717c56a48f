"""`cir rollback`"""

from __future__ import annotations

from pathlib import Path

import click

from cir.cli.options import index_argument


@click.command()
@index_argument
@click.option("--to", type=int, metavar="N", help="Generation to restore.  [default: the previous one]")
def rollback(index: Path, to: int | None) -> None:
    """Restore an earlier generation of INDEX.

    Nothing is deleted: run it twice to go forward again. A backfill publishes one generation per part, so name the
    generation to go back to; `cir info` lists them. Images added since are not in an earlier generation.

    \b
    Example:
      cir rollback my.index
      cir rollback my.index --to 7
    """
    from cir.indexer.writing.history import rollback as restore

    before, now = restore(index, to)
    click.echo(
        f"{index}: generation {now.generation} restores generation {to or before.previous}: "
        f"{now.rows:,} images, served by {now.card.name}"
    )
    if now.rows < before.rows:
        adding = "cir build-index" if before.roots else "cir import"
        click.echo(f"{before.rows - now.rows:,} images added since are not in it; `{adding}` adds them")
