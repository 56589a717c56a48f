"""`cir models`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cir.cli.options import json_option, model_dir_option, quiet_libraries
from cir.errors import WeightsError


@click.command()
@model_dir_option
@json_option
def models(model_dirs: tuple[Path, ...], as_json: bool) -> None:
    """List the models that can be named.

    These are the models in the package, under --model-dir, and under the folders in CIR_MODELS. A broken one is
    mentioned on stderr.

    \b
    Example:
      cir models
    """
    quiet_libraries()
    from cir.models import ALIASES, PACKAGED, available
    from cir.models.kinds import files_of, read_card

    whole = []
    for directory in available(model_dirs):
        try:
            whole.append((directory, read_card(directory), files_of(directory)))
        except WeightsError as error:
            click.echo(f"cir: left out: {error}", err=True)
    if as_json:
        click.echo(json.dumps([{"path": str(directory), **card.to_json()} for directory, card, _ in whole]))
        return
    aliases = {name: alias for alias, name in ALIASES.items()}
    for directory, card, files in whole:
        packaged = directory.parent == PACKAGED
        alias = f" (alias {aliases[card.name]})" if packaged and card.name in aliases else ""
        outputs = [f"{card.tokens} tokens"] * bool(card.tokens) + ["one vector"] * card.vector
        size = sum(path.stat().st_size for path in files)
        click.echo(
            f"{card.name}{alias}  {' and '.join(outputs)} of {card.dims} dims, {size / 1e6:.0f} MB  {card.digest}"
        )
