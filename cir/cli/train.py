"""`cir train`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cir.cli.options import device_option, model_dir_option, quiet_libraries
from cir.errors import DataError


@click.command()
@click.argument("config")
@click.option(
    "--data-root", type=click.Path(path_type=Path), required=True, help="Folder of the data set that CONFIG names."
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Feature maps, checkpoint and log; the same folder continues a training.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model's directory.")
@click.option("--start", type=click.Path(file_okay=False, path_type=Path), help="Start from this model's weights.")
@click.option(
    "--replaces",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="MODEL|INDEX",
    help="Train a query head for the vectors that this model, or the models of this index, have stored; for "
    "configurations of the task attributes. May be repeated.",
)
@click.option("--heads-only", is_flag=True, help="Train only those heads, on the finished model that --start names.")
@click.option(
    "--allow-unreadable", is_flag=True, help="fashioniq, cirr: leave out missing and broken pictures, and count them."
)
@device_option
@model_dir_option
def train(
    config: str,
    data_root: Path,
    work: Path,
    out: Path,
    start: Path | None,
    replaces: tuple[Path, ...],
    heads_only: bool,
    allow_unreadable: bool,
    device: str,
    model_dirs: tuple[Path, ...],
) -> None:
    """Train a model by CONFIG.

    CONFIG is a TOML file, or the name of a shipped one: small, small-2, small-lite-trunk, small-lite, fashioniq or cirr.

    The best checkpoint on a held-out part of the training data is written to --out. A training that was killed
    continues from its last checkpoint when the same command is given again.

    \b
    Example:
      cir train small-2 --data-root fashion-products --work work --out my-small
      cir train small --start my-small --data-root fashion-products --work next-work --out next --replaces my.index
      cir train cirr --data-root CIRR --start blip2 --work work --out sprc-cirr
      accelerate launch -m cir train cirr --data-root CIRR --start blip2 --work work --out sprc-cirr
    """
    quiet_libraries()
    from tqdm import tqdm

    from cir import devices
    from cir.models.weights import read_card
    from cir.training import loop
    from cir.training.config import facts, make_task, name_apart, read_config

    settings = read_config(config)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{work}: cannot be made: {error.strerror or error}; name another --work") from None
    older, taken = _older(replaces, model_dirs)
    name = name_apart(settings.name, taken)
    if name != settings.name:
        click.echo(f"cir: {settings.name} is a model that it replaces; this one is called {name}", err=True)
        settings = replace(settings, name=name)
    told = facts(settings, start, older, heads_only=heads_only)
    loop.check_work(work, told)
    task, recipe = make_task(
        settings,
        data_root,
        work,
        start=start,
        device=devices.choose(device),
        allow_unreadable=allow_unreadable,
        replaces=older,
        heads_only=heads_only,
    )
    first = devices.process()[0] == 0  # of the processes of a launch, one speaks
    if first and task.left_out:
        click.echo(f"cir: {task.left_out:,} pictures are missing or broken; their triplets are left out", err=True)
    with tqdm(total=recipe.steps, unit="step", mininterval=5, disable=not first) as bar:

        def report(step: int, figures: dict[str, float]) -> None:
            if not first:
                return
            shown: dict[str, Any] = {name: f"{v:.3f}" for name, v in figures.items() if not name.startswith("sum ")}
            if "headline" in figures:
                told = ", ".join(f"{name} {value}" for name, value in shown.items())
                bar.write(f"step {step + 1}: {told}", file=sys.stderr)  # stdout is for what comes of it
                return
            bar.update(step + 1 - bar.n)
            bar.set_postfix(shown, refresh=False)

        loop.train(task, recipe, work=work, out=out, facts=told, report=report)
    if first:
        card = read_card(out)
        click.echo(f"{out}: {card.name}, its best at step {card.training['step']} of {recipe.steps}")


def _older(replaces: Sequence[Path], model_dirs: Sequence[Path]) -> tuple[list[Path], set[str]]:
    """Directories of the models given, and of those whose vectors the indexes given hold; and every name they use."""
    from cir import models
    from cir.indexer.storage.folder import IndexFolder, is_index
    from cir.indexer.storage.manifest import read_manifest
    from cir.models.weights import read_card

    directories: list[Path] = []
    names: set[str] = set()
    for path in replaces:
        if not is_index(path):
            directories.append(models.find(path, model_dirs))
            names.add(read_card(directories[-1]).name)
            continue
        manifest = read_manifest(IndexFolder(path))
        cards = [manifest.models[digest] for digest in dict.fromkeys(entry.model for entry in manifest.segments)]
        directories += [models.find_for(card, manifest.model_paths.get(card.digest), model_dirs) for card in cards]
        names.update(card.name for card in manifest.models.values())
    return directories, names
