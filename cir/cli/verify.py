"""`cir verify`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import index_argument, model_dir_option, quiet_libraries
from cir.errors import DataError, IndexFormatError, WeightsError

if TYPE_CHECKING:
    from cir.indexer.storage.folder import IndexFolder
    from cir.types import ModelCard

DAMAGED = 1  # exit code


@click.command()
@index_argument
@model_dir_option
@click.pass_context
def verify(context: click.Context, index: Path, model_dirs: tuple[Path, ...]) -> None:
    """Check every digest, count and norm of INDEX.

    All generations are checked, with what was derived from them, the judged queries, and the models that made the
    vectors. Each problem is a line, and the exit code is 1. What is not looked at is said on stderr.

    \b
    Example:
      cir verify my.index
    """
    quiet_libraries()
    from cir.indexer.reading.verify import NOT_CHECKED, unnamed
    from cir.indexer.reading.verify import verify as check
    from cir.indexer.storage.generations import read_manifest
    from cir.indexer.storage.mirror import folder_at

    problems, images = check(index), ""
    folder = folder_at(index)
    left_out = [name for name in NOT_CHECKED if (folder.root / name).exists()]
    try:
        manifest = read_manifest(folder)
    except IndexFormatError:
        pass  # already a problem
    else:
        images = f"{manifest.rows:,} images, {_questions(folder)} judged queries, "
        damaged, absent = _check_models(list(manifest.models.values()), model_dirs)
        problems += damaged
        left_out += unnamed(index) + absent
    for problem in problems:
        click.echo(problem)
    if left_out:
        click.echo(f"cir: not checked: {', '.join(left_out)}", err=True)
    if problems:
        click.echo(f"{index}: {images}{len(problems):,} {'problems' if len(problems) > 1 else 'problem'}")
        context.exit(DAMAGED)
    click.echo(f"{index}: {images}no problems")


def _questions(folder: IndexFolder) -> str:
    """How many judged queries are stored; their file may have been removed, which nothing else would tell."""
    from cir.indexer.storage.questions import read_questions

    try:
        return f"{len(read_questions(folder).queries):,}"
    except (DataError, IndexFormatError):
        return "unreadable"


def _check_models(cards: Sequence[ModelCard], model_dirs: Sequence[Path]) -> tuple[list[str], list[str]]:
    """What is wrong with the files of models, and which models are not here."""
    from cir import models
    from cir.models.kinds import check

    damaged: list[str] = []
    absent: list[str] = []
    for card in cards:
        if card.only_named:
            continue  # there are no files
        try:
            damaged += check(models.find_for(card, model_dirs))
        except WeightsError:
            absent.append(f"model {card.name} ({card.digest}), which is not here")
    return damaged, absent
