"""`cir train`: trains a model by a configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import PLACE, device_option, model_dir_option, quiet_libraries

if TYPE_CHECKING:
    from cir.training.validation import Validation


@click.command()
@click.argument("config")
@click.option(
    "--data-root", type=click.Path(path_type=Path), required=True, help="Folder of the data set that CONFIG names."
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of features, checkpoint and log; the same folder continues a training.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory of the model.")
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    help="Folder of captions.csv, train.txt, val.txt and photos, for configurations with everyday photos.",
)
@click.option("--start", metavar="MODEL", help="Start from this model's weights: a folder, or a name.")
@click.option(
    "--replaces",
    multiple=True,
    type=PLACE,
    metavar="MODEL|INDEX",
    help="Train a query head for the vectors that this model, or the models of this index, have stored; only with "
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
    photos: Path | None,
    start: str | None,
    replaces: tuple[Path, ...],
    heads_only: bool,
    allow_unreadable: bool,
    device: str,
    model_dirs: tuple[Path, ...],
) -> None:
    """Train a model from a configuration.

    CONFIG is a TOML file or the name of a shipped configuration: small-backbone, small-backbone-longer, small,
    small-queries, small-heads, small-3, small-2, small-lite-backbone, small-lite, small-lite-asker, dual, combiner,
    fashioniq or cirr.

    The best checkpoint on a held-out part of the training data is written to --out. The same command continues a
    training that was killed from its last checkpoint.

    \b
    Example:
      cir train small-2 --data-root fashion-products --work work --out my-small
      cir train small-3 --start my-small --data-root fashion-products --work next-work --out next --replaces my.index
      cir train combiner --start openai/clip-vit-base-patch32 --data-root fashion-products --work work --out mine
      cir train cirr --data-root CIRR --start blip2 --work work --out sprc-cirr
      accelerate launch -m cir train cirr --data-root CIRR --start blip2 --work work --out sprc-cirr
    """
    quiet_libraries()
    from cir import devices, models
    from cir.files import make_folder
    from cir.models.kinds import read_card
    from cir.training import checkpoint, loop
    from cir.training.config import read_config
    from cir.training.tasks import facts, free_name, make_task

    settings = read_config(config)
    begin = models.find(start, model_dirs) if start else None
    make_folder(work)
    older, taken = _older(replaces, model_dirs)
    name = free_name(settings.name, taken)
    if name != settings.name:
        click.echo(f"cir: {settings.name} is a model that it replaces; the new model is called {name}", err=True)
        settings = replace(settings, name=name)
    record = facts(settings, begin, older, heads_only=heads_only)
    checkpoint.check_work(work, record)
    task, recipe = make_task(
        settings,
        data_root,
        work,
        start=begin,
        device=devices.choose(device),
        allow_unreadable=allow_unreadable,
        replaces=older,
        heads_only=heads_only,
        photos=photos,
    )
    first = devices.process()[0] == 0  # in a launch of several processes only the first prints
    if first and task.left_out:
        click.echo(f"cir: {task.left_out:,} pictures are missing or broken; their triplets are left out", err=True)
    with _Progress(recipe.steps, hidden=not first) as progress:
        loop.train(
            task,
            recipe,
            work=work,
            out=out,
            facts=record,
            on_step=progress.step,
            on_validation=progress.validation,
        )
    if first:
        card = read_card(out)
        record = card.training["heads"] if heads_only else card.training
        click.echo(f"{out}: {card.name}, its best at step {record['step']} of {recipe.steps}")


class _Progress:
    """A bar of steps with the loss terms, and a line per validation, on stderr."""

    def __init__(self, steps: int, *, hidden: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=steps, unit="step", mininterval=5, disable=hidden)
        self._hidden = hidden

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, step: int, terms: Mapping[str, float]) -> None:
        """Show the loss terms of a step."""
        self._bar.update(step + 1 - self._bar.n)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()}, refresh=False)

    def validation(self, step: int, validation: Validation) -> None:
        """Print the figures of a validation; stdout is left to the result."""
        if not self._hidden:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in validation.summary.items())
            self._bar.write(f"step {step + 1}: {figures}", file=sys.stderr)


def _older(replaces: Sequence[Path], model_dirs: Sequence[Path]) -> tuple[list[Path], set[str]]:
    """The models to be replaced, and all names in use.

    Args:
        replaces: names or directories of models, and indexes, which stand for the models of their segments.
        model_dirs: folders of models.

    Returns:
        Directories of the models, and the names of all models given or recorded in the indexes.
    """
    from cir import models
    from cir.indexer.storage.fetching import live_manifest
    from cir.models.kinds import read_card

    directories: list[Path] = []
    names: set[str] = set()
    for path in replaces:
        manifest = live_manifest(path)
        if manifest is None:
            directories.append(models.find(path, model_dirs))
            names.add(read_card(directories[-1]).name)
            continue
        stored = dict.fromkeys(entry.model for entry in manifest.segments)
        directories += [models.find_for(manifest.models[digest], model_dirs) for digest in stored]
        names.update(card.name for card in manifest.models.values())
    return directories, names
