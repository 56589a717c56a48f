"""`cir models`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cir.cli.options import json_option, model_dir_option, quiet_libraries


@click.command()
@model_dir_option
@json_option
def models(model_dirs: tuple[Path, ...], as_json: bool) -> None:
    """List the models that can be named.

    These are the models in the package, under --model-dir, and under the folders in CIR_MODELS.

    \b
    Example:
      cir models
    """
    quiet_libraries()
    from cir.models import ALIASES, available
    from cir.models.folder import files_of, read_card

    cards = [(directory, read_card(directory)) for directory in available(model_dirs)]
    if as_json:
        click.echo(json.dumps([{"path": str(directory), **card.to_json()} for directory, card in cards]))
        return
    aliases = {name: alias for alias, name in ALIASES.items()}
    for directory, card in cards:
        alias = f" (alias {aliases[card.name]})" if card.name in aliases else ""
        outputs = [f"{card.tokens} tokens"] * bool(card.tokens) + ["one vector"] * card.vector
        size = sum(path.stat().st_size for path in files_of(directory))
        click.echo(
            f"{card.name}{alias}  {' and '.join(outputs)} of {card.dims} dims, {size / 1e6:.0f} MB  {card.digest}"
        )
