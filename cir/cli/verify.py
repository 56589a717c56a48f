"""`cir verify`"""

from __future__ import annotations

from pathlib import Path

import click

from cir.cli.options import index_argument
from cir.errors import CorruptIndexError


@click.command()
@index_argument
def verify(index: Path) -> None:
    """Check every digest, count and norm of INDEX.

    \b
    Example:
      cir verify my.index
    """
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.reading.verify import verify as check

    problems = check(index)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise CorruptIndexError(f"{problems[0]}{more}; restore it from a copy, or build the index again")
    click.echo(f"{index}: {len(Gallery.open(index)):,} images, no problems")
